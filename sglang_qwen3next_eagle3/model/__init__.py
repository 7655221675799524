"""What the target is, without SGLang.

target              layer kinds and sizes, from its config.json
published           the configs of the published checkpoints, for where these are not
hub                 a checkpoint by path, by hub name, or as `demo`
precision           what its weights are stored in
shards              whether its files are all there and whole
safetensors_header  what a file holds, read without its tensors
rope                how long a context its rotary positions allow
aux_layers          streams of the residual: how they are spelled, and what a name means
embeddings          its embedding and lm_head
chat_format         its tokenizer and chat template, and conversations as data sets write them
"""

__all__ = [
    "aux_layers",
    "chat_format",
    "embeddings",
    "hub",
    "precision",
    "published",
    "rope",
    "safetensors_header",
    "shards",
    "target",
]
