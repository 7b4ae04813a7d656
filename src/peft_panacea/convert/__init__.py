"""A Panacea adapter as plain LoRA adapters, which load where this package is not installed."""

from .gguf import export_gguf
from .lora import export_lora, export_lora_basis, export_lora_grid

__all__ = ["export_gguf", "export_lora", "export_lora_basis", "export_lora_grid"]
