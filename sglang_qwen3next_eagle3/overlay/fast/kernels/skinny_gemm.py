"""Linear layers of few rows: weights go from memory to the tensor cores by way of registers only.

    x [T, K] in e4m3 with fp32 scales [T, K / 128], weight [N, K] e4m3 with fp32 scales
    [N / 128, K / 128]    -> [T, N] bf16         (W8A8, as stock: products of a group of 128 are
                                                   summed in fp32, then scaled, then added up)
    x [T, K] bf16, weight [N, K] bf16 -> [T, N] bf16

A program owns 16 rows of the weight (`GemmTiling` may say 32 or 64) and all of K, and its warps
divide K. Each thread asks for all its weights at once, 16 bytes a load, before it waits for the
kernel that makes x. What a thread then holds is already its own operand of the tensor core's
instruction (16 weight rows by 8 rows of x): the instruction wants other columns of K than a 16-byte
load brings, but the order of the columns is free as long as x has the same, so both are only
renamed (`_left`, `_right`). Neither passes through shared memory, and the instruction is the same
for every T: the bits of a row do not depend on how many run beside it. Fp8 is widened to fp16,
which is exact; so does Hopper's fp8 `mma.sync`.

The order of summation: 64 (bf16: 32) columns by the tensor core, 128 in sequence, the warps' shares
of K at the end.

`extra` is a second, small bf16 weight for the same row before its quantization (the GDN layer's b
and a): its programs run first in the same launch.
"""

# Tuples of tiles grow in the kernels, which a type checker takes for an assignment of another type.
# mypy: disable-error-code="assignment,var-annotated"

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    BF16_RUN,
    DOT_DTYPE,
    MAX_ROWS,
    MOST_ROWS,
    dependent_launch,
    launch_options,
    to_bfloat16,
)

_BF16 = tl.constexpr(DOT_DTYPE)
_RUN = tl.constexpr(BF16_RUN)


@triton.jit
def _chunks(
    matrix,
    row,
    rows,
    first,
    K: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    WIDTH: tl.constexpr,
    COUNT: tl.constexpr,
    MASKED: tl.constexpr,
    CACHE: tl.constexpr,
):
    """Eight rows of a matrix [rows, K] from `row` on: COUNT tiles [SHARES * 8, WIDTH].

    Beyond the last row the last is repeated, which spares the loads a predicate. Tile c holds the
    columns first + c * WIDTH of every share of K. WIDTH is 64 bytes, so that four threads load a
    row of the tile and a warp loads the eight.
    """
    line = tl.arange(0, SHARES * 8)[:, None]
    r = tl.minimum(row + line % 8, rows - 1)
    k = line // 8 * SHARE + tl.arange(0, WIDTH)[None, :] + first
    at = matrix + r * K + k
    tiles = ()
    for c in tl.static_range(COUNT):
        if MASKED:
            inside = k + c * WIDTH < K
            tiles += (tl.load(at + c * WIDTH, mask=inside, other=0.0, cache_modifier=CACHE),)
        else:
            tiles += (tl.load(at + c * WIDTH, cache_modifier=CACHE),)
    return tiles


