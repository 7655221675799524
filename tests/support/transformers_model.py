"""transformers' own Qwen3-Next, imported when a test asks for it: that takes seconds."""

import importlib
from types import ModuleType


def modeling() -> ModuleType:
    return importlib.import_module("transformers.models.qwen3_next.modeling_qwen3_next")
