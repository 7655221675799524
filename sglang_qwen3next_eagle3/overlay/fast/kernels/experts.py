"""The experts of a sparse block: gate and up, SwiGLU, quantization, down, weighted sum.

    normed row (e4m3 with scales, or bf16) x w13 [X, 2 I, D] -> SwiGLU -> bf16 [T, S, I]
    that, quantized in groups of 128, x w2 [X, D, I], times the slot's weight -> bf16 [T, S, D]
    the sum over slots in fp32 -> bf16 [T, D]

Four launches, three where weights are bf16. A fixed number of programs walks the list of distinct
experts that the router left behind, so that a tile of weights is read once for all rows that chose
its expert; tokens are the narrow side of the product on the tensor cores. Of few rows there is no
list: programs walk the pairs, and pass over one whose expert an earlier row has chosen. What is to
be known of a program's next item is asked for during the one before. A launch of its own adds the
slots up: counters, by which the last of a row's slots would know that it is, cost more. A row's
result does not depend on the rows beside it: the order of every sum is fixed by the shapes and by
the row's own slots.

Stock's rounding points (layers/moe/moe_runner/triton_utils/fused_moe.py): gate and up rounded to
bf16, silu(gate) * up computed in fp32 and rounded once, groups of 128 quantized, every slot's
output multiplied by its weight in fp32 and then rounded, their sum in fp32 and rounded.

One file of more than 400 lines, since its parts are one thing: the launches share pairs and
tilings, and are nothing one without the other.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    DOT_DTYPE,
    INTERPRETED,
    MOST_ROWS,
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.expert_choice import (
    FEW,
    FEW_SLOTS,
    choosers_of,
    entry_at,
    first_to_choose,
    pair_at,
    pairs_of,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import (
    GROUP,
    quantize_rows,
    reference_quantize,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.router import Routed


@triton.jit
def _operands(
    weights,
    values,
    k,
    rows,
    tokens,
    K: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """A block of a product: weights [R, BLOCK_K], and the tokens' values [BLOCK_K, TOKENS].

    weights: pointers [R, 1] to rows; values: [1, TOKENS] to tokens; k: [BLOCK_K]. rows, tokens:
    which of them there are. WHOLE: neither a row nor a k lies beyond the end.
    """
    if WHOLE:
        w = tl.load(weights + k[None, :])
        a = tl.load(values + k[:, None], mask=tokens[None, :], other=0.0)
    else:
        inside = k < K
        at = weights + k[None, :]
        there = rows[:, None] & inside[None, :]
        w = tl.load(at, mask=there, other=0.0)
        a = tl.load(values + k[:, None], mask=tokens[None, :] & inside[:, None], other=0.0)
    return w, a


@triton.jit
def _gate_up_tile(
    x,
    x_scale,
    w13,
    w13_scale,
    act,
    expert,
    tile,
    pair,
    live,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    QUANTIZED: tl.constexpr,
    DOT: tl.constexpr,
):
    """A tile of columns of gate and of up, for a tile of an expert's pairs."""
    WHOLE: tl.constexpr = D % BLOCK_K == 0 and WIDTH % TILE == 0
    row = tl.arange(0, 2 * TILE)
    half = row // TILE
    k0 = tl.arange(0, BLOCK_K)
    column = tile * TILE + row % TILE
    real = column < WIDTH
    weights = w13 + expert * (2 * WIDTH * D) + (half * WIDTH + column)[:, None] * D
    source = pair // SLOTS
    total = tl.zeros([2 * TILE, TOKENS], tl.float32)
    for k in tl.range(0, D, BLOCK_K, num_stages=STAGES):
        at = x + source[None, :] * D
        w, a = _operands(weights, at, k + k0, real, live, D, WHOLE)
        if QUANTIZED:
            block = w13_scale + expert * (2 * WIDTH // 128 * (D // 128)) + k // 128
            block += tile * TILE // 128 * (D // 128)
            scale = tl.where(half == 0, tl.load(block), tl.load(block + WIDTH // 128 * (D // 128)))
            a_scale = tl.load(x_scale + source * (D // 128) + k // 128, mask=live, other=0.0)
            total += tl.dot(w, a) * (scale[:, None] * a_scale[None, :])
        else:
            total = tl.dot(w.to(DOT), a.to(DOT), total)
    gate, up = tl.split(tl.permute(tl.reshape(total, [2, TILE, TOKENS]), [1, 2, 0]))
    gate = to_bfloat16(gate).to(tl.float32)
    up = to_bfloat16(up).to(tl.float32)
    out = to_bfloat16(gate / (1.0 + tl.exp(-gate)) * up)
    n = tile * TILE + tl.arange(0, TILE)
    tl.store(
        act + pair[None, :] * WIDTH + n[:, None], out, mask=live[None, :] & (n < WIDTH)[:, None]
    )


@triton.jit(do_not_specialize=["T"])
def _gate_up(
    x,
    x_scale,
    ids,
    work,
    pairs,
    w13,
    w13_scale,
    act,
    T,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    QUANTIZED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    TOP_K: tl.constexpr,
    PAIRS: tl.constexpr,
    LATE: tl.constexpr,
    PDL: tl.constexpr,
):
    # Nothing is started before this wait: `_down` reads ahead of its own what was chosen.
    if PDL:
        gdc_wait()
        if not LATE:
            gdc_launch_dependents()
    token = tl.arange(0, TOKENS)
    if PAIRS:
        items = (T * TOP_K + SLOTS - TOP_K) * TILES
        index = tl.arange(0, PAIRS)
        expert = tl.load(ids + pair_at(tl.program_id(0) // TILES, SLOTS, TOP_K))
        all_ids = tl.load(ids + index, mask=index < T * SLOTS, other=-1)
        for item in range(tl.program_id(0), items, tl.num_programs(0)):
            row = pair_at(item // TILES, SLOTS, TOP_K) // SLOTS
            choosers = choosers_of(expert, all_ids, SLOTS, PAIRS)
            if first_to_choose(choosers, row):
                live, pair = pairs_of(choosers, token, SLOTS)
                _gate_up_tile(
                    x, x_scale, w13, w13_scale, act, expert.to(tl.int64), item % TILES, pair, live,
                    D, WIDTH, SLOTS, TILE, TOKENS, BLOCK_K, STAGES, QUANTIZED, DOT,
                )  # fmt: skip
            following = tl.minimum(item + tl.num_programs(0), items - 1) // TILES
            expert = tl.load(ids + pair_at(following, SLOTS, TOP_K))
    else:
        items = tl.load(work) * TILES
        entry, ahead = entry_at(work, pairs, tl.program_id(0) // TILES, token, ROWS)
        for item in range(tl.program_id(0), items, tl.num_programs(0)):
            expert = (entry & 0xFFFF).to(tl.int64)
            count = entry >> 16
            mine = pairs + (item // TILES) * ROWS
            following = tl.minimum(item + tl.num_programs(0), items - 1) // TILES
            entry, next_ahead = entry_at(work, pairs, following, token, ROWS)
            for first in range(0, count, TOKENS):
                live = first + token < count
                pair = tl.where(live, ahead, 0)
                further = first + TOKENS + token
                ahead = tl.load(mine + further, mask=live & (further < count), other=0)
                _gate_up_tile(
                    x, x_scale, w13, w13_scale, act, expert, item % TILES, pair, live,
                    D, WIDTH, SLOTS, TILE, TOKENS, BLOCK_K, STAGES, QUANTIZED, DOT,
                )  # fmt: skip
            ahead = next_ahead
    if PDL and LATE:
        # Not sooner: programs of the next launch would take the places of this one's unevenly.
        gdc_launch_dependents()


@triton.jit
def _down_tile(
    act,
    act_scale,
    weights,
    w2,
    w2_scale,
    partial,
    expert,
    tile,
    pair,
    live,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    QUANTIZED: tl.constexpr,
    DOT: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """A tile of columns of what goes down, for a tile of an expert's pairs."""
    WHOLE: tl.constexpr = WIDTH % BLOCK_K == 0 and D % TILE == 0
    k0 = tl.arange(0, BLOCK_K)
    n = tile * TILE + tl.arange(0, TILE)
    real = n < D
    weight = w2 + expert * (D * WIDTH) + n[:, None] * WIDTH
    # Asked for here, and waited for behind the product.
    share = tl.load(weights + pair, mask=live, other=0.0)
    if RENORMALIZE:
        other = tl.arange(0, BLOCK_S)[None, :]
        chances = tl.load(
            weights + (pair // SLOTS * SLOTS)[:, None] + other,
            mask=live[:, None] & (other < TOP_K),
            other=0.0,
        )
    total = tl.zeros([TILE, TOKENS], tl.float32)
    for k in tl.range(0, WIDTH, BLOCK_K, num_stages=STAGES):
        at = act + pair[None, :] * WIDTH
        w, a = _operands(weight, at, k + k0, real, live, WIDTH, WHOLE)
        if QUANTIZED:
            a_scale = tl.load(act_scale + pair * (WIDTH // 128) + k // 128, mask=live, other=0.0)
            block = w2_scale + expert * (D // 128 * (WIDTH // 128)) + k // 128
            scale = tl.load(block + tile * TILE // 128 * (WIDTH // 128))
            total += tl.dot(w, a) * (scale * a_scale)[None, :]
        else:
            total = tl.dot(w.to(DOT), a.to(DOT), total)
    if RENORMALIZE:
        norm = tl.sum(chances, 1)
        routed = (pair % SLOTS < TOP_K) & (norm > 0.0)
        share = share / tl.where(routed, norm, 1.0)
    tl.store(
        partial + pair[None, :] * D + n[:, None],
        to_bfloat16(total * share[None, :]),
        mask=live[None, :] & real[:, None],
    )


@triton.jit(do_not_specialize=["T"])
def _down(
    act,
    act_scale,
    ids,
    work,
    pairs,
    weights,
    w2,
    w2_scale,
    partial,
    T,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    QUANTIZED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    TOP_K: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    LATE: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.arange(0, TOKENS)
    # What was chosen is older than the launch before this one, which had waited for it.
    if PAIRS:
        items = (T * TOP_K + SLOTS - TOP_K) * TILES
        index = tl.arange(0, PAIRS)
        expert = tl.load(
            ids + pair_at(tl.program_id(0) // TILES, SLOTS, TOP_K), cache_modifier=".cg"
        )
        all_ids = tl.load(ids + index, mask=index < T * SLOTS, other=-1, cache_modifier=".cg")
        choosers = choosers_of(expert, all_ids, SLOTS, PAIRS)
    else:
        items = tl.load(work, cache_modifier=".cg") * TILES
        entry, ahead = entry_at(work, pairs, tl.program_id(0) // TILES, token, ROWS)
    if PDL:
        gdc_wait()
        if not LATE:
            gdc_launch_dependents()
    if PAIRS:
        for item in range(tl.program_id(0), items, tl.num_programs(0)):
            row = pair_at(item // TILES, SLOTS, TOP_K) // SLOTS
            following = tl.minimum(item + tl.num_programs(0), items - 1) // TILES
            next_expert = tl.load(ids + pair_at(following, SLOTS, TOP_K), cache_modifier=".cg")
            if first_to_choose(choosers, row):
                live, pair = pairs_of(choosers, token, SLOTS)
                _down_tile(
                    act, act_scale, weights, w2, w2_scale, partial, expert.to(tl.int64),
                    item % TILES, pair, live, D, WIDTH, SLOTS, TILE, TOKENS, BLOCK_K, STAGES,
                    QUANTIZED, DOT, RENORMALIZE, TOP_K, BLOCK_S,
                )  # fmt: skip
            expert = next_expert
            choosers = choosers_of(expert, all_ids, SLOTS, PAIRS)
    else:
        for item in range(tl.program_id(0), items, tl.num_programs(0)):
            expert = entry & 0xFFFF
            count = entry >> 16
            mine = pairs + (item // TILES) * ROWS
            following = tl.minimum(item + tl.num_programs(0), items - 1) // TILES
            entry, next_ahead = entry_at(work, pairs, following, token, ROWS)
            for first in range(0, count, TOKENS):
                live = first + token < count
                pair = tl.where(live, ahead, 0)
                further = first + TOKENS + token
                ahead = tl.load(mine + further, mask=live & (further < count), other=0)
                _down_tile(
                    act, act_scale, weights, w2, w2_scale, partial, expert.to(tl.int64),
                    item % TILES, pair, live, D, WIDTH, SLOTS, TILE, TOKENS, BLOCK_K, STAGES,
                    QUANTIZED, DOT, RENORMALIZE, TOP_K, BLOCK_S,
                )  # fmt: skip
            ahead = next_ahead
    if PDL and LATE:
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
    """[T * SLOTS, D] -> [T, D]: the slots of a row in fp32, from the first to the last."""
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


@dataclass(frozen=True)
class ExpertTiling:
    """How one of the two products is laid over the device.

    tile: columns of the result a program (of gate and of up alike). tokens: rows of the batch at a
    time; 16 and more multiply e4m3 as it is, 8 as fp16, which are different results. programs: of
    one multiprocessor, no more than it holds at once. block: of the sum at a time. late: whether
    the next launch starts behind the last item of a program instead of beside its first, where its
    programs would take the places of this one's unevenly; None: where a program has several items.
    """

    tile: int
    tokens: int
    stages: int
    warps: int
    programs: int
    block: int = 128
    late: bool | None = None


ADDED = 256
"""Columns of the sum over slots that a program has."""
UP = {
    1: ExpertTiling(tile=32, tokens=16, stages=8, warps=4, programs=2),
    2: ExpertTiling(tile=32, tokens=16, stages=6, warps=4, programs=3),
    4: ExpertTiling(tile=32, tokens=16, stages=4, warps=4, programs=5),
    16: ExpertTiling(tile=32, tokens=16, stages=3, warps=4, programs=5),
    MOST_ROWS: ExpertTiling(tile=64, tokens=32, stages=4, warps=4, programs=2),
}
"""For up to so many rows: as many programs as hold all items at once or, of more rows, an equal
number each, and of few programs more of each one's weights on their way. Beyond 16 rows experts are
chosen by more than 16 of them, whose weights are then read and multiplied once."""
DOWN = {
    8: ExpertTiling(tile=128, tokens=16, stages=4, warps=4, programs=3),
    MOST_ROWS: ExpertTiling(tile=128, tokens=16, stages=3, warps=4, programs=3),
}
UP_BF16 = {MOST_ROWS: ExpertTiling(tile=32, tokens=16, stages=3, warps=4, programs=3)}
DOWN_BF16 = {MOST_ROWS: ExpertTiling(tile=64, tokens=16, stages=3, warps=4, programs=3)}

_processors: dict[torch.device, int] = {}


def _multiprocessors(device: torch.device) -> int:
    if INTERPRETED:
        return 1
    if device not in _processors:
        _processors[device] = torch.cuda.get_device_properties(device).multi_processor_count
    return _processors[device]


def _for(rows: int, tilings: dict[int, ExpertTiling]) -> ExpertTiling:
    """The tiling of so many rows."""
    return next(tiling for most, tiling in tilings.items() if rows <= most)


def experts(
    routed: Routed,
    w13: torch.Tensor,
    w13_scale: torch.Tensor | None,
    w2: torch.Tensor,
    w2_scale: torch.Tensor | None,
    up: ExpertTiling | None = None,
    down: ExpertTiling | None = None,
    add: bool = True,
) -> torch.Tensor:
    """What the chosen experts make of the normed rows: [T, D] bf16.

    w13: [X, 2 I, D], gate above up; w2: [X, D, I]; X counts the shared expert. e4m3 with fp32
    scales [X, 2 I / 128, D / 128] and [X, D / 128, I / 128], or bf16 without. I may be the shard of
    one rank. add: False leaves the slots' outputs as they are, [T, S, D], for whoever reads them to
    add in fp32 from the first to the last.
    `_down` reads the list ahead of its wait. That is right because `_gate_up` starts those behind
    it after its own wait, when whatever wrote the list has ended.
    """
    quantized = w13_scale is not None
    x = routed.codes if quantized else routed.normed
    assert x is not None
    width, routing, device = w2.shape[2], routed.routing, x.device
    rows, slots = routing.ids.shape
    columns = x.shape[1]
    if not routing.listed and (rows > FEW or slots > FEW_SLOTS):
        raise ValueError(f"{rows} rows of {slots} slots without a list of their experts")
    up = up or _for(rows, UP if quantized else UP_BF16)
    down = down or _for(rows, DOWN if quantized else DOWN_BF16)
    if quantized and (width % GROUP or columns % GROUP):
        raise ValueError(f"experts of {columns} x {width} are not whole groups of {GROUP}")
    act = torch.empty(rows * slots, width, dtype=torch.bfloat16, device=device)
    shared = _shared(routed, w13)
    partial = torch.empty(rows * slots, columns, dtype=torch.bfloat16, device=device)
    # No more distinct experts than pairs, and every row has the shared one.
    distinct = min(w2.shape[0], rows * (slots - shared) + shared)
    shape = {
        "D": columns,
        "WIDTH": width,
        "SLOTS": slots,
        "QUANTIZED": quantized,
        "DOT": DOT_DTYPE,
        "ROWS": routing.pairs.shape[1],
        "TOP_K": slots - shared,
        "PAIRS": 0 if routing.listed else triton.next_power_of_2(FEW * FEW_SLOTS),
        "PDL": dependent_launch(),
    }

    def laid(tiling: ExpertTiling, tiles: int) -> tuple[tuple[int], bool]:
        """The grid, and whether the next launch starts late."""
        room = tiling.programs * _multiprocessors(device)
        late = distinct * tiles > room if tiling.late is None else tiling.late
        return (min(distinct * tiles, room),), late

    tiles = triton.cdiv(width, up.tile)
    grid, late = laid(up, tiles)
    _gate_up[grid](
        x,
        x if routed.scales is None else routed.scales,
        routing.ids,
        routing.work,
        routing.pairs,
        w13,
        w13 if w13_scale is None else w13_scale,
        act,
        rows,
        TILES=tiles,
        TILE=up.tile,
        TOKENS=up.tokens,
        BLOCK_K=up.block,
        STAGES=up.stages,
        LATE=late,
        num_warps=up.warps,
        **shape,
        **launch_options(),
    )
    act_scale = None
    if quantized:
        act, act_scale = quantize_rows(act)
    tiles = triton.cdiv(columns, down.tile)
    grid, late = laid(down, tiles)
    _down[grid](
        act,
        act if act_scale is None else act_scale,
        routing.ids,
        routing.work,
        routing.pairs,
        routing.weights,
        w2,
        w2 if w2_scale is None else w2_scale,
        partial,
        rows,
        TILES=tiles,
        TILE=down.tile,
        TOKENS=down.tokens,
        BLOCK_K=down.block,
        STAGES=down.stages,
        LATE=late,
        RENORMALIZE=routing.renormalize,
        BLOCK_S=triton.next_power_of_2(slots),
        num_warps=down.warps,
        **shape,
        **launch_options(),
    )
    if not add:
        return partial.view(rows, slots, columns)
    out = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
    _add_slots[(rows, triton.cdiv(columns, ADDED))](
        partial,
        out,
        D=columns,
        SLOTS=slots,
        BLOCK=ADDED,
        PDL=dependent_launch(),
        num_warps=1,
        **launch_options(),
    )
    return out


def _shared(routed: Routed, w13: torch.Tensor) -> bool:
    """Whether a shared expert stands behind the routed ones, whose list is one longer than they."""
    return routed.routing.work.shape[0] == w13.shape[0] + 1


def reference_experts(
    routed: Routed,
    w13: torch.Tensor,
    w13_scale: torch.Tensor | None,
    w2: torch.Tensor,
    w2_scale: torch.Tensor | None,
) -> torch.Tensor:
    """`experts` in plain torch, products in float64 and everything else rounded as there."""
    ids, weights = routed.routing.ids.long(), routed.routing.weights.clone()
    rows, slots = ids.shape
    if routed.routing.renormalize:
        chosen = weights[:, : slots - _shared(routed, w13)]
        chosen /= chosen.sum(-1, keepdim=True)
    width = w2.shape[-1]
    x = routed.normed.double()
    if routed.codes is not None:
        assert routed.scales is not None
        x = _dequantized(routed.codes, routed.scales)
    out = torch.zeros(rows, slots, w2.shape[1], dtype=torch.bfloat16, device=x.device)
    for row in range(rows):
        for slot in range(slots):
            expert = int(ids[row, slot])
            up_weight = _weight(w13, w13_scale, expert)
            gate, up = (up_weight @ x[row]).bfloat16().float().split(width)
            act = (gate / (1 + torch.exp(-gate)) * up).bfloat16()
            if w2_scale is not None:
                codes, scales = reference_quantize(act[None])
                a = _dequantized(codes, scales)[0]
            else:
                a = act.double()
            partial = (_weight(w2, w2_scale, expert) @ a).float() * weights[row, slot]
            out[row, slot] = partial.bfloat16()
    total = torch.zeros(rows, w2.shape[1], device=x.device)
    for slot in range(slots):
        total = total + out[:, slot].float()
    return total.bfloat16()


def _dequantized(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """[T, K] e4m3 and [T, K / 128] -> float64 [T, K]."""
    return codes.double() * scales.double().repeat_interleave(GROUP, -1)


def _weight(weight: torch.Tensor, scale: torch.Tensor | None, expert: int) -> torch.Tensor:
    """One expert's weight as float64."""
    dense = weight[expert].double()
    if scale is None:
        return dense
    blocks = scale[expert].double().repeat_interleave(GROUP, 0)[: dense.shape[0]]
    return dense * blocks.repeat_interleave(GROUP, 1)[:, : dense.shape[1]]
