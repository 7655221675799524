"""Linear layers of 17 to 64 rows: weights and rows through shared memory, both as they are.

    the operands and the result of `skinny_gemm`

With more than 16 rows, what every program of `skinny_gemm` reads and widens of x is more than its
weights. Here a program owns 32 rows of the weight (`WideTiling`) and all of K, the loads of
several blocks of both are under way while one is multiplied, and the tensor cores take e4m3 as it
is. Rows of x are the 64 of the instruction, so that weights divide evenly over the processors.

The order of summation: 128 columns by the tensor core, then scaled, and added up from the first to
the last; in bf16 all of them by the tensor core. So a row has other bits than from `skinny_gemm`,
and the same whatever runs beside it. On trial (`trials`).
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    DOT_DTYPE,
    MAX_ROWS,
    MOST_ROWS,
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import Operands, skinny_gemm
from sglang_qwen3next_eagle3.overlay.fast.trials import tries


@triton.jit
def _product(
    x,
    x_scales,
    weight,
    weight_scales,
    out,
    program,
    T,
    N,
    K: tl.constexpr,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    TIMES: tl.constexpr,
    FP8: tl.constexpr,
    DOT: tl.constexpr,
    PDL: tl.constexpr,
):
    n = program * TILE + tl.arange(0, TILE)
    k0 = tl.arange(0, BLOCK)[None, :]
    # Beyond the last row the last is repeated.
    at = weight + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K + k0
    block = weight_scales + program * TILE // 128 * (K // 128)
    if PDL:
        gdc_wait()
    token = tl.arange(0, TOKENS)
    live = token < T
    rows = x + token[:, None] * K + k0
    total = tl.zeros([TOKENS, TILE], tl.float32)
    for first in tl.range(0, K, BLOCK * TIMES, num_stages=STAGES):
        for i in tl.static_range(TIMES):
            k = first + i * BLOCK
            w = tl.load(at + k)
            a = tl.load(rows + k, mask=live[:, None], other=0.0)
            if FP8:
                scale = tl.load(block + k // 128)
                a_scale = tl.load(x_scales + token * (K // 128) + k // 128, mask=live, other=0.0)
                total += tl.dot(a, w.T) * (scale * a_scale)[:, None]
            else:
                total = tl.dot(a.to(DOT), w.to(DOT).T, total)
    place = out + token[:, None] * N + n[None, :]
    tl.store(place, to_bfloat16(total), mask=live[:, None] & (n < N)[None, :])


@triton.jit(do_not_specialize=["T"])
def _wide_gemm(
    x,
    x_scales,
    weight,
    weight_scales,
    out,
    extra_x,
    extra_weight,
    extra_out,
    T,
    N,
    EXTRA_N: tl.constexpr,
    EXTRA_TILE: tl.constexpr,
    K: tl.constexpr,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    TIMES: tl.constexpr,
    FP8: tl.constexpr,
    DOT: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_launch_dependents()
    program = tl.program_id(0)
    EXTRA: tl.constexpr = EXTRA_N // EXTRA_TILE
    # As in skinny_gemm: without the first words its other half is compiled for nobody.
    if EXTRA > 0 and program < EXTRA:
        _product(
            extra_x, extra_x, extra_weight, extra_weight, extra_out, program, T, EXTRA_N,
            K, EXTRA_TILE, TOKENS, BLOCK, STAGES, 1, False, DOT, PDL,
        )  # fmt: skip
    else:
        _product(
            x, x_scales, weight, weight_scales, out, program - EXTRA, T, N,
            K, TILE, TOKENS, BLOCK, STAGES, TIMES, FP8, DOT, PDL,
        )  # fmt: skip


EXTRA_ROWS = 16
"""Rows of the extra weight that a program owns: more would take longer than all others."""


class WideTiling(NamedTuple):
    """How a weight is divided, which does not change a row's bits."""

    rows: int = 32
    """Rows of the weight a program owns: up to 128."""
    stages: int = 3
    """Pairs of blocks of 128 columns that are under way at once; in bf16 one fewer."""
    warps: int = 4


def fits(n: int, k: int) -> bool:
    """Whether a weight is in whole blocks."""
    return n % 16 == 0 and k % 128 == 0


def linear(
    x: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    weight: torch.Tensor,
    scale: torch.Tensor | None = None,
    extra: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x @ weight.T by `skinny_gemm`; large fp8 weights by `wide_gemm` for more than 32 rows,
    and for more than 16 where it is tried.

    Both take and give the same.
    """
    n, k = weight.shape
    rows = x[0].shape[0]
    wide = rows > MAX_ROWS or (rows > 16 and tries("wide"))
    large = scale is not None and n >= 8192 and fits(n, k)
    return (wide_gemm if large and wide else skinny_gemm)(x, weight, scale, extra)


def wide_gemm(
    x: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    weight: torch.Tensor,
    scale: torch.Tensor | None = None,
    extra: tuple[torch.Tensor, torch.Tensor] | None = None,
    divided: WideTiling | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x @ weight.T, with what `skinny_gemm` takes and gives."""
    (n, k), fp8 = weight.shape, scale is not None
    if not fits(n, k):
        raise ValueError(f"a weight of {n} x {k} is not in whole blocks")
    divided = divided or WideTiling()
    if extra is not None and extra[1].shape[0] % EXTRA_ROWS:
        out, _ = wide_gemm(x, weight, scale, divided=divided)
        return out, skinny_gemm(*extra)[0]
    given = Operands.of(x, weight, scale, extra)
    _wide_gemm[(triton.cdiv(n, divided.rows) + given.extra_columns // EXTRA_ROWS,)](
        *given,
        EXTRA_N=given.extra_columns,
        EXTRA_TILE=EXTRA_ROWS,
        K=k,
        TILE=divided.rows,
        TOKENS=MOST_ROWS,
        BLOCK=128,
        STAGES=divided.stages if fp8 else divided.stages - 1,
        TIMES=2 if k % 256 == 0 else 1,
        FP8=fp8,
        DOT=DOT_DTYPE,
        PDL=dependent_launch(),
        num_warps=divided.warps,
        **launch_options(),
    )
    return given.results
