"""A Panacea adapter as plain LoRA adapters, which load where this package is not installed, and back."""

from .gguf import export_gguf
from .lora import export_lora, export_lora_basis, export_lora_grid
from .stacking import stack_basis, stack_loras

__all__ = ["export_gguf", "export_lora", "export_lora_basis", "export_lora_grid", "stack_basis", "stack_loras"]
