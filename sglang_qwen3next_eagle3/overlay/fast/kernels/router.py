"""What opens the sparse block: add, norm, router, top-k, and who reads which expert.

    hidden, residual [T, D] bf16 -> residual + hidden, normed row (bf16, or e4m3 with scales)
    normed [T, D] x router [E, D] bf16 -> logits [T, E] bf16 -> softmax -> top-k, renormalized
    normed [T, D] x shared gate [1, D] bf16 -> bf16 -> sigmoid in bf16: the weight of expert E

Every program of the first grid norms its rows again, from the second-level cache, and multiplies
them by a few rows of the router; one program more a block of rows stores what the rest of the
block needs. The last program to arrive chooses the experts of all rows, all in integers or in one
row at a time, so that a row's choice and weights do not depend on the rows beside it.

Stock's rounding points (models/qwen2_moe.py, kernels/ops/moe/moe_fused_gate.py): logits in bf16,
softmax over all experts in fp32, equal logits to the lower expert, weights divided by their sum,
the shared expert's sigmoid in bf16.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

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
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import (
    reference_add_norm_quantize,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import GROUP, quantize_groups


class Routing(NamedTuple):
    """Which expert every row goes to, and the rows of every expert.

    S is top_k, and one more where a shared expert stands as expert E behind the E routed ones.
    A pair is a row and one of its slots, written row * S + slot.

    ids: [T, S] int32, the experts of a row from the most to the least probable, the shared last.
    weights: [T, S] fp32, what a slot's output is multiplied by.
    work: [E + 2] int32. work[0] is the number of distinct experts in the batch; work[1:] are they,
    the shared one first and the others ascending, each as id + (number of its rows << 16).
    pairs: [E + 1, MAX_ROWS] int32; pairs[i] are the pairs of the expert at work[1 + i], ascending.
    What lies behind the counts is undefined.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    work: torch.Tensor
    pairs: torch.Tensor


class Routed(NamedTuple):
    """What `experts` needs of a batch, and the stream it was taken from.

    residual: [T, D] bf16, a new tensor. normed: [T, D] bf16. codes: [T, D] e4m3 with
    scales: [T, D / 128] fp32, or None and None.
    """

    residual: torch.Tensor
    normed: torch.Tensor
    codes: torch.Tensor | None
    scales: torch.Tensor | None
    routing: Routing


