"""Linear layers of 17 to 32 rows: weights and rows through shared memory, both as they are.

    the operands and the result of `skinny_gemm`

With more than 16 rows, what every program of `skinny_gemm` reads and widens of x is more than its
weights. Here a program owns 64 rows of the weight (`WideTiling`) and all of K, the loads of
several blocks of both are under way while one is multiplied, and the tensor cores take e4m3 as it
is: the form of the experts' kernels, which read weights at nine tenths of the memory's speed.

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
    MOST_ROWS,
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import skinny_gemm
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
    FP8: tl.constexpr,
    DOT: tl.constexpr,
    PDL: tl.constexpr,
):
    n = program * TILE + tl.arange(0, TILE)
    # Beyond the last row the last is repeated.
    at = weight + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K
    if PDL:
        gdc_wait()
    token = tl.arange(0, TOKENS)
    live = token < T
    k0 = tl.arange(0, BLOCK)
    rows = x + token[None, :] * K + k0[:, None]
    total = tl.zeros([TILE, TOKENS], tl.float32)
    for k in tl.range(0, K, BLOCK, num_stages=STAGES):
        w = tl.load(at + (k + k0)[None, :])
        a = tl.load(rows + k, mask=live[None, :], other=0.0)
        if FP8:
            group = k // 128
            scale = tl.load(weight_scales + program * TILE // 128 * (K // 128) + group)
            a_scale = tl.load(x_scales + token * (K // 128) + group, mask=live, other=0.0)
            total += tl.dot(w, a) * (scale * a_scale)[None, :]
        else:
            total = tl.dot(w.to(DOT), a.to(DOT), total)
    place = out + token[None, :] * N + n[:, None]
    tl.store(place, to_bfloat16(total), mask=live[None, :] & (n < N)[:, None])


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
    FP8: tl.constexpr,
    DOT: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_launch_dependents()
    program = tl.program_id(0)
    EXTRA: tl.constexpr = EXTRA_N // EXTRA_TILE
    if program < EXTRA:
        _product(
            extra_x, extra_x, extra_weight, extra_weight, extra_out, program, T, EXTRA_N,
            K, EXTRA_TILE, TOKENS, BLOCK, STAGES, False, DOT, PDL,
        )  # fmt: skip
    else:
        _product(
            x, x_scales, weight, weight_scales, out, program - EXTRA, T, N,
            K, TILE, TOKENS, BLOCK, STAGES, FP8, DOT, PDL,
        )  # fmt: skip


EXTRA_ROWS = 16
"""Rows of the extra weight that a program owns: more would take longer than all others."""


class WideTiling(NamedTuple):
    """How a weight is divided, which does not change a row's bits."""

    rows: int = 64
    """Rows of the weight a program owns: 64 or 128."""
    stages: int = 6
    """Blocks of 128 columns that are under way at once; in bf16 half as many."""
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
    """x @ weight.T by `skinny_gemm`; of many rows by `wide_gemm` where it is tried.

    Both take and give the same.
    """
    n, k = weight.shape
    large = scale is not None and n >= 8192 and fits(n, k) and x[0].shape[0] > 16
    return (wide_gemm if large and tries("wide") else skinny_gemm)(x, weight, scale, extra)


def wide_gemm(
    x: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    weight: torch.Tensor,
    scale: torch.Tensor | None = None,
    extra: tuple[torch.Tensor, torch.Tensor] | None = None,
    divided: WideTiling | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x @ weight.T, with what `skinny_gemm` takes and gives."""
    codes, x_scales = x if isinstance(x, tuple) else (x, None)
    rows, k = codes.shape
    n, fp8 = weight.shape[0], scale is not None
    if rows > MOST_ROWS:
        raise ValueError(f"{rows} rows, and these kernels are for up to {MOST_ROWS}")
    if not fits(n, k):
        raise ValueError(f"a weight of {n} x {k} is not in whole blocks")
    divided = divided or WideTiling()
    out = torch.empty(rows, n, dtype=torch.bfloat16, device=codes.device)
    extra_x, extra_weight, extra_out, extra_n = out, out, out, 0
    if extra is not None:
        extra_x, extra_weight = extra
        extra_n = extra_weight.shape[0]
        if extra_n % EXTRA_ROWS:
            out, _ = wide_gemm(x, weight, scale, divided=divided)
            return out, skinny_gemm(extra_x, extra_weight)[0]
        extra_out = torch.empty(rows, extra_n, dtype=torch.bfloat16, device=codes.device)
    _wide_gemm[(triton.cdiv(n, divided.rows) + extra_n // EXTRA_ROWS,)](
        codes,
        out if x_scales is None else x_scales,
        weight,
        out if scale is None else scale,
        out,
        extra_x,
        extra_weight,
        extra_out,
        rows,
        n,
        EXTRA_N=extra_n,
        EXTRA_TILE=EXTRA_ROWS,
        K=k,
        TILE=divided.rows,
        TOKENS=max(16, triton.next_power_of_2(rows)),
        BLOCK=128,
        STAGES=divided.stages if fp8 else max(1, divided.stages // 2),
        FP8=fp8,
        DOT=DOT_DTYPE,
        PDL=dependent_launch(),
        num_warps=divided.warps,
        **launch_options(),
    )
    return out, extra_out if extra is not None else None