# A pass of the compiler's looks from every load at all operations, and from each of these at all of
# them again. So here are as few as will do: it takes most of what these kernels take to compile.
@triton.jit
def _left(upper, lower, SHARES: tl.constexpr, WIDTH: tl.constexpr, FP8: tl.constexpr):
    """Two tiles [SHARES * 8, WIDTH], one below the other, as an operand [SHARES, 16, WIDTH] with K
    renamed to what threads hold."""
    RUN: tl.constexpr = 8 if FP8 else _RUN
    DTYPE: tl.constexpr = tl.float16 if FP8 else _BF16
    # Widened while what lies side by side in a register is a row's.
    tile = tl.join(upper.to(DTYPE), lower.to(DTYPE))
    tile = tl.reshape(tile, [SHARES, 8, 4, WIDTH // 4 // RUN, RUN, 2])
    return tl.reshape(tl.permute(tile, [0, 5, 1, 3, 2, 4]), [SHARES, 16, WIDTH])


@triton.jit
def _right(tile, SHARES: tl.constexpr, WIDTH: tl.constexpr, FP8: tl.constexpr):
    """A tile [SHARES * 8, WIDTH] as the other operand [SHARES, WIDTH, 8], K renamed alike."""
    RUN: tl.constexpr = 8 if FP8 else _RUN
    DTYPE: tl.constexpr = tl.float16 if FP8 else _BF16
    tile = tl.reshape(tile, [SHARES, 8, 4, WIDTH // 4 // RUN, RUN])
    return tl.reshape(tl.permute(tile, [0, 3, 2, 4, 1]), [SHARES, WIDTH, 8]).to(DTYPE)


@triton.constexpr_function
def _divisor(count: int, limit: int) -> int:
    """The largest divisor of count up to limit, which is at least 1."""
    return max(d for d in range(1, max(limit, 1) + 1) if count % d == 0)


@triton.jit
def _add_part(
    acc,
    x,
    x_scales,
    weight,
    weight_scales,
    row,
    first,
    T,
    N,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    TILES: tl.constexpr,
    FP8: tl.constexpr,
    MASKED: tl.constexpr,
    CHUNKS: tl.constexpr,
    WAIT: tl.constexpr,
):
    """acc and what CHUNKS chunks of every share from column `first` on add to it."""
    WIDTH: tl.constexpr = 64 if FP8 else 32
    STEP: tl.constexpr = 128 // WIDTH if FP8 else 1
    STEPS: tl.constexpr = CHUNKS // STEP
    AHEAD: tl.constexpr = _divisor(STEPS, 16 // TILES // STEP)
    BLOCKS: tl.constexpr = ROWS // 16
    GROUPS: tl.constexpr = K // 128
    # Of many rows, x is to stay in the first-level cache for the processor's next program.
    CACHE: tl.constexpr = "" if TILES == 1 else ".cg"
    share = tl.arange(0, SHARES)
    w = ()
    for i in tl.static_range(2 * BLOCKS):
        at = row + i * 8
        w += (_chunks(weight, at, N, first, K, SHARES, SHARE, WIDTH, CHUNKS, MASKED, CACHE),)
    ws = ()
    if FP8:
        block = weight_scales + (row // 128) * GROUPS + share * (SHARE // 128)
        for g in tl.static_range(STEPS):
            ws += (tl.load(block + first // 128 + g),)
    if WAIT:
        gdc_wait()
    for q in tl.static_range(STEPS // AHEAD):
        xt, xs = (), ()
        start = first + q * AHEAD * STEP * WIDTH
        for j in tl.static_range(TILES):
            xt += (_chunks(x, j * 8, T, start, K, SHARES, SHARE, WIDTH, AHEAD * STEP, MASKED, ""),)
            if FP8:
                token = tl.minimum(j * 8 + tl.arange(0, 8), T - 1)
                group = share * (SHARE // 128) + start // 128
                for g in tl.static_range(AHEAD):
                    xs += (tl.load(x_scales + token[None, :] * GROUPS + group[:, None] + g),)
        for g in tl.static_range(AHEAD):
            left = ()
            for i in tl.static_range(BLOCKS):
                for c in tl.static_range(STEP):
                    upper = w[2 * i][(q * AHEAD + g) * STEP + c]
                    lower = w[2 * i + 1][(q * AHEAD + g) * STEP + c]
                    left += (_left(upper, lower, SHARES, WIDTH, FP8),)
            sums = ()
            for j in tl.static_range(TILES):
                for i in tl.static_range(BLOCKS):
                    total = acc[j * BLOCKS + i]
                    part = total if not FP8 else tl.zeros([SHARES, 16, 8], tl.float32)
                    for c in tl.static_range(STEP):
                        right = _right(xt[j][g * STEP + c], SHARES, WIDTH, FP8)
                        part = tl.dot(left[i * STEP + c], right, part)
                    if FP8:
                        scale = xs[j * AHEAD + g] * ws[q * AHEAD + g][:, None]
                        part = total + part * scale[:, None, :]
                    sums += (part,)
            acc = sums
    return acc


@triton.jit
def _program(
    x,
    x_scales,
    weight,
    weight_scales,
    out,
    program,
    T,
    N,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    TILES: tl.constexpr,
    FP8: tl.constexpr,
    MASKED: tl.constexpr,
    PASSES: tl.constexpr,
    PDL: tl.constexpr,
):
    WIDTH: tl.constexpr = 64 if FP8 else 32
    CHUNKS: tl.constexpr = SHARE // WIDTH // PASSES
    BLOCKS: tl.constexpr = ROWS // 16
    row = program * ROWS
    acc = ()
    for _ in tl.static_range(BLOCKS * TILES):
        acc += (tl.zeros([SHARES, 16, 8], tl.float32),)
    for p in tl.static_range(PASSES):
        acc = _add_part(
            acc, x, x_scales, weight, weight_scales, row, p * (CHUNKS * WIDTH), T, N,
            K, ROWS, SHARES, SHARE, TILES, FP8, MASKED, CHUNKS, PDL and p == 0,
        )  # fmt: skip
    for i in tl.static_range(BLOCKS):
        n = row + i * 16 + tl.arange(0, 16)
        for j in tl.static_range(TILES):
            token = j * 8 + tl.arange(0, 8)
            inside = (token < T)[None, :]
            if MASKED:
                inside = inside & (n < N)[:, None]
            y = to_bfloat16(tl.sum(acc[j * BLOCKS + i], 0))
            tl.store(out + token[None, :] * N + n[:, None], y, mask=inside)


# Were T a constant where it is 1 or a multiple of 16, a row's result might come to depend on it.
@triton.jit(do_not_specialize=["T"])
def _skinny_gemm(
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
    K: tl.constexpr,
    ROWS: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    TILES: tl.constexpr,
    FP8: tl.constexpr,
    MASKED: tl.constexpr,
    EXTRA_PASSES: tl.constexpr,
    TIMES: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_launch_dependents()
    program = tl.program_id(0)
    EXTRA: tl.constexpr = EXTRA_N // 16
    if TIMES > 1:
        # As many rows at a time, by programs of their own.
        first = tl.program_id(1) * (8 * TILES)
        T = tl.minimum(T - first, 8 * TILES)
        x += first * K
        x_scales += first * (K // 128)
        out += first * N
        extra_x += first * K
        extra_out += first * EXTRA_N
    # Without the first words a kernel that has no such programs would be compiled with them, and
    # the compiler needs most of its time for what nobody calls.
    if EXTRA > 0 and program < EXTRA:
        _program(
            extra_x,
            extra_x,
            extra_weight,
            extra_weight,
            extra_out,
            program,
            T,
            EXTRA_N,
            K,
            16,
            SHARES,
            SHARE,
            TILES,
            False,
            False,
            EXTRA_PASSES,
            PDL,
        )
    else:
        _program(
            x,
            x_scales,
            weight,
            weight_scales,
            out,
            program - EXTRA,
            T,
            N,
            K,
            ROWS,
            SHARES,
            SHARE,
            TILES,
            FP8,
            MASKED,
            1,
            PDL,
        )


class GemmTiling(NamedTuple):
    """How a weight is divided. `shares` sets the order of summation: the same for every T."""

    rows: int
    """Rows of the weight a program owns: 16, 32 or 64."""
    shares: int
    """Into how many parts, one a warp, K is divided: a power of two."""
    extra_passes: int = 1
    """In how many parts a program of `extra` asks for its weights, to hold fewer registers."""
    registers: int = 128
    """The most a thread may hold. Left to itself, ptxas saves registers for more programs a
    processor and loads the pieces of x one after the other, each a latency after the one before."""


def tiling(k: int, fp8: bool, rows: int = 1) -> GemmTiling:
    """The division of a weight [n, k] for so many rows of x, which does not change a row's bits.

    The one that was the fastest on an H200 at 1 to 8 rows, or one that fits. A warp holds 64
    registers of weights, or 128 where K is 4096. Fewer warps with more work each have less to start
    and to add up: 4, 8 and 16 warps for 16 rows of 2048 cost 8.2, 9.9 and 20.4 us at 12288 rows; 4
    instead of 8 for 16 rows of 4096 are 1.1, 0.7 and 0.6 us less in a layer of 1, 4 and 8 rows.
    """
    shares, step = (4, 128) if fp8 and k <= 4096 else (8, 128 if fp8 else 32)
    while shares > 1 and k % (shares * step):
        shares //= 2
    # A bf16 share of 512 columns would take twice the registers of an fp8 one.
    extra_passes = {512: 2, 1024: 4}.get(k // shares, 1) if fp8 else 1
    wide = fp8 and k > 512 * shares
    # Of many rows, with fewer registers what is read of x comes piece by piece: of 32, norm to norm
    # around a GDN layer's products, 57.3 us instead of 44.9.
    registers = 255 if fp8 and rows > 16 else 168 if wide else 128
    return GemmTiling(16, shares, extra_passes, registers)


class Operands(NamedTuple):
    """What the kernels of a linear layer are given, in their order. What there is none of stands
    for `out`, and is not read."""

    x: torch.Tensor
    x_scales: torch.Tensor
    weight: torch.Tensor
    weight_scales: torch.Tensor
    out: torch.Tensor
    extra_x: torch.Tensor
    extra_weight: torch.Tensor
    extra_out: torch.Tensor
    rows: int
    columns: int

    @classmethod
    def of(
        cls,
        x: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        weight: torch.Tensor,
        scale: torch.Tensor | None,
        extra: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> "Operands":
        """As for `skinny_gemm`. Raises ValueError: there are more rows than there is room for."""
        codes, x_scales = x if isinstance(x, tuple) else (x, None)
        rows, columns = codes.shape[0], weight.shape[0]
        if rows > MOST_ROWS:
            raise ValueError(f"{rows} rows, and these kernels are for up to {MOST_ROWS}")

        def made(width: int) -> torch.Tensor:
            return torch.empty(rows, width, dtype=torch.bfloat16, device=codes.device)

        out = made(columns)
        beside = (out, out, out) if extra is None else (*extra, made(extra[1].shape[0]))
        return cls(
            codes,
            out if x_scales is None else x_scales,
            weight,
            out if scale is None else scale,
            out,
            *beside,
            rows,
            columns,
        )

    @property
    def extra_columns(self) -> int:
        return 0 if self.extra_out is self.out else self.extra_out.shape[1]

    @property
    def results(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.out, None if self.extra_out is self.out else self.extra_out


def skinny_gemm(
    x: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    weight: torch.Tensor,
    scale: torch.Tensor | None = None,
    extra: tuple[torch.Tensor, torch.Tensor] | None = None,
    divided: GemmTiling | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x @ weight.T for up to 64 rows, of which more than 32 are two launches' work in one.

    x: [T, K] bf16, or with fp8 weights e4m3 codes [T, K] and fp32 scales [T, K / 128].
    weight: [N, K] bf16, or e4m3 with scale [N / 128, K / 128] fp32. All contiguous.
    extra: bf16 [T, K] and a bf16 weight [E, K]; in the same launch if E is a multiple of 16.
    Returns [T, N] bf16, and [T, E] bf16 if there is an extra weight.
    """
    codes, x_scales = x if isinstance(x, tuple) else (x, None)
    rows, k = codes.shape
    n = weight.shape[0]
    fp8 = scale is not None
    if fp8 != (x_scales is not None):
        raise ValueError("either both operands are e4m3 with scales or both are bf16")
    if fp8 and (n % 16 or k % 128):
        raise ValueError(f"an fp8 weight of {n} x {k} is not in whole tiles of 16 x 128")
    rows_, shares, extra_passes, registers = divided or tiling(k, fp8, rows)
    width = 128 if fp8 else 32
    share = triton.cdiv(k, shares * width) * width
    if extra is not None and (extra[1].shape[0] % 16 or k % (shares * 32 * extra_passes)):
        # Not in whole tiles, as those of small models: a launch of its own.
        out, _ = skinny_gemm(x, weight, scale, divided=divided)
        return out, skinny_gemm(*extra)[0]
    given = Operands.of(x, weight, scale, extra)
    times = triton.cdiv(rows, MAX_ROWS)
    _skinny_gemm[(triton.cdiv(n, rows_) + given.extra_columns // 16, times)](
        *given,
        EXTRA_N=given.extra_columns,
        K=k,
        ROWS=rows_,
        SHARES=shares,
        SHARE=share,
        TILES=triton.next_power_of_2(triton.cdiv(min(rows, MAX_ROWS), 8)),
        FP8=fp8,
        MASKED=bool(n % rows_) or share * shares != k,
        EXTRA_PASSES=extra_passes,
        TIMES=times,
        PDL=dependent_launch(),
        num_warps=shares,
        maxnreg=registers,
        **launch_options(),
    )
    return given.results


def reference_skinny_gemm(
    x: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    weight: torch.Tensor,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """The product in float64 of what the operands stand for, [T, N], before it is rounded."""
    codes, x_scales = x if isinstance(x, tuple) else (x, None)
    left, right = codes.double(), weight.double()
    if scale is not None and x_scales is not None:
        n, k = weight.shape
        spread = scale.double().repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
        right = right * spread
        left = left * x_scales.double().repeat_interleave(128, 1)
    return left @ right.T