@triton.jit
def _choose(
    logits,
    shared_logits,
    ids,
    weights,
    work,
    pairs,
    T,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    SHARED: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    LOG_E: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    CHUNKS: tl.constexpr,
    ROWS: tl.constexpr,
):
    SLOTS: tl.constexpr = TOP_K + SHARED
    SMALLEST: tl.constexpr = -2147483648
    e = tl.arange(0, BLOCK_E)
    s = tl.arange(0, BLOCK_S)[None, :]
    seen = tl.zeros([BLOCK_E], tl.int32)
    for first in range(0, T, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        live = (t < T)[:, None]
        inside = live & (e < E)[None, :]
        # Past the first-level cache: other programs wrote these.
        score = tl.load(
            logits + t[:, None] * E + e[None, :],
            mask=inside,
            other=-float("inf"),
            cache_modifier=".cg",
        ).to(tl.float32)
        score = tl.where(score == score, score, -1e30)
        score = tl.where(score == 0.0, 0.0, score)
        # A bf16's bits as an ordered integer, and the expert below: every key is different, and
        # equal logits go to the lower expert.
        order = score.to(tl.int32, bitcast=True) >> 16
        order = tl.where(order < 0, order ^ 0x7FFF, order)
        key = tl.where(inside, order * BLOCK_E + (BLOCK_E - 1 - e)[None, :], SMALLEST)
        slot = tl.full([BLOCK_T, BLOCK_E], -1, tl.int32)
        chosen = tl.full([BLOCK_T, BLOCK_S], E, tl.int32)
        share = tl.zeros([BLOCK_T, BLOCK_S], tl.float32)
        norm = tl.zeros([BLOCK_T], tl.float32)
        largest = norm
        total = norm
        for k in tl.static_range(TOP_K):
            best = tl.max(key, 1)
            order_k = best >> LOG_E
            order_k = tl.where(order_k < 0, order_k ^ 0x7FFF, order_k)
            score_k = (order_k << 16).to(tl.float32, bitcast=True)
            if k == 0:
                largest = score_k
                # Summed as integers, which gives the same in whatever order.
                parts = tl.exp(score - largest[:, None]) * 1099511627776.0
                parts = tl.where(inside, parts, 0.0)
                total = tl.sum(parts.to(tl.int64), 1).to(tl.float32) * (1.0 / 1099511627776.0)
            share_k = tl.exp(score_k - largest) / total
            norm += share_k
            won = key == best[:, None]
            slot = tl.where(won, k, slot)
            key = tl.where(won, SMALLEST, key)
            chosen = tl.where(s == k, (BLOCK_E - 1 - (best & (BLOCK_E - 1)))[:, None], chosen)
            share = tl.where(s == k, share_k[:, None], share)
        if RENORMALIZE:
            share = share / tl.where(norm > 0.0, norm, 1.0)[:, None]
        if SHARED:
            gate = tl.load(shared_logits + t, mask=t < T, other=0.0, cache_modifier=".cg")
            gate = to_bfloat16(1.0 / (1.0 + tl.exp(-gate.to(tl.float32)))).to(tl.float32)
            share = tl.where(s == TOP_K, gate[:, None], share)
        at = t[:, None] * SLOTS + s
        tl.store(ids + at, chosen, mask=live & (s < SLOTS))
        tl.store(weights + at, share, mask=live & (s < SLOTS))
        seen += tl.sum(((slot >= 0) & inside).to(tl.int32), 0)
        if CHUNKS == 1:
            place = _places(seen, SHARED)
            none = tl.zeros([BLOCK_E], tl.int32)
            _list_pairs(pairs, slot, inside, t, e, place, none, SLOTS, BLOCK_T, ROWS)
        if SHARED:
            tl.store(pairs + t, t * SLOTS + TOP_K, mask=t < T)
    place = _places(seen, SHARED)
    if CHUNKS > 1:
        # Where an expert stands in the list is known only now: the rows once more.
        tl.debug_barrier()
        earlier = tl.zeros([BLOCK_E], tl.int32)
        for first in range(0, T, BLOCK_T):
            t = first + tl.arange(0, BLOCK_T)
            inside = (t < T)[:, None] & (e < E)[None, :]
            slot = tl.full([BLOCK_T, BLOCK_E], -1, tl.int32)
            for k in tl.static_range(TOP_K):
                taken = tl.load(ids + t * SLOTS + k, mask=t < T, other=-1)
                slot = tl.where(taken[:, None] == e[None, :], k, slot)
            _list_pairs(pairs, slot, inside, t, e, place, earlier, SLOTS, BLOCK_T, ROWS)
            earlier += tl.sum(((slot >= 0) & inside).to(tl.int32), 0)
    tl.store(work + 1 + place, e + (seen << 16), mask=seen > 0)
    tl.store(work, tl.sum((seen > 0).to(tl.int32), 0) + SHARED)
    if SHARED:
        tl.store(work + 1, E + (T << 16))


@triton.jit
def _places(seen, SHARED: tl.constexpr):
    used = (seen > 0).to(tl.int32)
    return SHARED + tl.cumsum(used, 0) - used


@triton.jit
def _list_pairs(
    pairs,
    slot,
    inside,
    t,
    e,
    place,
    earlier,
    SLOTS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    ROWS: tl.constexpr,
):
    took = ((slot >= 0) & inside).to(tl.int32)
    before = earlier[None, :]
    if BLOCK_T > 1:
        before += tl.cumsum(took, 0) - took
    at = pairs + place[None, :] * ROWS + before
    tl.store(at, t[:, None] * SLOTS + slot, mask=took != 0)


@triton.jit
def _route(
    hidden,
    residual,
    norm_weight,
    router,
    shared_gate,
    residual_out,
    normed_out,
    codes_out,
    scales_out,
    logits,
    shared_logits,
    ids,
    weights,
    work,
    pairs,
    arrived,
    eps,
    T,
    D: tl.constexpr,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    ADD: tl.constexpr,
    SHARED: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    QUANTIZE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    LOG_E: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    CHUNKS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    PER_PROGRAM: tl.constexpr,
    FUSED: tl.constexpr,
    PDL: tl.constexpr,
):
    tile = tl.program_id(0)
    d = tl.arange(0, BLOCK_D)
    inside = d < D
    e = tile * TILE + tl.arange(0, TILE)
    if PDL:
        gdc_launch_dependents()
    gain = 1.0 + tl.load(norm_weight + d, mask=inside, other=0.0).to(tl.float32)
    # The last tile lies behind the router: its only row is the shared expert's gate.
    row = tl.where(tile < TILES, e * D, 0)[:, None]
    real = (e < E) & (tile < TILES)
    weight = tl.load(router + row + d[None, :], mask=real[:, None] & inside[None, :], other=0.0)
    if PDL:
        gdc_wait()
    for r in tl.static_range(PER_PROGRAM):
        t = tl.program_id(1) * PER_PROGRAM + r
        live = inside & (t < T)
        x = tl.load(hidden + t * D + d, mask=live, other=0.0).to(tl.float32)
        if ADD:
            x += tl.load(residual + t * D + d, mask=live, other=0.0).to(tl.float32)
        mean = tl.sum(x * x, 0) / D
        normed = to_bfloat16(x * tl.rsqrt(mean + eps) * gain)
        if tile < TILES:
            product = tl.sum(weight.to(tl.float32) * normed.to(tl.float32)[None, :], 1)
            tl.store(logits + t * E + e, to_bfloat16(product), mask=(e < E) & (t < T))
        else:
            tl.store(residual_out + t * D + d, to_bfloat16(x), mask=live)
            tl.store(normed_out + t * D + d, normed, mask=live)
            if SHARED:
                gate = tl.load(shared_gate + d, mask=inside, other=0.0).to(tl.float32)
                chance = tl.sum(gate * normed.to(tl.float32), 0)
                tl.store(shared_logits + t, to_bfloat16(chance), mask=t < T)
            if QUANTIZE:
                GROUPS: tl.constexpr = BLOCK_D // 128
                codes, scales = quantize_groups(
                    tl.reshape(normed.to(tl.float32), [GROUPS, 128])
                )
                g = tl.arange(0, GROUPS)
                at = g[:, None] * 128 + tl.arange(0, 128)[None, :]
                tl.store(codes_out + t * D + at, codes, mask=(at < D) & (t < T))
                tl.store(scales_out + t * GROUPS + g, scales, mask=(g < GROUPS) & (t < T))
    if FUSED:
        # All of this program's stores before its arrival, all of the others' behind the last one.
        tl.debug_barrier()
        programs = tl.num_programs(0) * tl.num_programs(1)
        if tl.atomic_add(arrived, 1, sem="acq_rel") == programs - 1:
            tl.store(arrived, 0)
            _choose(
                logits, shared_logits, ids, weights, work, pairs, T, E, TOP_K, SHARED,
                RENORMALIZE, BLOCK_E, LOG_E, BLOCK_S, BLOCK_T, CHUNKS, ROWS,
            )  # fmt: skip


@triton.jit
def _choose_kernel(
    logits,
    shared_logits,
    ids,
    weights,
    work,
    pairs,
    T,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    SHARED: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    LOG_E: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    CHUNKS: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    _choose(
        logits, shared_logits, ids, weights, work, pairs, T, E, TOP_K, SHARED,
        RENORMALIZE, BLOCK_E, LOG_E, BLOCK_S, BLOCK_T, CHUNKS, ROWS,
    )  # fmt: skip


_counters: dict[torch.device, torch.Tensor] = {}


def _counter(device: torch.device) -> torch.Tensor:
    """A zero that the last program to arrive sets back. Not to be made during a graph's capture."""
    if device not in _counters:
        _counters[device] = torch.zeros(1, dtype=torch.int32, device=device)
    return _counters[device]


@dataclass(frozen=True)
class Tiling:
    """How `route` is laid over the device; results do not depend on it.

    tile: rows of the router a program. rows: rows of the batch a program (a power of two).
    fused: whether the last program chooses, or a second launch.
    """

    tile: int = 4
    rows: int = 8
    warps: int = 4
    fused: bool = True
    choosing_warps: int = 4
    block: int = 8
    """Rows that are chosen for at once."""


def route(
    hidden: torch.Tensor,
    residual: torch.Tensor | None,
    norm_weight: torch.Tensor,
    eps: float,
    router_weight: torch.Tensor,
    shared_gate_weight: torch.Tensor | None,
    top_k: int,
    renormalize: bool,
    quantize: bool = True,
    tiling: Tiling | None = None,
) -> Routed:
    """Norm, router and choice of experts of up to MAX_ROWS rows.

    hidden, residual: [T, D] bf16; norm_weight: [D]; router_weight: [E, D] bf16;
    shared_gate_weight: [1, D] bf16, or None where no shared expert is fused.
    quantize: whether the experts' weights are e4m3; D is then 128 times a power of two.
    Launches must follow one another in one stream: they share a counter.
    """
    tiling = tiling or Tiling()
    rows, width = hidden.shape
    count = router_weight.shape[0]
    block = triton.next_power_of_2(width)
    if rows > MAX_ROWS:
        raise ValueError(f"{rows} rows, there is room for {MAX_ROWS}")
    if quantize and block != width:
        raise ValueError(f"a row of {width} values is not 128 times a power of two")
    shared = shared_gate_weight is not None
    device = hidden.device
    residual_out, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    codes = scales = None
    if quantize:
        codes = torch.empty_like(hidden, dtype=torch.float8_e4m3fn)
        scales = torch.empty(rows, width // GROUP, dtype=torch.float32, device=device)
    logits = torch.empty(rows, count, dtype=torch.bfloat16, device=device)
    shared_logits = torch.empty(rows, dtype=torch.bfloat16, device=device)
    routing = _empty_routing(rows, count, top_k + shared, device)
    per_program = min(tiling.rows, triton.next_power_of_2(rows))
    tiles = triton.cdiv(count, tiling.tile)
    _route[(tiles + 1, triton.cdiv(rows, per_program))](
        hidden,
        hidden if residual is None else residual,
        norm_weight,
        router_weight,
        router_weight if shared_gate_weight is None else shared_gate_weight,
        residual_out,
        normed,
        normed if codes is None else codes,
        normed if scales is None else scales,
        logits,
        shared_logits,
        *routing,
        _counter(device),
        eps,
        rows,
        D=width,
        ADD=residual is not None,
        QUANTIZE=quantize,
        BLOCK_D=block,
        TILE=tiling.tile,
        TILES=tiles,
        PER_PROGRAM=per_program,
        FUSED=tiling.fused,
        num_warps=tiling.warps,
        **_choice(rows, count, top_k, shared, renormalize, tiling),
        **launch_options(),
    )
    if not tiling.fused:
        _launch_choice(logits, shared_logits, routing, top_k, shared, renormalize, tiling)
    return Routed(residual_out, normed, codes, scales, routing)


def choose(
    logits: torch.Tensor,
    shared_logits: torch.Tensor | None,
    top_k: int,
    renormalize: bool,
    tiling: Tiling | None = None,
) -> Routing:
    """The choice alone, in a launch of its own: logits [T, E] bf16, shared_logits [T] bf16."""
    shared = shared_logits is not None
    routing = _empty_routing(*logits.shape, top_k + shared, logits.device)
    gates = logits if shared_logits is None else shared_logits
    _launch_choice(logits, gates, routing, top_k, shared, renormalize, tiling or Tiling())
    return routing


def _empty_routing(rows: int, experts: int, slots: int, device: torch.device) -> Routing:
    return Routing(
        torch.empty(rows, slots, dtype=torch.int32, device=device),
        torch.empty(rows, slots, dtype=torch.float32, device=device),
        torch.empty(experts + 2, dtype=torch.int32, device=device),
        torch.empty(experts + 1, MAX_ROWS, dtype=torch.int32, device=device),
    )


def _choice(
    rows: int, experts: int, top_k: int, shared: bool, renormalize: bool, tiling: Tiling
) -> dict[str, Any]:
    """What `_choose` is compiled for."""
    block = min(tiling.block, triton.next_power_of_2(rows))
    return {
        "E": experts,
        "TOP_K": top_k,
        "SHARED": int(shared),
        "RENORMALIZE": renormalize,
        "BLOCK_E": triton.next_power_of_2(experts),
        "LOG_E": (experts - 1).bit_length(),
        "BLOCK_S": triton.next_power_of_2(top_k + shared),
        "BLOCK_T": block,
        "CHUNKS": triton.cdiv(rows, block),
        "ROWS": MAX_ROWS,
        "PDL": dependent_launch(),
    }


def _launch_choice(
    logits: torch.Tensor,
    shared_logits: torch.Tensor,
    routing: Routing,
    top_k: int,
    shared: bool,
    renormalize: bool,
    tiling: Tiling,
) -> None:
    _choose_kernel[(1,)](
        logits,
        shared_logits,
        *routing,
        logits.shape[0],
        num_warps=tiling.choosing_warps,
        **_choice(*logits.shape, top_k, shared, renormalize, tiling),
        **launch_options(),
    )


def reference_routing(
    logits: torch.Tensor, shared_logits: torch.Tensor | None, top_k: int, renormalize: bool
) -> Routing:
    """The choice alone, in plain torch: logits [T, E] bf16, shared_logits [T, 1] bf16."""
    rows, experts = logits.shape
    scores = logits.float()
    ids = torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = torch.softmax(scores, -1).gather(1, ids)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    if shared_logits is not None:
        ids = torch.cat([ids, torch.full_like(ids[:, :1], experts)], 1)
        weights = torch.cat([weights, torch.sigmoid(shared_logits).float()], 1)
    slots = ids.shape[1]
    work = torch.zeros(experts + 2, dtype=torch.int32)
    pairs = torch.zeros(experts + 1, MAX_ROWS, dtype=torch.int32)
    by_expert: dict[int, list[int]] = {}
    for pair, expert in enumerate(ids.flatten().tolist()):
        by_expert.setdefault(expert, []).append(pair)
    order = sorted(by_expert, key=lambda expert: (expert != experts, expert))
    work[0] = len(order)
    for place, expert in enumerate(order):
        mine = by_expert[expert]
        work[1 + place] = expert + (len(mine) << 16)
        pairs[place, : len(mine)] = torch.tensor(mine)
    to = logits.device
    assert slots * rows >= len(order)
    return Routing(ids.int(), weights, work.to(to), pairs.to(to))


def reference_route(
    hidden: torch.Tensor,
    residual: torch.Tensor | None,
    norm_weight: torch.Tensor,
    eps: float,
    router_weight: torch.Tensor,
    shared_gate_weight: torch.Tensor | None,
    top_k: int,
    renormalize: bool,
    quantize: bool = True,
) -> Routed:
    """`route` in plain torch."""
    normed = reference_add_norm_quantize(hidden, residual, norm_weight, eps, quantize)
    row = normed.normed.float()
    logits = (row @ router_weight.float().T).bfloat16()
    shared = None
    if shared_gate_weight is not None:
        shared = (row @ shared_gate_weight.float().T).bfloat16()
    return Routed(*normed, reference_routing(logits, shared, top_k, renormalize))
