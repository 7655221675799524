"""Small clusters of eager operations between two graphs, as one launch each.

Their results are SGLang's own to the bit: they move and count whole numbers.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _commit_steps(
    accept_index,
    accept_lens,
    seq_lens,
    last_steps,
    track_steps,
    depth,
    draft_tokens,
    interval,
    TRACKS: tl.constexpr,
):
    """One program a request."""
    request = tl.program_id(0).to(tl.int64)
    row = accept_index + request * depth
    first = request * draft_tokens
    accepted = tl.load(accept_lens + request).to(tl.int64)
    last = tl.load(row + accepted - 1).to(tl.int64) - first
    tl.store(last_steps + request, last.to(last_steps.dtype.element_ty))
    if TRACKS:
        before = tl.load(seq_lens + request).to(tl.int64)
        after = before + accepted
        crosses = before // interval != after // interval
        place = tl.maximum(after // interval * interval - before - 1, 0)
        step = tl.load(row + place, mask=crosses, other=0).to(tl.int64) - first
        step = tl.where(crosses, step, -1)
        tl.store(track_steps + request, step.to(track_steps.dtype.element_ty))


def commit_steps(
    accept_index: torch.Tensor,
    accept_lens: torch.Tensor,
    seq_lens: torch.Tensor,
    draft_tokens: int,
    interval: int | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Which step of a verify is each request's last accepted one, and which crosses an interval.

    accept_index: [B, depth] int32, nodes of the whole batch; accept_lens: [B], the bonus token
    counted; seq_lens: [B], before the verify. interval: None where no states are tracked.

    Returns: [B] of accept_lens's type: steps from 0, and of those that cross a multiple of
    `interval`, -1 for none.
    """
    requests, depth = accept_index.shape
    last = torch.empty_like(accept_lens)
    track = None if interval is None else torch.empty_like(accept_lens)
    if requests:
        _commit_steps[(requests,)](
            accept_index,
            accept_lens,
            seq_lens,
            last,
            last if track is None else track,
            depth,
            draft_tokens,
            1 if interval is None else interval,
            TRACKS=track is not None,
        )
    return last, track


