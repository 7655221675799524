"""Residual addition, gemma RMSNorm and quantization in one launch: what opens every layer.

    hidden [T, D] bf16, residual [T, D] bf16, weight [D] bf16
        -> residual + hidden [T, D] bf16, normed [T, D] bf16, e4m3 [T, D] with scales [T, D / 128]

One program a row. Stock's rounding points: the sum is normalized in fp32 before it is rounded for
the residual stream (gemma_fused_add_rmsnorm), the normed row is rounded to bf16, and the codes are
of the rounded row.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import (
    GROUP,
    quantize_groups,
    reference_quantize,
)

WARPS = 8


class Normed(NamedTuple):
    """A normed row and the stream it came from.

    residual: [T, D] bf16, the stream with this layer's input added; never the caller's tensor.
    normed: [T, D] bf16. codes: [T, D] e4m3 and scales: [T, D / 128] fp32, or None and None.
    """

    residual: torch.Tensor
    normed: torch.Tensor
    codes: torch.Tensor | None
    scales: torch.Tensor | None


@triton.jit
def norm_and_store(
    x,
    gain,
    along,
    row,
    column,
    inside,
    residual_out,
    normed_out,
    codes_out,
    scales_out,
    gated_out,
    eps,
    D: tl.constexpr,
    GROUPS: tl.constexpr,
    QUANTIZE: tl.constexpr,
    GATE: tl.constexpr,
):
    """A row x [GROUPS, 128] in fp32, with zeros where it is not inside, as `Normed` has it."""
    at = row * D + column
    tl.store(residual_out + at, to_bfloat16(x), mask=inside)
    mean = tl.sum(tl.sum(x * x, 1), 0) / D
    normed = to_bfloat16(x * tl.rsqrt(mean + eps) * gain)
    tl.store(normed_out + at, normed, mask=inside)
    if GATE:
        chance = tl.sum(tl.sum(along * normed.to(tl.float32), 1), 0)
        tl.store(gated_out + row, to_bfloat16(chance))
    if QUANTIZE:
        codes, scales = quantize_groups(normed.to(tl.float32))
        tl.store(codes_out + at, codes)
        tl.store(scales_out + row * GROUPS + tl.arange(0, GROUPS), scales)


@triton.jit
def _add_norm_quantize(
    hidden,
    residual,
    weight,
    residual_out,
    normed_out,
    codes_out,
    scales_out,
    gate,
    gated_out,
    eps,
    D: tl.constexpr,
    GROUPS: tl.constexpr,
    ADD: tl.constexpr,
    QUANTIZE: tl.constexpr,
    GATE: tl.constexpr,
    PDL: tl.constexpr,
):
    # A group lies within half a warp, so that its largest value is found by shuffles alone.
    group = tl.arange(0, GROUPS)
    column = group[:, None] * 128 + tl.arange(0, 128)[None, :]
    inside = column < D
    at = tl.program_id(0) * D + column
    if PDL:
        gdc_launch_dependents()
    gain = 1.0 + tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    along = gain
    if GATE:
        along = tl.load(gate + column, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    x = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    norm_and_store(
        x, gain, along, tl.program_id(0), column, inside, residual_out, normed_out, codes_out,
        scales_out, gated_out, eps, D, GROUPS, QUANTIZE, GATE,
    )  # fmt: skip


def room_for(hidden: torch.Tensor, quantize: bool) -> tuple[Normed, int]:
    """What a launch over `hidden` [T, D] writes, not yet written, and the groups of 128 in a row
    (a power of two, which Triton asks for). ValueError: D cannot be quantized."""
    rows, width = hidden.shape
    groups = triton.next_power_of_2(triton.cdiv(width, GROUP))
    if quantize and groups * GROUP != width:
        raise ValueError(f"a row of {width} values is not 128 times a power of two")
    codes = scales = None
    if quantize:
        codes = torch.empty_like(hidden, dtype=torch.float8_e4m3fn)
        scales = torch.empty(rows, groups, dtype=torch.float32, device=hidden.device)
    return Normed(torch.empty_like(hidden), torch.empty_like(hidden), codes, scales), groups


def add_norm_quantize(
    hidden: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    quantize: bool = True,
    gate: torch.Tensor | None = None,
    gated: torch.Tensor | None = None,
) -> Normed:
    """RMSNorm of hidden + residual with the gain 1 + weight, and its quantization if asked for.

    hidden, residual: [T, D] bf16, contiguous (None: the stream begins here); weight: [D].
    Quantization needs D to be 128 times a power of two.
    gate: [1, D] bf16, a weight of one row: its product with every normed row goes to gated [T].
    """
    rows, width = hidden.shape
    (residual_out, normed, codes, scales), groups = room_for(hidden, quantize)
    _add_norm_quantize[(rows,)](
        hidden,
        hidden if residual is None else residual,
        weight,
        residual_out,
        normed,
        normed if codes is None else codes,
        normed if scales is None else scales,
        normed if gate is None else gate,
        normed if gated is None else gated,
        eps,
        D=width,
        GROUPS=groups,
        ADD=residual is not None,
        QUANTIZE=quantize,
        GATE=gate is not None,
        PDL=dependent_launch(),
        num_warps=WARPS,
        **launch_options(),
    )
    return Normed(residual_out, normed, codes, scales)


def reference_add_norm_quantize(
    hidden: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    quantize: bool = True,
) -> Normed:
    """The same in plain torch, in fp32 where the kernel computes in fp32."""
    x = hidden.float() if residual is None else hidden.float() + residual.float()
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (1 + weight.float())
    normed = normed.bfloat16()
    codes, scales = reference_quantize(normed) if quantize else (None, None)
    return Normed(x.bfloat16(), normed, codes, scales)
