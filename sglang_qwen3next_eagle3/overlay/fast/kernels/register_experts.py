"""The FP8 experts of few rows with their weights in registers, as `skinny_gemm` has them.

    normed row (e4m3 with scales) x w13 [X, 2 I, D] -> SwiGLU -> bf16 [T, S, I]
    that, quantized in groups of 128, x w2 [X, D, I], times the slot's weight -> bf16 [T, S, D]
    the sum over slots in fp32 -> bf16 [T, D]

Four launches. A program belongs to a pair (a row and one of its slots) and to some rows of its
expert's weight; it goes on only if no pair before has the same expert, and then multiplies the
weight with all rows that chose the expert, eight at a time. Who chose what it counts by itself, of
the ids alone: no list has to pass through memory first. All weights of a program are asked for at
once, and reach the tensor core's instruction without shared memory.

A row's bits depend neither on the rows beside it nor on its place among them: the instruction is
the same for any of them, and the order of the sums is fixed by the shapes. Rounding points are
those of `experts`.
"""

# Tuples of tiles grow in the kernels, which a type checker takes for an assignment of another type.
# mypy: disable-error-code="assignment,var-annotated"

from typing import NamedTuple

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
from sglang_qwen3next_eagle3.overlay.fast.kernels.expert_choice import Routing
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import quantize_rows
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import (
    _chunks,
    _gathered,
    _operand,
    _sixteen,
)

_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def _opaque(x):
    """x (int32), which the compiler takes for another number every time: what is computed of it in
    a loop stays in the loop, instead of in registers."""
    if not _INTERPRETED:
        x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], tl.int32, False, 1)
    return x


@triton.jit
def _takers(ids, mine, PAIRS, BLOCK_P: tl.constexpr):
    """Of the pair `mine` of PAIRS: its expert, whether no pair before has it, how many have it."""
    expert = tl.load(ids + mine)
    count = tl.zeros([BLOCK_P], tl.int32)
    earlier = tl.zeros([BLOCK_P], tl.int32)
    for start in tl.range(0, PAIRS, BLOCK_P, num_stages=1):
        p = start + tl.arange(0, BLOCK_P)
        same = (tl.load(ids + p, mask=p < PAIRS, other=-1) == expert).to(tl.int32)
        count += same
        earlier += tl.where(p < mine, same, 0)
    return expert, tl.sum(earlier, 0) == 0, tl.sum(count, 0)


@triton.jit
def _eight_pairs(ids, expert, start, count, PAIRS, BLOCK_P: tl.constexpr):
    """The pairs of an expert from its `start`-th on, [8]; behind the last one the last again."""
    want = tl.minimum(start + tl.arange(0, 8), count - 1)
    found = tl.zeros([8], tl.int32)
    before = 0
    for at in tl.range(0, PAIRS, BLOCK_P, num_stages=1):
        p = at + tl.arange(0, BLOCK_P)
        same = (tl.load(ids + p, mask=p < PAIRS, other=-1) == expert).to(tl.int32)
        place = tl.where(same != 0, before + tl.cumsum(same, 0) - 1, -1)
        found += tl.sum(tl.where(place[:, None] == want[None, :], p[:, None], 0), 0)
        before += tl.sum(same, 0)
    return found


