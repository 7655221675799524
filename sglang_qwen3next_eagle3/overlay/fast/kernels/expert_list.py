"""The choice of experts for more rows than one program is quick with: 9 to 64.

    logits [T, E] bf16 -> softmax, the top_k of every row       a program a row
    ids -> the distinct experts and the rows of each            a program every 32 experts

The rounds of a maximum are those of `expert_choice`, a warp a row, so that a row's choice and
weights have the same bits. A row leaves behind which experts it chose as 32 bits a word, and every
chosen one's slot. From the words of all rows a program knows how many experts are listed before its
own, and from a column of bits who reads an expert: nothing is gathered, and nothing waits but for
the launch before.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.expert_choice import (
    Routing,
    _keys,
    _ones,
    _score,
    rows_of_list,
)

WORD = 32
"""Experts of a word, and of a program of the list."""


@triton.jit
def _either(a, b):
    return a | b


@triton.jit(do_not_specialize=["rounds"])
def _choose_row(
    logits,
    shared_logits,
    ids,
    weights,
    words,
    slot_of,
    rounds,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALF: tl.constexpr,
    WORDS: tl.constexpr,
    PDL: tl.constexpr,
):
    SLOTS: tl.constexpr = TOP_K + SHARED
    t = tl.program_id(0)
    e = tl.arange(0, HALF)[None, :]
    slot = tl.arange(0, BLOCK_K)[None, :]
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = logits + t * E + e
    low = tl.load(at, mask=e < E, other=-float("inf")).to(tl.float32)
    high = tl.load(at + HALF, mask=e + HALF < E, other=-float("inf")).to(tl.float32)
    low, low_key = _keys(low, e, e < E, 2 * HALF)
    high, high_key = _keys(high, e + HALF, e + HALF < E, 2 * HALF)
    largest = tl.maximum(tl.max(low, 1), tl.max(high, 1))[:, None]
    total = tl.sum(tl.exp(low - largest) + tl.exp(high - largest), 1)[:, None]
    winners = tl.full([1, BLOCK_K], 0, tl.int32)
    for round in tl.range(0, rounds, num_stages=1):
        best = tl.maximum(tl.max(low_key, 1), tl.max(high_key, 1))[:, None]
        winners = tl.where(slot == round, best, winners)
        low_key = tl.where(low_key == best, -2147483648, low_key)
        high_key = tl.where(high_key == best, -2147483648, high_key)
    chosen = 2 * HALF - 1 - (winners & (2 * HALF - 1))
    won = slot < TOP_K
    tl.store(ids + t * SLOTS + slot, chosen, mask=won)
    chance = tl.exp(_score(winners, 2 * HALF) - largest) / total
    tl.store(weights + t * SLOTS + slot, chance, mask=won)
    if SHARED:
        gate = tl.load(shared_logits + t).to(tl.float32)
        gate = to_bfloat16(1.0 / (1.0 + tl.exp(-gate))).to(tl.float32)
        tl.store(ids + t * SLOTS + TOP_K, E)
        tl.store(weights + t * SLOTS + TOP_K, gate)
    # The two halves of the experts take turns in the list.
    turn = chosen % HALF * 2 + chosen // HALF
    tl.store(slot_of + t * (WORDS * 32) + turn, slot.to(tl.int8), mask=won)
    mine = tl.reshape(tl.where(won, turn, -1), [BLOCK_K])[:, None]
    word = tl.arange(0, WORDS)[None, :]
    bit = tl.where((mine >= 0) & (mine // 32 == word), 1 << (mine & 31), 0)
    tl.store(words + t * WORDS + tl.arange(0, WORDS), tl.sum(bit, 0))


# Were T a constant where it is a multiple of 16, the kernel would be compiled again.
@triton.jit(do_not_specialize=["T"])
def _list_experts(
    words,
    slot_of,
    work,
    pairs,
    T,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    SHARED: tl.constexpr,
    HALF: tl.constexpr,
    WORDS: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    SLOTS: tl.constexpr = TOP_K + SHARED
    own = tl.program_id(0)
    t = tl.arange(0, ROWS)
    word = tl.arange(0, WORDS)
    b = tl.arange(0, 32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = words + t * WORDS
    every = tl.load(at[:, None] + word[None, :], mask=(t < T)[:, None], other=0)
    mine = tl.load(at + own, mask=t < T, other=0)
    used = _ones(tl.reduce(every, 0, _either))
    before = SHARED + tl.sum(tl.where(word < own, used, 0))
    reads = ((mine[:, None] >> b[None, :]) & 1) != 0
    turn = own * 32 + b
    slot = tl.load(slot_of + t[:, None] * (WORDS * 32) + turn[None, :], mask=reads, other=0)
    # A bit a row, of 32 rows in a number.
    low = tl.sum(tl.where(reads & (t < 32)[:, None], (1 << (t & 31))[:, None], 0), 0)
    count, read = _ones(low), low != 0
    earlier = tl.where(t < 32, (1 << (t & 31)) - 1, -1)[:, None]
    rank = _ones(low[None, :] & earlier)
    if ROWS > 32:
        high = tl.sum(tl.where(reads & (t >= 32)[:, None], (1 << (t & 31))[:, None], 0), 0)
        count, read = count + _ones(high), read | (high != 0)
        earlier = tl.where(t < 32, 0, (1 << (t & 31)) - 1)[:, None]
        rank += _ones(high[None, :] & earlier)
    listed = tl.reduce(tl.where(read, 1 << b, 0), 0, _either)
    place = before + _ones(listed & ((1 << b) - 1))
    expert = turn // 2 + turn % 2 * HALF
    tl.store(work + 1 + place, expert + (count << 16), mask=read)
    pair = t[:, None] * SLOTS + slot.to(tl.int32)
    tl.store(pairs + place[None, :] * ROWS + rank, pair, mask=reads)
    if own == 0:
        tl.store(work, SHARED + tl.sum(used, 0))
        if SHARED:
            tl.store(work + 1, E + (T << 16))
            tl.store(pairs + t, t * SLOTS + TOP_K, mask=t < T)


def choose_many(
    logits: torch.Tensor, shared_logits: torch.Tensor | None, top_k: int, renormalize: bool
) -> Routing:
    """`expert_choice.choose` in two launches: logits [T, E] bf16, shared_logits [T] bf16."""
    rows, count = logits.shape
    shared, device = shared_logits is not None, logits.device
    slots = top_k + shared

    def integers(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device=device)

    ids, work = integers(rows, slots), integers(count + 2)
    pairs = integers(count + 1, rows_of_list(rows))
    weights = torch.empty(rows, slots, dtype=torch.float32, device=device)
    half = triton.next_power_of_2(count) // 2
    many = triton.cdiv(2 * half, WORD)
    words = integers(rows, many)
    slot_of = torch.empty(rows, many * WORD, dtype=torch.int8, device=device)
    shape = {
        "E": count,
        "TOP_K": top_k,
        "SHARED": int(shared),
        "HALF": half,
        "WORDS": many,
        "PDL": dependent_launch(),
    }
    _choose_row[(rows,)](
        logits,
        logits if shared_logits is None else shared_logits,
        ids,
        weights,
        words,
        slot_of,
        top_k,
        BLOCK_K=triton.next_power_of_2(top_k),
        num_warps=1,
        **shape,
        **launch_options(),
    )
    _list_experts[(many,)](
        words,
        slot_of,
        work,
        pairs,
        rows,
        ROWS=pairs.shape[1],
        num_warps=4,
        **shape,
        **launch_options(),
    )
    return Routing(ids, weights, work, pairs, renormalize)
