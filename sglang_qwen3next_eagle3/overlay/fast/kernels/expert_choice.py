"""The choice of experts: top-k of the router's logits, and who reads which expert.

    logits [T, E] bf16 -> softmax, the top_k of every row
    ids -> the distinct experts and the rows of each

Two launches, one for one row. The first ranks every expert of a row by counting those before it.
The second lists, for more than one row, the distinct experts. A row's choice and weights do not
depend on the rows beside it.

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
    dependent_launch,
    launch_options,
    to_bfloat16,
)


class Routing(NamedTuple):
    """Which expert every row goes to, and the rows of every expert.

    S is top_k, and one more where a shared expert stands as expert E behind the E routed ones.
    A pair is a row and one of its slots, written row * S + slot.

    ids: [T, S] int32, the experts of a row from the most to the least probable, the shared last.
    weights: [T, S] fp32, their probabilities among all experts, and the shared expert's own.
    work: [E + 2] int32. work[0] is the number of distinct experts in the batch; work[1:] are they,
    each as id + (number of its rows << 16): the shared one, then the others in the order in which
    they first appear in ids.
    pairs: [E + 1, MAX_ROWS] int32; pairs[i] are the pairs of the expert at work[1 + i], ascending.
    renormalize: whether the routed experts' weights are still to be divided by their sum.
    What lies behind the counts is undefined.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    work: torch.Tensor
    pairs: torch.Tensor
    renormalize: bool


@triton.jit
def _keys(score, e, inside, BLOCK_E: tl.constexpr):
    """bf16 logits -> int32 that are all different and ordered as the experts are to be chosen.

    A bf16's bits as an ordered integer, and the expert below: equal logits go to the lower one.
    """
    score = tl.where(score == score, score, -1e30)
    score = tl.where(score == 0.0, 0.0, score)
    order = score.to(tl.int32, bitcast=True) >> 16
    order = tl.where(order < 0, order ^ 0x7FFF, order)
    return score, tl.where(inside, order * BLOCK_E + (BLOCK_E - 1 - e), -2147483648)


@triton.jit
def _rank(
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
    BLOCK_E: tl.constexpr,
    CANDIDATES: tl.constexpr,
    ROWS: tl.constexpr,
    LIST: tl.constexpr,
    PDL: tl.constexpr,
):
    SLOTS: tl.constexpr = TOP_K + SHARED
    t = tl.program_id(1)
    e = tl.arange(0, BLOCK_E)
    mine = tl.program_id(0) * CANDIDATES + tl.arange(0, CANDIDATES)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = logits + t * E
    score = tl.load(row + e, mask=e < E, other=-float("inf")).to(tl.float32)
    my_score = tl.load(row + mine, mask=mine < E, other=-float("inf")).to(tl.float32)
    score, key = _keys(score, e, e < E, BLOCK_E)
    my_score, my_key = _keys(my_score, mine, mine < E, BLOCK_E)
    rank = tl.sum((key[:, None] > my_key[None, :]).to(tl.int32), 0)
    largest = tl.max(score, 0)
    total = tl.sum(tl.exp(score - largest), 0)
    won = (rank < TOP_K) & (mine < E)
    tl.store(ids + t * SLOTS + rank, mine, mask=won)
    tl.store(weights + t * SLOTS + rank, tl.exp(my_score - largest) / total, mask=won)
    if SHARED and tl.program_id(0) == 0:
        gate = tl.load(shared_logits + t).to(tl.float32)
        gate = to_bfloat16(1.0 / (1.0 + tl.exp(-gate))).to(tl.float32)
        tl.store(ids + t * SLOTS + TOP_K, E)
        tl.store(weights + t * SLOTS + TOP_K, gate)
    if LIST:
        # One row: its experts are the list.
        tl.store(work + 1 + SHARED + rank, mine + 65536, mask=won)
        tl.store(pairs + (SHARED + rank) * ROWS, rank, mask=won)
        if tl.program_id(0) == 0:
            tl.store(work, SLOTS)
            if SHARED:
                tl.store(work + 1, E + 65536)
                tl.store(pairs, TOP_K)


