"""What is around a verify and a draft extend of chains, in few launches.

SGLang prepares the graph of a draft extend by some twenty small operations, chooses the next
cycle's first draft by five more behind it, and what a verify accepts by five. Of a plain batch all
of it follows from its size and from a few tensors. The values are SGLang's own to the bit.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from sglang_qwen3next_eagle3.overlay.seams.kernels import SPLITS, columns_of


@triton.jit(do_not_specialize=["B"])
def _prepare(
    req_to_token,
    stride,
    requests,
    seq_lens,
    accept_lens,
    tokens,
    slots,
    hidden,
    to_requests,
    to_seq_lens,
    to_extend,
    to_correct,
    to_accept,
    to_tokens,
    to_positions,
    to_slots,
    to_hidden,
    qo_indptr,
    kv_indptr,
    kv_indices,
    B,
    fill,
    width,
    N: tl.constexpr,
    BP: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROW: tl.constexpr,
):
    """Of each request: SPLITS programs for the places of its keys, and one a token. Behind the
    batch's B requests come those by which it is padded."""
    request = tl.program_id(0)
    part = tl.program_id(1)
    real = request < B
    length = tl.load(seq_lens + request, mask=real, other=0).to(tl.int64)
    if part < SPLITS:
        column = tl.arange(0, BP)
        lengths = tl.load(seq_lens + column, mask=column < B, other=0).to(tl.int64)
        start = tl.sum(tl.where(column < request, lengths, 0), 0)
        place = tl.load(requests + request, mask=real, other=0).to(tl.int64)
        if part == 0:
            behind = request + 1
            tl.store(qo_indptr + behind, (behind * N).to(qo_indptr.dtype.element_ty))
            tl.store(kv_indptr + behind, (start + length).to(kv_indptr.dtype.element_ty))
            if request == 0:
                tl.store(qo_indptr, (request * N).to(qo_indptr.dtype.element_ty))
            whole = tl.where(real, length + N, fill)
            accepted = tl.load(accept_lens + request, mask=real, other=0)
            correct = tl.where(real, accepted - 1, N)
            accepted = tl.where(real, accepted, N)
            tl.store(to_requests + request, place.to(to_requests.dtype.element_ty))
            tl.store(to_seq_lens + request, whole.to(to_seq_lens.dtype.element_ty))
            tl.store(to_extend + request, (place * 0 + N).to(to_extend.dtype.element_ty))
            tl.store(to_correct + request, correct.to(to_correct.dtype.element_ty))
            tl.store(to_accept + request, accepted.to(to_accept.dtype.element_ty))
        row = req_to_token + place * stride
        for first in range(part * BLOCK, length, SPLITS * BLOCK):
            key = first + tl.arange(0, BLOCK)
            inside = key < length
            slot = tl.load(row + key, mask=inside)
            tl.store(kv_indices + start + key, slot.to(kv_indices.dtype.element_ty), mask=inside)
    else:
        step = part - SPLITS
        at = request.to(tl.int64) * N + step
        token = tl.load(tokens + at, mask=real, other=0)
        slot = tl.load(slots + at, mask=real, other=0)
        position = tl.where(real, length + step, 0)
        tl.store(to_tokens + at, token.to(to_tokens.dtype.element_ty), mask=real)
        tl.store(to_slots + at, slot.to(to_slots.dtype.element_ty))
        tl.store(to_positions + at, position.to(to_positions.dtype.element_ty))
        if real:
            for first in range(0, width, ROW):
                column = first + tl.arange(0, ROW)
                inside = column < width
                value = tl.load(hidden + at * width + column, mask=inside)
                tl.store(to_hidden + at * width + column, value, mask=inside)


