"""What the target is: its config, its layers' streams, its embedding and lm_head, its chat format,
and where it is kept."""

__all__ = [
    "aux_layers", "chat_format", "embeddings", "hub", "published", "safetensors_header", "shards",
    "target",
]  # fmt: skip