@triton.jit
def _list(
    ids,
    work,
    pairs,
    places,
    T,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    SLOTS: tl.constexpr = TOP_K + SHARED
    p = tl.arange(0, BLOCK_P)
    real = p < T * TOP_K
    pair = p // TOP_K * SLOTS + p % TOP_K
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    expert = tl.load(ids + pair, mask=real, other=-1)
    before = tl.zeros([BLOCK_P], tl.int32)
    count = tl.zeros([BLOCK_P], tl.int32)
    for start in range(0, T * TOP_K, CHUNK):
        q = start + tl.arange(0, CHUNK)
        other = tl.load(ids + q // TOP_K * SLOTS + q % TOP_K, mask=q < T * TOP_K, other=-2)
        same = (other[:, None] == expert[None, :]).to(tl.int32)
        count += tl.sum(same, 0)
        before += tl.sum(tl.where(q[:, None] < p[None, :], same, 0), 0)
    first = (real & (before == 0)).to(tl.int32)
    place = SHARED + tl.cumsum(first, 0) - first
    tl.store(work + 1 + place, expert + (count << 16), mask=first != 0)
    tl.store(work, tl.sum(first, 0) + SHARED)
    tl.store(places + expert, place, mask=first != 0)
    # Every pair to the place that its expert's first one took.
    tl.debug_barrier()
    place = tl.load(places + expert, mask=real, other=0)
    tl.store(pairs + place * ROWS + before, pair, mask=real)
    if SHARED:
        tl.store(work + 1, E + (T << 16))
        t = tl.arange(0, ROWS)
        tl.store(pairs + t, t * SLOTS + TOP_K, mask=t < T)


@dataclass(frozen=True)
class RouterTiling:
    """How `route` is laid over the device; results do not depend on it.

    tile: rows of the router a program. rows: rows of the batch a program (a power of two).
    candidates: experts a program ranks. chunk: pairs that all are compared with at once.
    listed: whether anybody reads the list of distinct experts.
    """

    tile: int = 8
    rows: int = 2
    warps: int = 4
    candidates: int = 32
    ranking_warps: int = 4
    chunk: int = 64
    listing_warps: int = 4
    listed: bool = True


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

    def integers(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device=device)

    ids, work, pairs = integers(rows, slots), integers(count + 2), integers(count + 1, MAX_ROWS)
    weights = torch.empty(rows, slots, dtype=torch.float32, device=device)
    block = triton.next_power_of_2(count)
    candidates = min(block, tiling.candidates)
    shape = {
        "E": count,
        "TOP_K": top_k,
        "SHARED": int(shared),
        "ROWS": MAX_ROWS,
        "PDL": dependent_launch(),
    }
    _rank[(block // candidates, rows)](
        logits,
        logits if shared_logits is None else shared_logits,
        ids,
        weights,
        work,
        pairs,
        rows,
        BLOCK_E=block,
        CANDIDATES=candidates,
        LIST=rows == 1 and tiling.listed,
        num_warps=tiling.ranking_warps,
        **shape,
        **launch_options(),
    )
    if rows > 1 and tiling.listed:
        _list[(1,)](
            ids,
            work,
            pairs,
            integers(count),
            rows,
            BLOCK_P=triton.next_power_of_2(rows * top_k),
            CHUNK=tiling.chunk,
            num_warps=tiling.listing_warps,
            **shape,
            **launch_options(),
        )
    return Routing(ids, weights, work, pairs, renormalize)


def reference_routing(
    logits: torch.Tensor, shared_logits: torch.Tensor | None, top_k: int, renormalize: bool
) -> Routing:
    """The choice alone, in plain torch: logits [T, E] bf16, shared_logits [T, 1] bf16."""
    rows, experts = logits.shape
    scores = logits.float()
    ids = torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = torch.softmax(scores, -1).gather(1, ids)
    if shared_logits is not None:
        ids = torch.cat([ids, torch.full_like(ids[:, :1], experts)], 1)
        weights = torch.cat([weights, torch.sigmoid(shared_logits).float()], 1)
    slots = ids.shape[1]
    work = torch.zeros(experts + 2, dtype=torch.int32)
    pairs = torch.zeros(experts + 1, MAX_ROWS, dtype=torch.int32)
    by_expert: dict[int, list[int]] = {}
    for pair, expert in enumerate(ids.flatten().tolist()):
        by_expert.setdefault(expert, []).append(pair)
    order = sorted(by_expert, key=lambda expert: expert != experts)
    work[0] = len(order)
    for place, expert in enumerate(order):
        mine = by_expert[expert]
        work[1 + place] = expert + (len(mine) << 16)
        pairs[place, : len(mine)] = torch.tensor(mine)
    to = logits.device
    assert slots * rows >= len(order)
    return Routing(ids.int(), weights, work.to(to), pairs.to(to), renormalize)
