"""Servers that load plain LoRA adapters serve a Panacea adapter at any preference."""
