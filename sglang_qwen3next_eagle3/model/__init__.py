"""What the target is: its config, its layers' streams, its chat format, and where it is kept."""

__all__ = ["aux_layers", "chat_format", "hub", "safetensors_header", "target"]
