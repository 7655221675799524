"""The choice of experts: top-k of the router's logits, and who reads which expert.

    logits [T, E] bf16 -> softmax, the top_k of every row
    ids -> the distinct experts and the rows of each, where there are more than 8 rows

One launch of one program, a warp a row: ten rounds of a maximum over keys that are all different,
which is a warp's own affair. Who reads which expert is then counted by bits, one a row; of few
rows every program of the experts finds it out from the ids, with what stands below `_choose`. The
code is short on purpose: between two layers the weights push it out of the caches, and what a
kernel of 32 KB waited for was its instructions (docs/fast-path-ideas.md). A row's choice and
weights do not depend on the rows beside it.

Stock's rounding points (kernels/ops/moe/moe_fused_gate.py): softmax over all experts in fp32, equal
logits to the lower expert, the shared expert's sigmoid in bf16.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    MAX_ROWS,
    MOST_ROWS,
    dependent_launch,
    launch_options,
    to_bfloat16,
)

FEW, FEW_SLOTS = 8, 15
"""Rows, and slots of each, up to which `experts` finds an expert's rows without a list: the list of
4 rows took 3.9 us, of 8 rows 6.9, what stands in its place 0.3 of the launch that follows."""


class Routing(NamedTuple):
    """Which expert every row goes to, and the rows of every expert.

    S is top_k, and one more where a shared expert stands as expert E behind the E routed ones.
    A pair is a row and one of its slots, written row * S + slot.

    ids: [T, S] int32, the experts of a row from the most to the least probable, the shared last.
    weights: [T, S] fp32, their probabilities among all experts, and the shared expert's own.
    work: [E + 2] int32. work[0] is the number of distinct experts in the batch; work[1:] are they,
    each as id + (number of its rows << 16): the shared one, then the others, from the lower and
    the upper half of a power of two in turns.
    pairs: [E + 1, rows_of_list(T)] int32; pairs[i] are the pairs of the expert at work[1 + i],
    ascending.
    renormalize: whether the routed experts' weights are still to be divided by their sum.
    listed: whether there is a list; work and pairs are undefined without.
    What lies behind the counts is undefined.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    work: torch.Tensor
    pairs: torch.Tensor
    renormalize: bool
    listed: bool = True


def rows_of_list(rows: int) -> int:
    """Places that every expert has in a list for a batch of so many rows."""
    return MAX_ROWS if rows <= MAX_ROWS else MOST_ROWS


@triton.jit
def _keys(score, e, inside, BLOCK_E: tl.constexpr):
    """bf16 logits -> int32 that are all different and ordered as the experts are to be chosen.

    A bf16's bits as an ordered integer, and the expert below: equal logits go to the lower one.
    """
    score = tl.where(score == score, score, -1e30)
    score = tl.where(score == 0.0, 0.0, score)
    order = score.to(tl.int32, bitcast=True) >> 16
    order = tl.where(order < 0, order ^ 0x7FFF, order)
    return score, tl.where(inside, order * BLOCK_E + (BLOCK_E - 1 - e), -1073741824)


@triton.jit
def _ones(x):
    """How many bits of an int32 are set."""
    x = x.to(tl.uint32, bitcast=True)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    x = x + (x >> 8)
    return ((x + (x >> 16)) & 63).to(tl.int32)


@triton.jit
def _score(key, BLOCK_E: tl.constexpr):
    """The bf16 logit of a key as fp32."""
    order = (key - (key & (BLOCK_E - 1))) // BLOCK_E
    order = tl.where(order < 0, order ^ 0x7FFF, order)
    return (order << 16).to(tl.float32, bitcast=True)