def prepare(
    backend: Any,
    buffers: Any,
    padded: int,
    fill: int,
    seq_lens: torch.Tensor,
    requests: torch.Tensor,
    accept_lens: torch.Tensor,
    tokens: torch.Tensor,
    slots: torch.Tensor,
    hidden: torch.Tensor,
) -> None:
    """All that a draft extend's graph of `padded` requests reads.

    backend: the Triton backend of it; buffers: SGLang's; fill: the length of padded requests.
    seq_lens, requests, accept_lens: [B], before the verify, the bonus token counted. tokens, slots:
    [B x n]; hidden: [B x n, width], of what was verified.
    """
    batch = seq_lens.shape[0]
    nodes = tokens.shape[0] // batch
    _prepare[(padded, SPLITS + nodes)](
        backend.req_to_token,
        backend.req_to_token.stride(0),
        requests,
        seq_lens,
        accept_lens,
        tokens,
        slots,
        hidden,
        buffers.req_pool_indices,
        buffers.seq_lens,
        buffers.extend_seq_lens,
        buffers.num_correct_drafts,
        buffers.num_accept_tokens,
        buffers.input_ids,
        buffers.positions,
        buffers.out_cache_loc,
        buffers.hidden_states,
        backend.qo_indptr,
        backend.kv_indptr,
        backend.cuda_graph_kv_indices,
        batch,
        fill,
        hidden.shape[1],
        N=nodes,
        BP=columns_of(padded),
        SPLITS=SPLITS,
        BLOCK=512,
        ROW=2048,
    )


@triton.jit
def _largest(value, index, inside, END: tl.constexpr):
    """The index torch's argmax gives, and its value: of what is not a number the first one, else of
    the largest the first one."""
    strange = inside & (value != value)
    first = tl.min(tl.where(strange, index, END), 0)
    value = tl.where(inside & (value == value), value, float("-inf"))
    most = tl.max(value, 0)
    at = tl.min(tl.where(inside & (value == most), index, END), 0)
    found = first < END
    return tl.where(found, float("nan"), most), tl.where(found, first, at)


_BLOCK: tl.constexpr = tl.constexpr(4096)
_END: tl.constexpr = tl.constexpr(2147483647)


@triton.jit
def _parts(
    logits,
    stride,
    accept_lens,
    values,
    indices,
    columns,
    nodes,
    PICKS: tl.constexpr,
    BLOCK: tl.constexpr,
    END: tl.constexpr,
):
    """One program a row and a block of its columns."""
    row = tl.program_id(0)
    part = tl.program_id(1)
    at = row.to(tl.int64)
    if PICKS:
        at = at * nodes + tl.load(accept_lens + row).to(tl.int64) - 1
    column = part * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(logits + at * stride + column, mask=inside, other=float("-inf"))
    most, index = _largest(value.to(tl.float32), column, inside, END)
    tl.store(values + row * tl.num_programs(1) + part, most)
    tl.store(indices + row * tl.num_programs(1) + part, index)


