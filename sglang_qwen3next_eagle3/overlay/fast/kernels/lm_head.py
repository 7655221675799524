"""The logits of every row of a pass, and the largest of each.

    x [T, D] bf16, weight [V, D] bf16 -> logits [T, V] bf16, as stock's torch.matmul gives them
    logits [T, V] -> the index of the largest [T] int64, the lowest among equals

cuBLAS picks other kernels for other T, which alone would let a verify differ from the decode steps
it stands for. Here a row's logits are the same bits whatever T is.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import dependent_launch, launch_options
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import skinny_gemm

SPLITS = 32
BLOCK = 1024


def lm_head(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] bf16 of x [T, D] bf16, T up to 32, for weight [V, D] bf16."""
    return skinny_gemm(x, weight)[0]


@triton.jit
def _largest_of_part(logits, values, indices, V, PART, BLOCK: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, part = tl.program_id(0), tl.program_id(1)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    place = tl.full([BLOCK], 2147483647, tl.int32)
    for start in range(part * PART, tl.minimum((part + 1) * PART, V), BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = (at < V) & (at < (part + 1) * PART)
        value = tl.load(logits + row.to(tl.int64) * V + at, mask=inside, other=float("-inf"))
        value = value.to(tl.float32)
        value = tl.where(value != value, float("inf"), value)
        # A lane meets its indices in rising order, so that the first of equals stays.
        better = inside & ((value > best) | (place == 2147483647))
        best = tl.where(better, value, best)
        place = tl.where(better, at, place)
    top = tl.max(best, 0)
    first = tl.min(tl.where(best == top, place, 2147483647), 0)
    tl.store(values + row * tl.num_programs(1) + part, top)
    tl.store(indices + row * tl.num_programs(1) + part, first)


@triton.jit
def _largest_of_parts(values, indices, out, SPLITS: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = tl.program_id(0) * SPLITS + tl.arange(0, SPLITS)
    value, place = tl.load(values + at), tl.load(indices + at)
    top = tl.max(value, 0)
    first = tl.min(tl.where(value == top, place, 2147483647), 0)
    tl.store(out + tl.program_id(0), first.to(tl.int64))


def argmax_rows(logits: torch.Tensor) -> torch.Tensor:
    """Index [T] int64 of the largest logit of each row of [T, V], the lowest among equals.

    A NaN counts as infinity: torch.argmax would choose it as well.
    """
    rows, vocabulary = logits.shape
    values = torch.empty(rows, SPLITS, dtype=torch.float32, device=logits.device)
    indices = torch.empty(rows, SPLITS, dtype=torch.int32, device=logits.device)
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    options = launch_options()
    part = triton.cdiv(triton.cdiv(vocabulary, SPLITS), BLOCK) * BLOCK
    _largest_of_part[(rows, SPLITS)](
        logits,
        values,
        indices,
        vocabulary,
        part,
        BLOCK=BLOCK,
        PDL=dependent_launch(),
        num_warps=4,
        **options,
    )
    _largest_of_parts[(rows,)](
        values, indices, out, SPLITS=SPLITS, PDL=dependent_launch(), num_warps=1, **options
    )
    return out
