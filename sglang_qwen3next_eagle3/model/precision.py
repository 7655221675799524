"""What a checkpoint's weights are stored in, which decides the kernels that serve it."""

from collections.abc import Mapping
from typing import Any

from sglang_qwen3next_eagle3.model import hub, published
from sglang_qwen3next_eagle3.model.target import read_config

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
UNQUANTIZED = frozenset(_DTYPES.values())
NAMES = ("quantization_config", "dtype", "torch_dtype")
"""What `of_config` asks a config for."""


def of_config(config: Mapping[str, Any]) -> str:
    """`fp8`, or another method that the weights are quantized by, under its name; else the dtype:
    `bf16` (also where none is named), `fp16`, `fp32`."""
    quantization = config.get("quantization_config")
    if isinstance(quantization, Mapping) and quantization:
        return str(quantization.get("quant_method") or "quantized")
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return _DTYPES.get(dtype.removeprefix("torch."), dtype)


def of_checkpoint(name: str) -> str:
    """Of a target by its folder or hub name; nothing is downloaded.

    By its `config.json`, or by what this package knows of a published one. Of any other repository
    only the name is there, and says FP8 or does not.

    Raises:
        UserError: a folder that is not there, or whose config cannot be read.
    """
    folder = hub.local_folder(name)
    config = published.config(name) if folder is None else read_config(folder)
    if config is None:
        return "fp8" if "fp8" in name.lower() else "bf16"
    return of_config(config)