# Were T or the rounds constants, the code would be longer, and compiled again.
@triton.jit(do_not_specialize=["T", "rounds"])
def _choose(
    logits,
    shared_logits,
    ids,
    weights,
    work,
    pairs,
    T,
    rounds,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    LIST: tl.constexpr,
    PDL: tl.constexpr,
):
    SLOTS: tl.constexpr = TOP_K + SHARED
    # In two halves: 512 logits at once would be loaded by two warps a row.
    t = tl.arange(0, BLOCK_T)
    e = tl.arange(0, HALF)
    slot = tl.arange(0, BLOCK_K)[None, :]
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    live = (t < T)[:, None]
    at = logits + t[:, None] * E + e[None, :]
    inside = (e < E)[None, :]
    inside_too = (e + HALF < E)[None, :]
    low = tl.load(at, mask=live & inside, other=-float("inf")).to(tl.float32)
    high = tl.load(at + HALF, mask=live & inside_too, other=-float("inf")).to(tl.float32)
    low, low_key = _keys(low, e[None, :], inside, 2 * HALF)
    high, high_key = _keys(high, e[None, :] + HALF, inside_too, 2 * HALF)
    largest = tl.maximum(tl.max(low, 1), tl.max(high, 1))[:, None]
    total = tl.sum(tl.exp(low - largest) + tl.exp(high - largest), 1)[:, None]
    winners = tl.full([BLOCK_T, BLOCK_K], 0, tl.int32)
    for round in tl.range(0, rounds, num_stages=1):
        best = tl.maximum(tl.max(low_key, 1), tl.max(high_key, 1))[:, None]
        winners = tl.where(slot == round, best, winners)
        # Behind all others from now on.
        low_key = tl.where(low_key == best, -2147483648, low_key)
        high_key = tl.where(high_key == best, -2147483648, high_key)
    chosen = 2 * HALF - 1 - (winners & (2 * HALF - 1))
    won = live & (slot < TOP_K)
    pair = t[:, None] * SLOTS + slot
    tl.store(ids + pair, chosen, mask=won)
    tl.store(weights + pair, tl.exp(_score(winners, 2 * HALF) - largest) / total, mask=won)
    if SHARED:
        gate = tl.load(shared_logits + t, mask=t < T, other=0.0).to(tl.float32)
        gate = to_bfloat16(1.0 / (1.0 + tl.exp(-gate))).to(tl.float32)
        tl.store(ids + t * SLOTS + TOP_K, tl.full([BLOCK_T], E, tl.int32), mask=t < T)
        tl.store(weights + t * SLOTS + TOP_K, gate, mask=t < T)
    if LIST:
        bit = tl.where(live, (1 << t)[:, None], 0)
        low_rows = tl.sum(tl.where(low_key == -2147483648, bit, 0), 0)
        high_rows = tl.sum(tl.where(high_key == -2147483648, bit, 0), 0)
        # Tables of all experts, those of the two halves taking turns.
        rows = tl.reshape(tl.join(low_rows, high_rows), [2 * HALF])
        turn = tl.arange(0, 2 * HALF)
        used = (rows != 0).to(tl.int32)
        place = SHARED + tl.cumsum(used, 0) - used
        expert = turn // 2 + turn % 2 * HALF
        tl.store(work + 1 + place, expert + (_ones(rows) << 16), mask=used != 0)
        tl.store(work, SHARED + tl.sum(used, 0))
        index = tl.reshape(chosen % HALF * 2 + chosen // HALF, [BLOCK_T * BLOCK_K])
        mine = tl.reshape(tl.gather(rows, index, 0), [BLOCK_T, BLOCK_K])
        listed = tl.reshape(tl.gather(place, index, 0), [BLOCK_T, BLOCK_K])
        before = _ones(mine & ((1 << t)[:, None] - 1))
        tl.store(pairs + listed * ROWS + before, pair, mask=won)
        if SHARED:
            tl.store(work + 1, E + (T << 16))
            tl.store(pairs + t, t * SLOTS + TOP_K, mask=t < T)


@triton.jit
def entry_at(work, pairs, place, token, ROWS: tl.constexpr):
    """With the list: its entry at a place, and its first pairs; undefined behind its end."""
    entry = tl.load(work + 1 + place, cache_modifier=".cg")
    return entry, tl.load(pairs + place * ROWS + token, cache_modifier=".cg")


@triton.jit
def pair_at(place, SLOTS: tl.constexpr, TOP_K: tl.constexpr):
    """Without a list: the pair at a place. The shared expert's of the first row, then all routed
    ones of all rows; whose expert an earlier row has, is passed over (`first_to_choose`)."""
    SHARED: tl.constexpr = SLOTS - TOP_K
    routed = place - SHARED
    return tl.where(routed < 0, TOP_K, routed // TOP_K * SLOTS + routed % TOP_K)


@triton.jit
def choosers_of(expert, ids, SLOTS: tl.constexpr, PAIRS: tl.constexpr):
    """Which rows chose an expert, in one number: four bits a row, its slot and one, or zero.

    ids: [PAIRS], those of at most eight rows of at most fifteen slots, -1 behind them.
    """
    pair = tl.arange(0, PAIRS)
    bits = (pair % SLOTS + 1) << (pair // SLOTS * 4 & 31)
    return tl.sum(tl.where(ids == expert, bits, 0), 0)


@triton.jit
def first_to_choose(choosers, row):
    """Whether no row before this one chose the expert."""
    return choosers & ((1 << row * 4) - 1) == 0


@triton.jit
def pairs_of(choosers, token, SLOTS: tl.constexpr):
    """Whether a row chose the expert, and with which pair: row t at place t."""
    slot = (choosers >> (token * 4 & 31)) & 15
    live = (token < 8) & (slot > 0)
    return live, tl.where(live, token * SLOTS + slot - 1, 0)


@dataclass(frozen=True)
class RouterTiling:
    """How `choose` is laid over its program; results do not depend on it.

    warps: the most that share the rows. listed: whether to make the list of experts; None: where
    there are more rows or slots than `experts` does without.
    """

    warps: int = 16
    listed: bool | None = None


def choose(
    logits: torch.Tensor,
    shared_logits: torch.Tensor | None,
    top_k: int,
    renormalize: bool,
    tiling: RouterTiling | None = None,
) -> Routing:
    """The choice alone: logits [T, E] bf16, shared_logits [T] bf16."""
    tiling = tiling or RouterTiling()
    rows, count = logits.shape
    shared, device = shared_logits is not None, logits.device
    slots = top_k + shared
    listed = tiling.listed
    if listed is None:
        listed = rows > FEW or slots > FEW_SLOTS

    def integers(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device=device)

    ids, work = integers(rows, slots), integers(count + 2)
    pairs = integers(count + 1, rows_of_list(rows))
    weights = torch.empty(rows, slots, dtype=torch.float32, device=device)
    block = triton.next_power_of_2(rows)
    _choose[(1,)](
        logits,
        logits if shared_logits is None else shared_logits,
        ids,
        weights,
        work,
        pairs,
        rows,
        top_k,
        E=count,
        TOP_K=top_k,
        SHARED=int(shared),
        BLOCK_T=block,
        BLOCK_K=triton.next_power_of_2(top_k),
        HALF=triton.next_power_of_2(count) // 2,
        ROWS=pairs.shape[1],
        LIST=listed,
        PDL=dependent_launch(),
        num_warps=min(block, tiling.warps),
        **launch_options(),
    )
    return Routing(ids, weights, work, pairs, renormalize, listed)


def reference_routing(
    logits: torch.Tensor, shared_logits: torch.Tensor | None, top_k: int, renormalize: bool
) -> Routing:
    """The choice alone, in plain torch: logits [T, E] bf16, shared_logits [T] bf16."""
    rows, experts = logits.shape
    scores = logits.float()
    ids = torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = torch.softmax(scores, -1).gather(1, ids)
    if shared_logits is not None:
        ids = torch.cat([ids, torch.full_like(ids[:, :1], experts)], 1)
        weights = torch.cat([weights, torch.sigmoid(shared_logits).float()[:, None]], 1)
    slots = ids.shape[1]
    work = torch.zeros(experts + 2, dtype=torch.int32)
    pairs = torch.zeros(experts + 1, rows_of_list(rows), dtype=torch.int32)
    by_expert: dict[int, list[int]] = {}
    for pair, expert in enumerate(ids.flatten().tolist()):
        by_expert.setdefault(expert, []).append(pair)
    half = triton.next_power_of_2(experts) // 2
    order = sorted(by_expert, key=lambda expert: (expert != experts, expert % half, expert))
    work[0] = len(order)
    for place, expert in enumerate(order):
        mine = by_expert[expert]
        work[1 + place] = expert + (len(mine) << 16)
        pairs[place, : len(mine)] = torch.tensor(mine)
    to = logits.device
    assert slots * rows >= len(order)
    return Routing(ids.int(), weights, work.to(to), pairs.to(to), renormalize)
