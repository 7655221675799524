"""Logits of 9 to 32 rows: programs that walk over the vocabulary with x in their registers.

    x [T, K] bf16, weight [V, K] bf16 -> logits [T, V] bf16, the bits of `skinny_gemm`

There every 16 rows of the weight have a program, and each of them reads x again: of 32 rows twice
what its weights are. Here a program a multiprocessor reads x once and takes 16 rows after 16 rows.
It has nothing on its way while it multiplies, so the rows behind are asked for into the
second-level cache. On trial (`trials`).
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
    MAX_ROWS,
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import (
    _chunks,
    _operand,
    _sixteen,
    tiling,
)

PROGRAMS: Final = 132
"""One on each multiprocessor of an H100 or H200; any number gives the same bits."""
AHEAD: Final = 2
"""How many times 16 rows a program asks for before it needs them."""
LONGEST: Final = 256
"""Columns of a warp's share of K, up to which the registers hold x and a tile of the weight."""
_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def _into_l2(weight, part, parts, BYTES: tl.constexpr, THREADS: tl.constexpr):
    """Ask for 16 rows, if they are there, a piece a thread, and go on."""
    PIECE: tl.constexpr = BYTES // THREADS
    thread = tl.arange(0, THREADS)
    at = weight.to(tl.int64) + part.to(tl.int64) * BYTES + thread * PIECE
    asks = ((thread >= 0) & (part < parts)).to(tl.int32)
    if not _INTERPRETED:
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.b32 p, $2, 0;"
            " @p cp.async.bulk.prefetch.L2.global [$1], $3; mov.b32 $0, 0; }",
            "=r,l,r,r", [at, asks, thread * 0 + PIECE], tl.int32, False, 1,
        )  # fmt: skip


# As in skinny_gemm: were T a constant, a row's result might come to depend on it.
@triton.jit(do_not_specialize=["T"])
def _walking_logits(
    x, weight, out, T, N,
    K: tl.constexpr, SHARES: tl.constexpr, SHARE: tl.constexpr, TILES: tl.constexpr,
    AHEAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    CHUNKS: tl.constexpr = SHARE // 32
    parts = N // 16
    first, walkers = tl.program_id(0), tl.num_programs(0)
    for j in tl.static_range(AHEAD):
        _into_l2(weight, first + j * walkers, parts, 32 * K, SHARES * 32)
    if PDL:
        gdc_wait()
    right = ()
    for j in tl.static_range(TILES):
        xt = _chunks(x, j * 8, T, 0, K, SHARES, SHARE, 32, CHUNKS, False, "")
        for c in tl.static_range(CHUNKS):
            right += (tl.permute(_operand(xt[c], SHARES, 32, False), [0, 2, 1]),)
    for part in tl.range(first, parts, walkers, num_stages=1):
        _into_l2(weight, part + AHEAD * walkers, parts, 32 * K, SHARES * 32)
        upper = _chunks(weight, part * 16, N, 0, K, SHARES, SHARE, 32, CHUNKS, False, ".cg")
        lower = _chunks(weight, part * 16 + 8, N, 0, K, SHARES, SHARE, 32, CHUNKS, False, ".cg")
        acc = ()
        for _ in tl.static_range(TILES):
            acc += (tl.zeros([SHARES, 16, 8], tl.float32),)
        for c in tl.static_range(CHUNKS):
            above = _operand(upper[c], SHARES, 32, False)
            left = _sixteen(above, _operand(lower[c], SHARES, 32, False), SHARES, 32)
            sums = ()
            for j in tl.static_range(TILES):
                sums += (tl.dot(left, right[j * CHUNKS + c], acc[j]),)
            acc = sums
        n = part * 16 + tl.arange(0, 16)
        for j in tl.static_range(TILES):
            token = j * 8 + tl.arange(0, 8)
            y = to_bfloat16(tl.sum(acc[j], 0))
            tl.store(out + token[None, :] * N + n[:, None], y, mask=(token < T)[None, :])


def walks(rows: int, weight: torch.Tensor) -> bool:
    """Whether `walking_logits` is for so many rows and a weight [V, K]."""
    n, k = weight.shape
    shares = tiling(k, False).shares
    return 8 < rows <= MAX_ROWS and n % 16 == 0 and k % (shares * 32) == 0 and k <= LONGEST * shares


def walking_logits(x: torch.Tensor, weight: torch.Tensor, programs: int = PROGRAMS) -> torch.Tensor:
    """Logits [T, V] of x [T, K], where `walks` says so."""
    (rows, k), n = x.shape, weight.shape[0]
    shares = tiling(k, False).shares
    out = torch.empty(rows, n, dtype=torch.bfloat16, device=x.device)
    _walking_logits[(min(programs, n // 16),)](
        x,
        weight,
        out,
        rows,
        n,
        K=k,
        SHARES=shares,
        SHARE=k // shares,
        TILES=triton.next_power_of_2(triton.cdiv(rows, 8)),
        AHEAD=AHEAD,
        PDL=dependent_launch(),
        num_warps=shares,
        maxnreg=255,
        **launch_options(),
    )
    return out
