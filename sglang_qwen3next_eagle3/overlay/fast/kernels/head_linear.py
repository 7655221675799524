"""The draft head's linear layers of few rows, each with what follows it in one launch.

    plain    x [T, K], weight [N, K]         -> [T, N] bf16
    gated    x [T, K], weight [2 N, K]       -> silu(gate) * up [T, N] bf16; gates lie before ups
    logits   x [T, K], weight [V, K], places -> rows of a buffer [rows, V] fp32
    largest  x [T, K], weight [V, K]         -> the largest of every 16 logits, and which it is

The products are those of `skinny_gemm`: a program has 16 rows of the weight and all of K, a warp a
part of K, weights go from memory to the tensor cores by way of registers only, and a row's bits
depend neither on how many run beside it nor on what they are. Here K is longer than a warp's
registers hold, so a warp works through its part in passes; and where a layer has gates, a program
has 8 of their rows and the same 8 of the ups, which are the two halves of one instruction's rows.

A weight is bf16, or `head_codes.Codes` of 8 bits, of which sums are multiplied by a row's scale;
x is bf16.

Stock's rounding points: every product is rounded to bf16, the activation is computed in fp32 and
rounded once, logits are bf16 values in fp32.
"""

# Tuples of tiles grow in the kernels, which a type checker takes for an assignment of another type.
# mypy: disable-error-code="assignment,var-annotated"