def _partial(
    logits: torch.Tensor, rows: int, accept_lens: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of some rows of logits the largest of each block, and where: [rows, blocks] each."""
    columns = logits.shape[1]
    blocks = triton.cdiv(columns, _BLOCK.value)
    values = torch.empty((rows, blocks), dtype=torch.float32, device=logits.device)
    indices = torch.empty((rows, blocks), dtype=torch.int32, device=logits.device)
    _parts[(rows, blocks)](
        logits,
        logits.stride(0),
        values if accept_lens is None else accept_lens,
        values,
        indices,
        columns,
        logits.shape[0] // rows,
        PICKS=accept_lens is not None,
        BLOCK=_BLOCK.value,
        END=_END.value,
    )
    return values, indices


@triton.jit
def _leave(
    values,
    indices,
    hidden,
    stride,
    accept_lens,
    topk_p,
    topk_index,
    picked,
    width,
    blocks,
    N: tl.constexpr,
    PARTS: tl.constexpr,
    ROW: tl.constexpr,
    END: tl.constexpr,
):
    """One program a request and a part of its row; the first one chooses the draft, too."""
    request = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if part == 0:
        column = tl.arange(0, PARTS)
        inside = column < blocks
        value = tl.load(values + request * blocks + column, mask=inside, other=float("-inf"))
        index = tl.load(indices + request * blocks + column, mask=inside, other=END)
        _, at = _largest(value, index, inside, END)
        tl.store(topk_index + request, at.to(topk_index.dtype.element_ty))
        tl.store(topk_p + request, 1.0)
    row = request * N + tl.load(accept_lens + request).to(tl.int64) - 1
    column = part * ROW + tl.arange(0, ROW)
    inside = column < width
    value = tl.load(hidden + row * stride + column, mask=inside)
    tl.store(picked + request * width + column, value, mask=inside)


def leave(
    logits: torch.Tensor, hidden: torch.Tensor, accept_lens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a draft extend gives for the next cycle: of each request's n rows the one of its last
    accepted token.

    logits: [B x n, vocabulary]; hidden: [B x n, width]; accept_lens: [B], the bonus token counted.

    Returns: ones [B, 1] in fp32, the likeliest token [B, 1] int64, the hidden state [B, width].
    """
    batch, width = accept_lens.shape[0], hidden.shape[1]
    values, indices = _partial(logits, batch, accept_lens)
    topk_p = torch.empty((batch, 1), dtype=torch.float32, device=logits.device)
    topk_index = torch.empty((batch, 1), dtype=torch.int64, device=logits.device)
    picked = torch.empty((batch, width), dtype=hidden.dtype, device=hidden.device)
    _leave[(batch, triton.cdiv(width, 1024))](
        values,
        indices,
        hidden,
        hidden.stride(0),
        accept_lens,
        topk_p,
        topk_index,
        picked,
        width,
        values.shape[1],
        N=hidden.shape[0] // batch,
        PARTS=triton.next_power_of_2(values.shape[1]),
        ROW=1024,
        END=_END.value,
    )
    return topk_p, topk_index, picked


@triton.jit
def _accept(
    values,
    indices,
    candidates,
    predict,
    accept_index,
    accept_lens,
    blocks,
    N: tl.constexpr,
    NP: tl.constexpr,
    PARTS: tl.constexpr,
    END: tl.constexpr,
):
    """One program a request."""
    request = tl.program_id(0)
    column = tl.arange(0, PARTS)
    inside = column < blocks
    step = tl.arange(0, NP)
    chosen = tl.zeros([NP], dtype=tl.int32)
    taken = request * 0
    going = taken == 0
    for node in range(N):
        at = (request * N + node).to(tl.int64)
        value = tl.load(values + at * blocks + column, mask=inside, other=float("-inf"))
        index = tl.load(indices + at * blocks + column, mask=inside, other=END)
        _, token = _largest(value, index, inside, END)
        chosen = tl.where((step == node) & going, token, chosen)
        taken += going.to(tl.int32)
        following = tl.load(candidates + at + 1, mask=node + 1 < N, other=-1)
        going = going & (following.to(tl.int64) == token.to(tl.int64))
    place = request * N + step
    every = step < N
    tl.store(predict + place, chosen, mask=every)
    tl.store(accept_index + place, tl.where(step < taken, place, -1), mask=every)
    tl.store(accept_lens + request, taken)


def accept(
    logits: torch.Tensor, candidates: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which drafts of chains the target's likeliest tokens are.

    logits: [B x n, vocabulary]; candidates: [B, n], the roots first.

    Returns, int32: what follows each accepted node, 0 behind them [B x n]; how many are accepted,
    the root counted [B]; their numbers in the whole batch, -1 behind them [B, n].
    """
    batch, nodes = candidates.shape
    values, indices = _partial(logits, batch * nodes, None)
    of = {"dtype": torch.int32, "device": logits.device}
    predict = torch.empty(batch * nodes, **of)  # type: ignore[call-overload]
    accept_index = torch.empty((batch, nodes), **of)  # type: ignore[call-overload]
    accept_lens = torch.empty(batch, **of)  # type: ignore[call-overload]
    _accept[(batch,)](
        values,
        indices,
        candidates,
        predict,
        accept_index,
        accept_lens,
        values.shape[1],
        N=nodes,
        NP=triton.next_power_of_2(nodes),
        PARTS=triton.next_power_of_2(values.shape[1]),
        END=_END.value,
    )
    return predict, accept_lens, accept_index


@triton.jit
def _simulated(
    length,
    predict,
    accept_lens,
    accept_index,
    to_predict,
    to_lens,
    to_index,
    token,
    N: tl.constexpr,
    NP: tl.constexpr,
    DEPTH: tl.constexpr,
    DP: tl.constexpr,
):
    """One program a request."""
    request = tl.program_id(0)
    wanted = tl.load(length)
    holds = wanted >= 1
    node = tl.arange(0, NP)
    at = request * N + node
    said = tl.load(predict + at, mask=node < N, other=0)
    said = tl.where(holds, token, said)
    tl.store(to_predict + at, said.to(to_predict.dtype.element_ty), mask=node < N)
    taken = tl.minimum(tl.maximum(wanted, 1), DEPTH)
    lens = tl.where(holds, taken, tl.load(accept_lens + request))
    tl.store(to_lens + request, lens.to(to_lens.dtype.element_ty))
    step = tl.arange(0, DP)
    place = request * DEPTH + step
    first = tl.load(accept_index + request * DEPTH)
    path = tl.where(step < taken, first + step, -1)
    path = tl.where(holds, path, tl.load(accept_index + place, mask=step < DEPTH, other=-1))
    tl.store(to_index + place, path.to(to_index.dtype.element_ty), mask=step < DEPTH)


def simulated(
    length: torch.Tensor,
    predict: torch.Tensor,
    accept_lens: torch.Tensor,
    accept_index: torch.Tensor,
    token: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is taken of a verify where an accept length is simulated; see `simulate.accepting`.

    length: [1] int32, below 1 for what was accepted; the others [B x n], [B], [B, depth].
    """
    requests, depth = accept_index.shape
    nodes = predict.shape[0] // requests
    out = torch.empty_like(predict), torch.empty_like(accept_lens), torch.empty_like(accept_index)
    _simulated[(requests,)](
        length,
        predict,
        accept_lens,
        accept_index,
        *out,
        token,
        N=nodes,
        NP=triton.next_power_of_2(nodes),
        DEPTH=depth,
        DP=triton.next_power_of_2(depth),
    )
    return out


@triton.jit(do_not_specialize=["count", "B"])
def _keep(
    place,
    tokens,
    lens,
    outs,
    count,
    B,
    TP: tl.constexpr,
    BP: tl.constexpr,
):
    """One program."""
    row = outs + tl.load(place) * (count + B)
    at = tl.arange(0, TP)
    tl.store(row + at, tl.load(tokens + at, mask=at < count), mask=at < count)
    request = tl.arange(0, BP)
    inside = request < B
    tl.store(row + count + request, tl.load(lens + request, mask=inside), mask=inside)


def keep(place: torch.Tensor, tokens: torch.Tensor, lens: torch.Tensor, outs: torch.Tensor) -> None:
    """outs[place] = tokens and behind them lens.

    place: [1] int64; tokens: [B x n], lens: [B], outs: [rows, B x n + B], all int32.
    """
    _keep[(1,)](
        place,
        tokens,
        lens,
        outs,
        tokens.shape[0],
        lens.shape[0],
        TP=max(512, triton.next_power_of_2(tokens.shape[0])),
        BP=columns_of(lens.shape[0]),
    )


# A recording's number lies wherever it has room, and no kernel is to be compiled while one is made.
@triton.jit(do_not_specialize=["most"], do_not_specialize_on_alignment=["at"])
def _put_off(
    slots,
    at,
    tokens,
    lengths,
    places,
    hidden,
    to_hidden,
    to_others,
    most,
    width,
    BLOCK: tl.constexpr,
):
    """One program for each request and part of its row."""
    request = tl.program_id(0)
    part = tl.program_id(1)
    row = tl.load(slots + request).to(tl.int64) * most + tl.load(at)
    column = part * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(hidden + request.to(tl.int64) * width + column, mask=inside)
    tl.store(to_hidden + row * width + column, value, mask=inside)
    if part == 0:
        others = to_others + row * 3
        tl.store(others, tl.load(tokens + request).to(tl.int64))
        tl.store(others + 1, tl.load(lengths + request).to(tl.int64))
        tl.store(others + 2, tl.load(places + request).to(tl.int64))


def put_off(
    slots: torch.Tensor,
    at: torch.Tensor,
    most: int,
    others: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    hidden: torch.Tensor,
    to_hidden: torch.Tensor,
    to_others: torch.Tensor,
) -> None:
    """Row slot * most + at of each request: hidden [B, width] into to_hidden, and others, each [B],
    into to_others [rows, 3] int64. at: [1] int32."""
    requests, width = hidden.shape
    block = 1024
    grid = (requests, triton.cdiv(width, block))
    _put_off[grid](slots, at, *others, hidden, to_hidden, to_others, most, width, BLOCK=block)