@triton.jit
def _products(
    w,
    scales,
    values,
    value_scales,
    rows,
    K: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Weights in registers with eight rows of values: BLOCKS sums [16, 8] over all of K, fp32.

    w: 2 * BLOCKS tuples of tiles [8, SHARES, 64]. scales: for every group of a share and every
    block [SHARES, 16].
    """
    STEPS: tl.constexpr = SHARE // 128
    GROUPS: tl.constexpr = K // 128
    share = tl.arange(0, SHARES)
    x = _gathered(values, rows, 0, K, SHARES, SHARE, 64, 2 * STEPS, False, "")
    xs = ()
    for g in tl.static_range(STEPS):
        group = share * STEPS + g
        xs += (tl.load(value_scales + rows[None, :] * GROUPS + group[:, None]),)
    acc = ()
    for _ in tl.static_range(BLOCKS):
        acc += (tl.zeros([SHARES, 16, 8], tl.float32),)
    for g in tl.static_range(STEPS):
        right = ()
        for c in tl.static_range(2):
            right += (tl.permute(_operand(x[2 * g + c], SHARES, 64, True), [0, 2, 1]),)
        sums = ()
        for i in tl.static_range(BLOCKS):
            part = tl.zeros([SHARES, 16, 8], tl.float32)
            for c in tl.static_range(2):
                upper = _operand(w[2 * i][2 * g + c], SHARES, 64, True)
                lower = _operand(w[2 * i + 1][2 * g + c], SHARES, 64, True)
                part = tl.dot(_sixteen(upper, lower, SHARES, 64), right[c], part)
            scale = scales[g * BLOCKS + i][:, :, None] * xs[g][:, None, :]
            sums += (acc[i] + part * scale,)
        acc = sums
    whole = ()
    for i in tl.static_range(BLOCKS):
        whole += (tl.sum(acc[i], 0),)
    return whole


@triton.jit
def _gate_up_of_eight(
    x, x_scales, w13, w13_scale, act, ids, expert, n, start, count, T,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    SHARES: tl.constexpr,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    """8 * BLOCKS columns of gate and up of one expert for up to eight pairs."""
    SHARE: tl.constexpr = D // SHARES
    STEPS: tl.constexpr = SHARE // 128
    GROUPS: tl.constexpr = D // 128
    base = w13 + expert.to(tl.int64) * (2 * WIDTH * D)
    w = ()
    for i in tl.static_range(BLOCKS):
        for half in tl.static_range(2):
            row = half * WIDTH + n + i * 8
            w += (_chunks(base, row, 2 * WIDTH, 0, D, SHARES, SHARE, 64, 2 * STEPS, False, ""),)
    upper = (tl.arange(0, 16) < 8)[None, :]
    scales = ()
    for g in tl.static_range(STEPS):
        block = w13_scale + expert * (2 * WIDTH // 128 * GROUPS) + n // 128 * GROUPS
        block += tl.arange(0, SHARES)[:, None] * STEPS + g
        block += tl.where(upper, 0, WIDTH // 128 * GROUPS)
        for _ in tl.static_range(BLOCKS):
            scales += (tl.load(block),)
    pair = _eight_pairs(ids, expert, start, count, T * SLOTS, BLOCK_P)
    rows = pair // SLOTS
    y = _products(w, scales, x, x_scales, rows, D, SHARES, SHARE, BLOCKS)
    live = start + tl.arange(0, 8) < count
    for i in tl.static_range(BLOCKS):
        both = tl.permute(tl.reshape(y[i], [2, 8, 8]), [1, 2, 0])
        gate, up = tl.split(to_bfloat16(both).to(tl.float32))
        out = to_bfloat16(gate / (1.0 + tl.exp(-gate)) * up)
        column = n + i * 8 + tl.arange(0, 8)
        at = act + pair[None, :] * WIDTH + column[:, None]
        tl.store(at, out, mask=live[None, :] & (column >= 0)[:, None])


# Were T a constant where it is 1 or a multiple of 16, a row's result might come to depend on it.
@triton.jit(do_not_specialize=["T"])
def _gate_up_of_pairs(
    x,
    x_scales,
    ids,
    w13,
    w13_scale,
    act,
    T,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    SHARES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    MANY: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    TILES: tl.constexpr = WIDTH // (8 * BLOCKS)
    mine = tl.program_id(0) // TILES
    n = tl.program_id(0) % TILES * (8 * BLOCKS)
    if PDL:
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()
    expert, first, count = _takers(ids, mine, T * SLOTS, BLOCK_P)
    if first:
        if MANY:
            # Weights are asked for again: held meanwhile, they would be held twice as long.
            for start in tl.range(0, count, 8, num_stages=1):
                _gate_up_of_eight(
                    x, x_scales, w13, w13_scale, act, ids, _opaque(expert), n, start,
                    count, T, D, WIDTH, SLOTS, BLOCKS, SHARES, BLOCK_P,
                )  # fmt: skip
        else:
            _gate_up_of_eight(
                x, x_scales, w13, w13_scale, act, ids, expert, n, 0, count, T,
                D, WIDTH, SLOTS, BLOCKS, SHARES, BLOCK_P,
            )  # fmt: skip
    if PDL and not EARLY:
        gdc_launch_dependents()


@triton.jit
def _down_of_eight(
    act, act_scales, weights, w2, w2_scale, partial, ids, expert, n, start, count, T,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    BLOCKS: tl.constexpr,
    SHARES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_S: tl.constexpr,
    WAIT: tl.constexpr,
):  # fmt: skip
    """16 * BLOCKS columns of what one expert makes of up to eight pairs."""
    SHARE: tl.constexpr = WIDTH // SHARES
    STEPS: tl.constexpr = SHARE // 128
    GROUPS: tl.constexpr = WIDTH // 128
    base = w2 + expert.to(tl.int64) * (D * WIDTH)
    w = ()
    for i in tl.static_range(2 * BLOCKS):
        w += (_chunks(base, n + i * 8, D, 0, WIDTH, SHARES, SHARE, 64, 2 * STEPS, False, ""),)
    scales = ()
    for g in tl.static_range(STEPS):
        block = w2_scale + expert * (D // 128 * GROUPS) + n // 128 * GROUPS
        scale = tl.load(block + tl.arange(0, SHARES) * STEPS + g)[:, None]
        for _ in tl.static_range(BLOCKS):
            scales += (tl.broadcast_to(scale, [SHARES, 16]),)
    pair = _eight_pairs(ids, expert, start, count, T * SLOTS, BLOCK_P)
    share = tl.load(weights + pair)
    if RENORMALIZE:
        other = tl.arange(0, BLOCK_S)[None, :]
        chances = weights + (pair // SLOTS * SLOTS)[:, None] + other
        norm = tl.sum(tl.load(chances, mask=other < TOP_K, other=0.0), 1)
        routed = (pair % SLOTS < TOP_K) & (norm > 0.0)
        share = share / tl.where(routed, norm, 1.0)
    if WAIT:
        gdc_wait()
    y = _products(w, scales, act, act_scales, pair, WIDTH, SHARES, SHARE, BLOCKS)
    live = start + tl.arange(0, 8) < count
    for i in tl.static_range(BLOCKS):
        column = n + i * 16 + tl.arange(0, 16)
        at = partial + pair[None, :] * D + column[:, None]
        out = to_bfloat16(y[i] * share[None, :])
        tl.store(at, out, mask=live[None, :] & (column >= 0)[:, None])


@triton.jit(do_not_specialize=["T"])
def _down_of_pairs(
    act,
    act_scales,
    ids,
    weights,
    w2,
    w2_scale,
    partial,
    T,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    BLOCKS: tl.constexpr,
    SHARES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_S: tl.constexpr,
    MANY: tl.constexpr,
    WEIGHTS_AHEAD: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    # The choice of experts was made by a launch that had ended before the one before this could
    # start its dependents: ids and weights may be read, and w2 asked for, ahead of the wait.
    TILES: tl.constexpr = D // (16 * BLOCKS)
    AHEAD: tl.constexpr = PDL and WEIGHTS_AHEAD and not MANY
    mine = tl.program_id(0) // TILES
    n = tl.program_id(0) % TILES * (16 * BLOCKS)
    if PDL and EARLY:
        gdc_launch_dependents()
    if PDL and not AHEAD:
        gdc_wait()
    expert, first, count = _takers(ids, mine, T * SLOTS, BLOCK_P)
    if first:
        if MANY:
            for start in tl.range(0, count, 8, num_stages=1):
                _down_of_eight(
                    act, act_scales, weights, w2, w2_scale, partial, ids, _opaque(expert), n,
                    start, count, T, D, WIDTH, SLOTS, TOP_K, RENORMALIZE, BLOCKS, SHARES,
                    BLOCK_P, BLOCK_S, False,
                )  # fmt: skip
        else:
            _down_of_eight(
                act, act_scales, weights, w2, w2_scale, partial, ids, expert, n, 0,
                count, T, D, WIDTH, SLOTS, TOP_K, RENORMALIZE, BLOCKS, SHARES, BLOCK_P, BLOCK_S,
                AHEAD,
            )  # fmt: skip
    elif AHEAD:
        gdc_wait()
    if PDL and not EARLY:
        gdc_launch_dependents()


@triton.jit
def _add_slots(
    partial,
    out,
    D: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """The slots of a row in fp32, from the first to the last."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < D
    total = tl.zeros([BLOCK], tl.float32)
    for slot in tl.static_range(SLOTS):
        at = partial + (tl.program_id(0) * SLOTS + slot) * D + n
        total += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + tl.program_id(0) * D + n, to_bfloat16(total), mask=inside)