from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    MAX_ROWS,
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.head_codes import (
    CODES_WIDTH,
    Codes,
    _sums_of_codes,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import (
    _chunks,
    _divisor,
    _left,
    _right,
)

WIDTH: Final = 32
"""Columns of a chunk of weights: 64 bytes."""
HELD: Final = 256
"""Columns of K that a warp holds of its 16 rows: 64 registers a thread."""
CODES_HELD: Final = 512
"""The same of codes, which are half as wide."""
LOGITS: Final = 16
"""Logits of which `largest` keeps one."""

_PLAIN = tl.constexpr(0)
_GATED = tl.constexpr(1)
_LOGITS = tl.constexpr(2)
_LARGEST = tl.constexpr(3)


class HeadTiling(NamedTuple):
    """How K is divided. Sets the order of sums: the same for every T.

    shares: parts of K, one a warp, a power of two. passes: in how many steps a warp takes its part.
    ahead: whether the weights of a step are asked for before the one before it is worked on.
    registers: the most a thread may hold: with fewer, more programs are on a processor.
    """

    shares: int
    passes: int
    ahead: bool = False
    registers: int = 128


class Largest(NamedTuple):
    """values: [T, ceil(V / 16)] fp32, the largest logit of each 16. places: int32, its index."""

    values: torch.Tensor
    places: torch.Tensor


@triton.jit
def _weights(
    weight,
    upper,
    lower,
    N,
    first,
    K: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    CHUNKS: tl.constexpr,
    MASKED: tl.constexpr,
    CACHE: tl.constexpr,
):
    """Chunks of 8 rows of the weight from `upper` on, then those of 8 from `lower` on."""
    above = _chunks(weight, upper, N, first, K, SHARES, SHARE, 32, CHUNKS, MASKED, CACHE)
    below = _chunks(weight, lower, N, first, K, SHARES, SHARE, 32, CHUNKS, MASKED, CACHE)
    return above + below


@triton.jit
def _sums(
    x,
    weight,
    upper,
    lower,
    T,
    N,
    K: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    PASSES: tl.constexpr,
    NEXT: tl.constexpr,
    TILES: tl.constexpr,
    MASKED: tl.constexpr,
    PDL: tl.constexpr,
):
    """Products of the weight's rows upper to upper + 8 and lower to lower + 8: TILES tiles
    [16, 8] of fp32, 8 rows of x each."""
    CHUNKS: tl.constexpr = SHARE // 32 // PASSES
    AHEAD: tl.constexpr = _divisor(CHUNKS, 16 // TILES)
    # Of many rows, x is to stay in the first-level cache for the processor's next program.
    CACHE: tl.constexpr = "" if TILES == 1 else ".cg"
    acc = ()
    for _ in tl.static_range(TILES):
        acc += (tl.zeros([SHARES, 16, 8], tl.float32),)
    STEP: tl.constexpr = CHUNKS * 32
    held = _weights(weight, upper, lower, N, 0, K, SHARES, SHARE, CHUNKS, MASKED, CACHE)
    coming = held
    for p in tl.static_range(PASSES):
        first = p * STEP
        if p > 0 and NEXT:
            held = coming
        elif p > 0:
            held = _weights(weight, upper, lower, N, first, K, SHARES, SHARE, CHUNKS, MASKED, CACHE)
        if NEXT and p + 1 < PASSES:
            after = first + STEP
            coming = _weights(
                weight, upper, lower, N, after, K, SHARES, SHARE, CHUNKS, MASKED, CACHE
            )
        if PDL and p == 0:
            gdc_wait()
        for q in tl.static_range(CHUNKS // AHEAD):
            rows = ()
            for j in tl.static_range(TILES):
                start = first + q * AHEAD * 32
                rows += (_chunks(x, j * 8, T, start, K, SHARES, SHARE, 32, AHEAD, MASKED, ""),)
            for c in tl.static_range(AHEAD):
                above, below = held[q * AHEAD + c], held[CHUNKS + q * AHEAD + c]
                left = _left(above, below, SHARES, 32, False)
                sums = ()
                for j in tl.static_range(TILES):
                    right = _right(rows[j][c], SHARES, 32, False)
                    sums += (tl.dot(left, right, acc[j]),)
                acc = sums
    out = ()
    for j in tl.static_range(TILES):
        out += (tl.sum(acc[j], 0),)
    return out


# Were T a constant where it is 1 or a multiple of 16, a row's result might come to depend on it.
@triton.jit(do_not_specialize=["T"])
def _head_linear(
    x,
    weight,
    scales,
    out,
    indices,
    accepted,
    T,
    N,
    K: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    PASSES: tl.constexpr,
    NEXT: tl.constexpr,
    TILES: tl.constexpr,
    KIND: tl.constexpr,
    NODES: tl.constexpr,
    MASKED: tl.constexpr,
    CODES: tl.constexpr,
    PDL: tl.constexpr,
):
    """N: rows of the output; NODES: 0, or how many of its rows a row of x chooses among.

    CODES: the weight is in 8 bits.
    """
    if PDL:
        gdc_launch_dependents()
    program = tl.program_id(0)
    if KIND == _GATED:
        upper, lower, rows = program * 8, N + program * 8, 2 * N
    else:
        upper, lower, rows = program * 16, program * 16 + 8, N
    n = program * 16 + tl.arange(0, 16)
    if CODES:
        line = tl.arange(0, 16)
        row = tl.minimum(tl.where(line < 8, upper + line, lower + line - 8), rows - 1)
        scale = tl.load(scales + row)
        tiles = _sums_of_codes(
            x, weight, upper, lower, T, rows, K, SHARES, SHARE, PASSES, TILES, MASKED, PDL
        )
    else:
        tiles = _sums(
            x, weight, upper, lower, T, rows, K, SHARES, SHARE, PASSES, NEXT, TILES, MASKED, PDL
        )
    for j in tl.static_range(TILES):
        token = j * 8 + tl.arange(0, 8)
        y = tiles[j]
        if CODES:
            y = y * scale[:, None]
        y = to_bfloat16(y).to(tl.float32)
        if KIND == _GATED:
            gate, up = tl.split(tl.permute(tl.reshape(y, [2, 8, 8]), [1, 2, 0]))
            y = gate / (1.0 + tl.exp(-gate)) * up
            at = program * 8 + tl.arange(0, 8)
            inside = (token < T)[None, :] & (at < N)[:, None]
            tl.store(out + token[None, :] * N + at[:, None], to_bfloat16(y), mask=inside)
        elif KIND == _LARGEST:
            # What is no number loses, as in stock's choice of a draft token.
            y = tl.where(y == y, y, -1e30)
            y = tl.where((n < N)[:, None], y, float("-inf"))
            best = tl.max(y, 0)
            place = tl.min(tl.where(y == best[None, :], n[:, None], 2147483647), 0)
            at = token * tl.num_programs(0) + program
            tl.store(out + at, best, mask=token < T)
            tl.store(indices + at, place, mask=token < T)
        else:
            inside = (token < T)[None, :] & (n < N)[:, None]
            to = token.to(tl.int64)
            if NODES > 0:
                to = to * NODES + tl.load(accepted + token, mask=token < T, other=1) - 1
            at = to[None, :] * N + n[:, None]
            if KIND == _LOGITS:
                tl.store(out + at, y, mask=inside)
            else:
                tl.store(out + at, to_bfloat16(y), mask=inside)


def head_codes_tiling(n: int, k: int) -> HeadTiling:
    """The division of codes [n, k]: the fastest of those tried on an H200. Where there are many
    programs, few warps each leave room for more of them; where a program is all that a processor
    gets, it needs as many as ask for enough at once."""
    shares = 2 if n >= 8192 else 4 if k <= 4096 else 8
    while shares > 1 and k % (shares * CODES_WIDTH):
        shares //= 2
    chunks = -(-k // (shares * CODES_WIDTH))
    held = max(d for d in range(1, CODES_HELD // CODES_WIDTH + 1) if chunks % d == 0)
    return HeadTiling(shares, chunks // held)


def head_tiling(k: int) -> HeadTiling:
    """The division of a K; 8 warps a program, as they were the fastest at 2048 columns in bf16."""
    shares = 8
    while shares > 1 and k % (shares * WIDTH):
        shares //= 2
    chunks = -(-k // (shares * WIDTH))
    held = max(d for d in range(1, HELD // WIDTH + 1) if chunks % d == 0)
    return HeadTiling(shares, chunks // held)


def _launch(
    x: torch.Tensor,
    weight: torch.Tensor | Codes,
    kind: tl.constexpr,
    n: int,
    out: torch.Tensor,
    indices: torch.Tensor | None = None,
    accepted: torch.Tensor | None = None,
    nodes: int = 0,
    divided: HeadTiling | None = None,
) -> None:
    rows, k = x.shape
    if rows > MAX_ROWS:
        raise ValueError(f"{rows} rows, and these kernels are for up to {MAX_ROWS}")
    gated = kind.value == _GATED.value
    scales = None
    if isinstance(weight, Codes):
        weight, scales = weight
    if weight.shape != ((2 if gated else 1) * n, k):
        raise ValueError(f"a weight of {tuple(weight.shape)} does not fit {n} outputs of {k}")
    if gated and n % 8:
        raise ValueError(f"{n} gates are not in whole tiles of 8")
    if divided is None:
        divided = head_tiling(k) if scales is None else head_codes_tiling(len(weight), k)
    shares, passes, ahead, registers = divided
    width = WIDTH if scales is None else CODES_WIDTH
    share = triton.cdiv(k, shares * width * passes) * width * passes
    _head_linear[(triton.cdiv(n, 8 if gated else 16),)](
        x,
        weight,
        out if scales is None else scales,
        out,
        out if indices is None else indices,
        out if accepted is None else accepted,
        rows,
        n,
        K=k,
        SHARES=shares,
        SHARE=share,
        PASSES=passes,
        NEXT=ahead,
        TILES=triton.next_power_of_2(triton.cdiv(rows, 8)),
        KIND=kind.value,
        NODES=nodes,
        MASKED=share * shares != k,
        CODES=scales is not None,
        PDL=dependent_launch(),
        num_warps=shares,
        maxnreg=registers,
        **launch_options(),
    )


def _outputs(weight: torch.Tensor | Codes) -> int:
    return (weight.codes if isinstance(weight, Codes) else weight).shape[0]


def head_linear(
    x: torch.Tensor, weight: torch.Tensor | Codes, divided: HeadTiling | None = None
) -> torch.Tensor:
    """x @ weight.T, [T, N] bf16, for x [T, K] and weight [N, K] in bf16, T up to 32."""
    out = torch.empty(x.shape[0], _outputs(weight), dtype=torch.bfloat16, device=x.device)
    _launch(x, weight, _PLAIN, _outputs(weight), out, divided=divided)
    return out


def head_gated(
    x: torch.Tensor, weight: torch.Tensor | Codes, divided: HeadTiling | None = None
) -> torch.Tensor:
    """silu(x @ gates.T) * (x @ ups.T), [T, N] bf16; weight [2 N, K]: the gates, then the ups."""
    n = _outputs(weight) // 2
    out = torch.empty(x.shape[0], n, dtype=torch.bfloat16, device=x.device)
    _launch(x, weight, _GATED, n, out, divided=divided)
    return out


def head_logits(
    x: torch.Tensor,
    weight: torch.Tensor | Codes,
    logits: torch.Tensor,
    accepted: torch.Tensor | None = None,
    divided: HeadTiling | None = None,
) -> None:
    """Logits of x [T, K] into a buffer in fp32.

    logits: [T, V], or with `accepted` [T * n, V], of which row t * n + accepted[t] - 1 is written.
    accepted: [T] int32, how many of the n rows of request t were accepted.
    """
    nodes = 0 if accepted is None else logits.shape[0] // x.shape[0]
    vocabulary = _outputs(weight)
    _launch(x, weight, _LOGITS, vocabulary, logits, None, accepted, nodes, divided)


def head_largest(
    x: torch.Tensor, weight: torch.Tensor | Codes, divided: HeadTiling | None = None
) -> Largest:
    """The largest of every 16 logits of x [T, K], the lowest index among equals; no NaN."""
    shape = x.shape[0], triton.cdiv(_outputs(weight), LOGITS)
    values = torch.empty(shape, dtype=torch.float32, device=x.device)
    places = torch.empty(shape, dtype=torch.int32, device=x.device)
    _launch(x, weight, _LARGEST, _outputs(weight), values, places, divided=divided)
    return Largest(values, places)


def reference_head_linear(x: torch.Tensor, weight: torch.Tensor | Codes) -> torch.Tensor:
    """x @ weight.T in float64, rounded once to bf16; of codes, of what they stand for."""
    if isinstance(weight, Codes):
        weight = weight.values()
    return (x.double() @ weight.double().T).bfloat16()


def reference_head_gated(x: torch.Tensor, weight: torch.Tensor | Codes) -> torch.Tensor:
    gate, up = reference_head_linear(x, weight).float().chunk(2, -1)
    return (gate / (1 + torch.exp(-gate)) * up).bfloat16()


def reference_head_logits(
    x: torch.Tensor,
    weight: torch.Tensor | Codes,
    logits: torch.Tensor,
    accepted: torch.Tensor | None = None,
) -> None:
    found = reference_head_linear(x, weight).float()
    if accepted is None:
        logits.copy_(found)
        return
    nodes = logits.shape[0] // x.shape[0]
    rows = torch.arange(len(x), device=x.device) * nodes + accepted - 1
    logits[rows] = found
