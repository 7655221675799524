"""A large fp8 linear layer of up to eight rows by programs that each walk over parts of the weight.

The product of `skinny_gemm`, with its order of summation and so its bits. There every program owns
16 rows of the weight, and 772 of them read and widen x; more of them than the multiprocessors hold
at once, so that the last are asked for when the first have ended. Here two programs a
multiprocessor walk over 16 rows after 16 rows: x is read and widened once a program, the weights of
the next 16 rows are asked for before these are multiplied, and all later ones are on their way into
the second-level cache before what makes x has ended.

A trial (`walk`): not measured.
"""

# Tuples of tiles grow in the kernels, which a type checker takes for an assignment of another type.
# mypy: disable-error-code="assignment,var-annotated"

from typing import Final

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    INTERPRETED,
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import (
    _chunks,
    _operand,
    _program,
    _sixteen,
    tiling,
)

PROGRAMS: Final = 264
"""Two on each of the 132 multiprocessors of an H100 or H200."""
REGISTERS: Final = 255
_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def _part(
    weight, weight_scales, part, K: tl.constexpr, SHARES: tl.constexpr, SHARE: tl.constexpr
):  # fmt: skip
    """16 rows of the weight, in tiles [SHARES * 8, 64], and their scales."""
    line = tl.arange(0, SHARES * 8)[:, None]
    k = line // 8 * SHARE + tl.arange(0, 64)[None, :]
    w = ()
    for i in tl.static_range(2):
        at = weight + (part * 16 + i * 8 + line % 8) * K + k
        for c in tl.static_range(SHARE // 64):
            w += (tl.load(at + c * 64),)
    block = weight_scales + (part // 8) * (K // 128) + tl.arange(0, SHARES) * (SHARE // 128)
    ws = ()
    for g in tl.static_range(SHARE // 128):
        ws += (tl.load(block + g),)
    return w, ws


@triton.jit
def _part_into_l2(weight, part, parts, BYTES: tl.constexpr, THREADS: tl.constexpr):
    """Ask for 16 rows, if they are there, with one instruction, and go on."""
    thread = tl.arange(0, THREADS)
    at = weight.to(tl.int64) + part.to(tl.int64) * BYTES + thread * 0
    asks = ((thread == 0) & (part < parts)).to(tl.int32)
    if not _INTERPRETED:
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.b32 p, $2, 0;"
            " @p cp.async.bulk.prefetch.L2.global [$1], $3; mov.b32 $0, 0; }",
            "=r,l,r,r", [at, asks, thread * 0 + BYTES], tl.int32, False, 1,
        )  # fmt: skip


@triton.jit
def _walk(
    x, x_scales, weight, weight_scales, out, first, walkers, T, N,
    K: tl.constexpr, SHARES: tl.constexpr, SHARE: tl.constexpr, LATER: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    STEPS: tl.constexpr = SHARE // 128
    CHUNKS: tl.constexpr = SHARE // 64
    parts = N // 16
    w, ws = _part(weight, weight_scales, tl.minimum(first, parts - 1), K, SHARES, SHARE)
    for j in tl.static_range(LATER):
        _part_into_l2(weight, first + (j + 1) * walkers, parts, 16 * K, SHARES * 32)
    if PDL:
        gdc_wait()
    xt = _chunks(x, 0, T, 0, K, SHARES, SHARE, 64, CHUNKS, False, "")
    token = tl.arange(0, 8)
    group = tl.arange(0, SHARES)[:, None] * STEPS
    xs, right = (), ()
    for g in tl.static_range(STEPS):
        xs += (tl.load(x_scales + tl.minimum(token, T - 1)[None, :] * (K // 128) + group + g),)
    for c in tl.static_range(CHUNKS):
        right += (tl.permute(_operand(xt[c], SHARES, 64, True), [0, 2, 1]),)
    # Written out, not a loop: what a loop hands on changes its layout on the way.
    for j in tl.static_range(LATER + 1):
        # Behind the last the last is done again, with the same result.
        part = tl.minimum(first + j * walkers, parts - 1)
        later, later_scales = w, ws
        if j < LATER:
            following = tl.minimum(part + walkers, parts - 1)
            later, later_scales = _part(weight, weight_scales, following, K, SHARES, SHARE)
        total = tl.zeros([SHARES, 16, 8], tl.float32)
        for g in tl.static_range(STEPS):
            product = tl.zeros([SHARES, 16, 8], tl.float32)
            for c in tl.static_range(2):
                upper = _operand(w[2 * g + c], SHARES, 64, True)
                lower = _operand(w[CHUNKS + 2 * g + c], SHARES, 64, True)
                product = tl.dot(_sixteen(upper, lower, SHARES, 64), right[2 * g + c], product)
            scale = xs[g] * ws[g][:, None]
            total = total + product * scale[:, None, :]
        n = part * 16 + tl.arange(0, 16)
        y = to_bfloat16(tl.sum(total, 0))
        tl.store(out + token[None, :] * N + n[:, None], y, mask=(token < T)[None, :])
        w, ws = later, later_scales


# As in skinny_gemm: were T a constant, a row's result might come to depend on it.
@triton.jit(do_not_specialize=["T"])
def _walking_gemm(
    x, x_scales, weight, weight_scales, out, extra_x, extra_weight, extra_out, T, N,
    EXTRA_N: tl.constexpr, K: tl.constexpr, SHARES: tl.constexpr, SHARE: tl.constexpr,
    EXTRA_PASSES: tl.constexpr, LATER: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    program = tl.program_id(0)
    EXTRA: tl.constexpr = EXTRA_N // 16
    if program < EXTRA:
        _program(
            extra_x, extra_x, extra_weight, extra_weight, extra_out, program, T, EXTRA_N, K, 16,
            SHARES, SHARE, 1, False, False, EXTRA_PASSES, PDL,
        )  # fmt: skip
    else:
        _walk(
            x, x_scales, weight, weight_scales, out, program - EXTRA, tl.num_programs(0) - EXTRA,
            T, N, K, SHARES, SHARE, LATER, PDL,
        )  # fmt: skip


def walks(rows: int, weight: torch.Tensor, extra: torch.Tensor | None) -> bool:
    """Whether `walking_gemm` has x of so many rows, an fp8 weight [N, K] and an extra [E, K]."""
    (n, k), beside = weight.shape, 0 if extra is None else extra.shape[0]
    shares = tiling(k, True).shares
    whole = n % 16 == 0 and k % (shares * 128) == 0 and k // shares <= 512 and beside % 16 == 0
    # Fewer parts than programs are nothing to walk over.
    return rows <= 8 and whole and n // 16 > PROGRAMS


def walking_gemm(
    x: tuple[torch.Tensor, torch.Tensor],
    weight: torch.Tensor,
    scale: torch.Tensor,
    extra: tuple[torch.Tensor, torch.Tensor] | None = None,
    programs: int = PROGRAMS,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`skinny_gemm` where `walks` says so: the same arguments and results, in as many programs."""
    codes, x_scales = x
    (rows, k), n = codes.shape, weight.shape[0]
    _, shares, extra_passes, _ = tiling(k, True)
    out = torch.empty(rows, n, dtype=torch.bfloat16, device=codes.device)
    extra_x, extra_weight, extra_out, extra_n = out, out, out, 0
    if extra is not None:
        extra_x, extra_weight = extra
        extra_n = extra_weight.shape[0]
        extra_out = torch.empty(rows, extra_n, dtype=torch.bfloat16, device=codes.device)
    _walking_gemm[(programs,)](
        codes,
        x_scales,
        weight,
        scale,
        out,
        extra_x,
        extra_weight,
        extra_out,
        rows,
        n,
        EXTRA_N=extra_n,
        K=k,
        SHARES=shares,
        SHARE=k // shares,
        EXTRA_PASSES=extra_passes,
        LATER=triton.cdiv(n // 16, programs - extra_n // 16) - 1,
        PDL=dependent_launch(),
        num_warps=shares,
        maxnreg=REGISTERS,
        **launch_options(),
    )
    return out, extra_out if extra is not None else None
