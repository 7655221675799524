"""transformers' own Qwen3-Next, imported when a test asks for it: that takes seconds."""

from types import ModuleType


def modeling() -> ModuleType:
    from transformers.models.qwen3_next import modeling_qwen3_next

    return modeling_qwen3_next