@triton.jit
def _scatter_rows(
    indices,
    source0,
    target0,
    width0,
    source1,
    target1,
    width1,
    source2,
    target2,
    width2,
    source3,
    target3,
    width3,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row and a block of its columns."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(indices + row).to(tl.int64)
    inside = column < width0
    value = tl.load(source0 + row * width0 + column, mask=inside)
    tl.store(target0 + place * width0 + column, value.to(target0.dtype.element_ty), mask=inside)
    if COUNT > 1:
        inside = column < width1
        value = tl.load(source1 + row * width1 + column, mask=inside)
        tl.store(target1 + place * width1 + column, value.to(target1.dtype.element_ty), mask=inside)
    if COUNT > 2:
        inside = column < width2
        value = tl.load(source2 + row * width2 + column, mask=inside)
        tl.store(target2 + place * width2 + column, value.to(target2.dtype.element_ty), mask=inside)
    if COUNT > 3:
        inside = column < width3
        value = tl.load(source3 + row * width3 + column, mask=inside)
        tl.store(target3 + place * width3 + column, value.to(target3.dtype.element_ty), mask=inside)


MOST_BUFFERS = 4


def scatter_rows(indices: torch.Tensor, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """target[indices] = source for each (source, target), of 1 to `MOST_BUFFERS` pairs.

    indices: [B], no two alike. A source is [B, ...], its target [rows, ...], both contiguous. A
    value is converted to the target's type.
    """
    rows = indices.shape[0]
    widths = [source.numel() // rows for source, _ in pairs]
    block = min(1024, triton.next_power_of_2(max(widths)))
    operands: list[torch.Tensor | int] = []
    for place in range(MOST_BUFFERS):
        source, target = pairs[min(place, len(pairs) - 1)]
        operands += [source, target, widths[min(place, len(pairs) - 1)]]
    _scatter_rows[(rows, triton.cdiv(max(widths), block))](
        indices, *operands, COUNT=len(pairs), BLOCK=block
    )


def columns_of(batch: int) -> int:
    """Of a vector over a batch. One size for nearly all of them: a kernel is compiled for each, and
    a batch that grows while a server answers must not wait for that."""
    return max(64, int(triton.next_power_of_2(batch)))


SPLITS = 8
"""Programs that share the places of one request."""


@triton.jit(do_not_specialize=["B"])
def _attention_metadata(
    req_to_token,
    stride,
    requests,
    seq_lens,
    taken,
    qo_indptr,
    kv_indptr,
    mask_indptr,
    kv_indices,
    B,
    tokens,
    BP: tl.constexpr,
    TAKES: tl.constexpr,
    MASKS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """SPLITS programs a request; each sums the lengths of those before it."""
    request = tl.program_id(0)
    split = tl.program_id(1)
    column = tl.arange(0, BP)
    inside = column < B
    lengths = tl.load(seq_lens + column, mask=inside, other=0).to(tl.int64)
    if TAKES:
        lengths -= tl.load(taken + column, mask=inside, other=0).to(tl.int64)
        lengths = tl.maximum(lengths, 0)
    start = tl.sum(tl.where(column < request, lengths, 0), 0)
    length = tl.sum(tl.where(column == request, lengths, 0), 0)
    if split == 0:
        behind = request + 1
        end = start + length
        tl.store(qo_indptr + behind, (behind * tokens).to(qo_indptr.dtype.element_ty))
        tl.store(kv_indptr + behind, end.to(kv_indptr.dtype.element_ty))
        if MASKS:
            cells = tokens * (end + behind * tokens)
            tl.store(mask_indptr + behind, cells.to(mask_indptr.dtype.element_ty))
        if request == 0:
            tl.store(qo_indptr, (request * tokens).to(qo_indptr.dtype.element_ty))
    row = req_to_token + tl.load(requests + request).to(tl.int64) * stride
    for first in range(split * BLOCK, length, SPLITS * BLOCK):
        place = first + tl.arange(0, BLOCK)
        filled = place < length
        token = tl.load(row + place, mask=filled)
        tl.store(kv_indices + start + place, token.to(kv_indices.dtype.element_ty), mask=filled)


def attention_metadata(
    req_to_token: torch.Tensor,
    requests: torch.Tensor,
    seq_lens: torch.Tensor,
    tokens: int,
    qo_indptr: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    *,
    taken: torch.Tensor | None = None,
    mask_indptr: torch.Tensor | None = None,
) -> None:
    """Where the Triton backend's kernels find each request's queries, keys and mask.

    req_to_token: [pool, context], a row's places lie side by side. requests, seq_lens: [B].
    tokens: queries of each request. taken: [B], of its keys those that are not read from the cache.

    Writes, for request r of B: qo_indptr[r + 1], kv_indptr[r + 1] and mask_indptr[r + 1], the sums
    over it and those before it of queries, keys, and queries x (keys + queries); qo_indptr[0] = 0;
    and into kv_indices the places of its keys.
    """
    batch = requests.shape[0]
    _attention_metadata[(batch, SPLITS)](
        req_to_token,
        req_to_token.stride(0),
        requests,
        seq_lens,
        seq_lens if taken is None else taken,
        qo_indptr,
        kv_indptr,
        kv_indptr if mask_indptr is None else mask_indptr,
        kv_indices,
        batch,
        tokens,
        BP=columns_of(batch),
        TAKES=taken is not None,
        MASKS=mask_indptr is not None,
        SPLITS=SPLITS,
        BLOCK=512,
    )


@triton.jit(do_not_specialize=["B"])
def _chain(
    bonus,
    drafts,
    seq_lens,
    mask,
    tokens,
    positions,
    B,
    N: tl.constexpr,
    NP: tl.constexpr,
    BP: tl.constexpr,
    FILLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a node."""
    request = tl.program_id(0)
    node = tl.program_id(1)
    column = tl.arange(0, BP)
    lengths = tl.load(seq_lens + column, mask=column < B, other=0).to(tl.int64)
    before = tl.sum(tl.where(column < request, lengths, 0), 0)
    length = tl.sum(tl.where(column == request, lengths, 0), 0)
    place = request * N + node
    root = tl.load(bonus + request).to(tl.int64)
    draft = tl.load(drafts + request * (N - 1) + node - 1, mask=node > 0, other=0).to(tl.int64)
    tl.store(tokens + place, tl.where(node > 0, draft, root).to(tokens.dtype.element_ty))
    tl.store(positions + place, length + node)
    row = mask + N * (before + N * request) + node * (length + N)
    other = tl.arange(0, NP)
    tl.store(row + length + other, other <= node, mask=other < N)
    if FILLS:
        for first in range(0, length, BLOCK):
            key = first + tl.arange(0, BLOCK)
            tl.store(row + key, key >= 0, mask=key < length)


def chain(
    bonus: torch.Tensor,
    drafts: torch.Tensor,
    seq_lens: torch.Tensor,
    mask: torch.Tensor,
    *,
    fills: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a verify of chains is given besides their links, which are always the same.

    bonus: [B], the roots; drafts: [B, n - 1] behind them; seq_lens: [B], of the committed tokens.
    mask: bool, at least sum(n x (seq_len + n)); a row a node, request after request, is True at
    what the node sees: all committed tokens, which are written only if `fills`, and the nodes up to
    itself.

    Returns: tokens [B x n] of the wider of the two types, and positions [B x n] int64.
    """
    batch, steps = drafts.shape
    nodes = steps + 1
    kind = torch.promote_types(bonus.dtype, drafts.dtype)
    tokens = torch.empty(batch * nodes, dtype=kind, device=drafts.device)
    positions = torch.empty(batch * nodes, dtype=torch.int64, device=drafts.device)
    _chain[(batch, nodes)](
        bonus,
        drafts,
        seq_lens,
        mask,
        tokens,
        positions,
        batch,
        N=nodes,
        NP=triton.next_power_of_2(nodes),
        BP=columns_of(batch),
        FILLS=fills,
        BLOCK=2048,
    )
    return tokens, positions


def chain_links(batch: int, nodes: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """The links of chains as SGLang keeps those of trees: each node's number in the whole batch,
    its next one within its request, its sibling; [batch, nodes] int64, -1 for none."""
    place = torch.arange(batch * nodes, device=device).reshape(batch, nodes)
    following = torch.arange(1, nodes + 1, device=device).repeat(batch, 1)
    following[:, -1] = -1
    return place, following, torch.full_like(place, -1)


@triton.jit(do_not_specialize=["first", "count", "B"])
def _place_slots(
    req_to_token,
    stride,
    requests,
    slots,
    spans,
    first,
    count,
    B,
    BP: tl.constexpr,
    SEVERAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a request. Of a single one, its span is told by value."""
    request = tl.program_id(0)
    start = request * 0
    if SEVERAL:
        column = tl.arange(0, BP)
        inside = column < B
        begins = tl.load(spans + column, mask=inside, other=0)
        counts = tl.load(spans + B + column, mask=inside, other=0)
        first = tl.sum(tl.where(column == request, begins, 0), 0)
        count = tl.sum(tl.where(column == request, counts, 0), 0)
        start = tl.sum(tl.where(column < request, counts, 0), 0)
    row = req_to_token + tl.load(requests + request).to(tl.int64) * stride
    for done in range(0, count, BLOCK):
        place = done + tl.arange(0, BLOCK)
        inside = place < count
        slot = tl.load(slots + start + place, mask=inside, other=0)
        tl.store(row + first + place, slot.to(req_to_token.dtype.element_ty), mask=inside)


def place_slots(
    req_to_token: torch.Tensor,
    requests: torch.Tensor,
    slots: torch.Tensor,
    begins: list[int],
    counts: list[int],
) -> None:
    """Each request's next slots into its row.

    req_to_token: [pool, context]; requests: [B]; slots: [sum of counts], request after request.
    begins, counts: B places in the row, and how many slots from there on.
    """
    batch = requests.shape[0]
    spans = slots
    if batch > 1:
        pinned = torch.tensor(begins + counts, dtype=torch.int32, pin_memory=slots.is_cuda)
        spans = pinned.to(slots.device, non_blocking=True)
    _place_slots[(batch,)](
        req_to_token,
        req_to_token.stride(0),
        requests,
        slots,
        spans,
        begins[0],
        counts[0],
        batch,
        BP=columns_of(batch),
        SEVERAL=batch > 1,
        BLOCK=64,
    )
