"""What block-FP8 layers of stock's compute, without a kernel that would have to be compiled for it.

Stock's own product of FP8 is DeepGEMM by default, which compiles with nvcc for every shape and
for some numbers of rows: the more a check compares, the longer it would take, 6 to 20 s each.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.fast.conditions import BLOCK
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import reference_quantize

METHOD = "w8a8_block_fp8_linear"
"""The attribute of SGLang's `Fp8LinearMethod` that holds the product of a layer."""
_ROWS = 4096
"""Rows of a weight that are multiplied at a time, which bounds what it needs of memory."""


@contextmanager
def products_of_torch(model: torch.nn.Module) -> Iterator[None]:
    """Let the layers of a model that have DeepGEMM multiply by torch instead: the same quantized
    rows by the same weights and scales, added up in fp32. All others are left as they are."""
    found: dict[int, tuple[Any, Callable[..., torch.Tensor]]] = {}
    for module in deep_gemm_layers(model):
        found[id(module.quant_method)] = module.quant_method, getattr(module.quant_method, METHOD)
    try:
        for method, linear in found.values():
            setattr(method, METHOD, partial(_linear, linear))
        yield
    finally:
        for method, linear in found.values():
            setattr(method, METHOD, linear)


def deep_gemm_layers(model: torch.nn.Module) -> Iterator[Any]:
    """The linear layers of a model whose product is DeepGEMM's."""
    for module in model.modules():
        linear = getattr(getattr(module, "quant_method", None), METHOD, None)
        if "deepgemm" in getattr(linear, "__name__", ""):
            yield module


def _linear(
    stock: Callable[..., torch.Tensor],
    input: torch.Tensor,
    weight: torch.Tensor,
    block_size: list[int],
    weight_scale: torch.Tensor,
    input_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    **others: Any,
) -> torch.Tensor:
    """As stock's function, which also serves what is laid out otherwise."""
    blocks = [size // BLOCK for size in weight.shape]
    known = (
        list(block_size) == [BLOCK, BLOCK]
        and input.dtype == torch.bfloat16
        and weight.dtype == torch.float8_e4m3fn
        and weight_scale.dtype == torch.float32
        and list(weight_scale.shape) == blocks
        and all(size % BLOCK == 0 for size in weight.shape)
        and not others
    )
    if not known or input_scale is not None:
        return stock(
            input=input, weight=weight, block_size=block_size, weight_scale=weight_scale,
            input_scale=input_scale, bias=bias, **others,
        )  # fmt: skip
    codes, scales = reference_quantize(input.view(-1, input.shape[-1]))
    rows = product(codes, scales, weight, weight_scale)
    if bias is not None:
        rows += bias
    return rows.view(*input.shape[:-1], weight.shape[0])


def product(
    codes: torch.Tensor, scales: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor
) -> torch.Tensor:
    """e4m3 [T, K] with fp32 [T, K / 128], and e4m3 [N, K] with fp32 [N / 128, K / 128] -> the
    product, bf16 [T, N]."""
    groups = codes.float().view(*scales.shape, BLOCK)
    rows = (groups * scales.unsqueeze(-1)).flatten(-2)
    parts = []
    for first in range(0, weight.shape[0], _ROWS):
        part = weight[first : first + _ROWS].float()
        blocks = part.view(-1, BLOCK, weight_scale.shape[1], BLOCK)
        of = weight_scale[first // BLOCK : (first + part.shape[0]) // BLOCK]
        blocks *= of[:, None, :, None]
        parts.append((rows @ part.T).to(torch.bfloat16))
    return torch.cat(parts, -1)