class PairTiling(NamedTuple):
    """How one of the two products is divided. `shares` sets the order of summation.

    blocks: tiles of 16 rows of the weight a program. shares: warps, over which the sum is divided.
    registers: the most a thread may hold. early: whether the next launch starts beside this one.
    ahead: whether weights are asked for before the launch before this one has ended; only that of
    `_quantize_rows`, which starts others when what chose the experts has ended.
    """

    blocks: int
    shares: int = 4
    registers: int = 128
    early: bool = False
    ahead: bool = False


PIECE = 128
"""Pairs that a program looks at at once."""
UP = PairTiling(blocks=1)
DOWN = PairTiling(blocks=4)


def _piece(pairs: int) -> int:
    """Pairs that a program looks at at once: of few sizes, each of which is compiled."""
    return 16 if pairs <= 16 else PIECE


def gate_up_of_pairs(
    x: tuple[torch.Tensor, torch.Tensor],
    routing: Routing,
    weight: torch.Tensor,
    scale: torch.Tensor,
    tiling: PairTiling = UP,
) -> torch.Tensor:
    """x: codes [T, D] and scales [T, D / 128]; weight [X, 2 I, D] -> SwiGLU [T * S, I] bf16."""
    codes, scales = x
    rows, slots = routing.ids.shape
    columns, width = weight.shape[2], weight.shape[1] // 2
    act = torch.empty(rows * slots, width, dtype=torch.bfloat16, device=codes.device)
    _gate_up_of_pairs[(rows * slots * (width // (8 * tiling.blocks)),)](
        codes,
        scales,
        routing.ids,
        weight,
        scale,
        act,
        rows,
        D=columns,
        WIDTH=width,
        SLOTS=slots,
        BLOCKS=tiling.blocks,
        SHARES=tiling.shares,
        BLOCK_P=_piece(rows * slots),
        MANY=rows > 8,
        EARLY=tiling.early,
        PDL=dependent_launch(),
        num_warps=tiling.shares,
        maxnreg=tiling.registers,
        **launch_options(),
    )
    return act


def down_of_pairs(
    act: tuple[torch.Tensor, torch.Tensor],
    routing: Routing,
    top_k: int,
    weight: torch.Tensor,
    scale: torch.Tensor,
    tiling: PairTiling = DOWN,
) -> torch.Tensor:
    """act: codes [T * S, I] and scales [T * S, I / 128]; weight [X, D, I] -> [T * S, D] bf16."""
    codes, scales = act
    rows, slots = routing.ids.shape
    columns, width = weight.shape[1:]
    partial = torch.empty(rows * slots, columns, dtype=torch.bfloat16, device=codes.device)
    _down_of_pairs[(rows * slots * (columns // (16 * tiling.blocks)),)](
        codes,
        scales,
        routing.ids,
        routing.weights,
        weight,
        scale,
        partial,
        rows,
        D=columns,
        WIDTH=width,
        SLOTS=slots,
        TOP_K=top_k,
        RENORMALIZE=routing.renormalize,
        BLOCKS=tiling.blocks,
        SHARES=tiling.shares,
        BLOCK_P=_piece(rows * slots),
        BLOCK_S=triton.next_power_of_2(slots),
        MANY=rows > 8,
        WEIGHTS_AHEAD=tiling.ahead,
        EARLY=tiling.early,
        PDL=dependent_launch(),
        num_warps=tiling.shares,
        maxnreg=tiling.registers,
        **launch_options(),
    )
    return partial


def add_slots(partial: torch.Tensor, slots: int) -> torch.Tensor:
    """[T * S, D] bf16 -> [T, D] bf16."""
    rows, columns = partial.shape[0] // slots, partial.shape[1]
    out = torch.empty(rows, columns, dtype=torch.bfloat16, device=partial.device)
    block = 256
    _add_slots[(rows, triton.cdiv(columns, block))](
        partial,
        out,
        D=columns,
        SLOTS=slots,
        BLOCK=block,
        PDL=dependent_launch(),
        num_warps=1,
        **launch_options(),
    )
    return out


def pair_experts(
    x: tuple[torch.Tensor, torch.Tensor],
    routing: Routing,
    w13: torch.Tensor,
    w13_scale: torch.Tensor,
    w2: torch.Tensor,
    w2_scale: torch.Tensor,
    top_k: int = 10,
    up: PairTiling = UP,
    down: PairTiling = DOWN,
) -> torch.Tensor:
    """What `experts` computes, of codes [T, D] with scales [T, D / 128]: [T, D] bf16.

    Of the routing only ids and weights are read. D and I are multiples of 128 times the shares.
    """
    act = gate_up_of_pairs(x, routing, w13, w13_scale, up)
    parts = down_of_pairs(quantize_rows(act), routing, top_k, w2, w2_scale, down)
    return add_slots(parts, routing.ids.shape[1])
