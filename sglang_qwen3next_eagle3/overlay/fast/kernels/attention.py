"""Full attention of a decode or verify pass after its projection, in three launches.

    qkv [T, HQ * 2 D + 2 HKV D] bf16  -> out [T, HQ * D] bf16, or e4m3 with scales [T, HQ * D / 128]
    k_cache, v_cache [slots, HKV, D] bf16: rows `out_cache_loc` are written

The projection holds query and output gate of a head side by side (q0, gate0, q1, gate1, ...), then
the keys and the values. Query and key heads are normalized (gemma: gain 1 + weight) and their first
`rotary` dimensions rotated (neox style), each rounded to bf16 as in stock.

    1. prepare: a warp a head and row normalizes and rotates; keys and values go to the cache.
    2. scores: a work item is one chunk of positions, one key/value head, and the rows of a request
       that fit into a tile of 32 queries (4 rows of 8 query heads). It leaves the unnormalized sum,
       the maximum and the sum of weights of its chunk. A fixed number of programs shares the items,
       and keys and values that earlier passes left are asked for while 1 and what is before it run.
    3. combine: a warp a row, query head and 128 columns folds their chunks in their order,
       multiplies by the sigmoid of the gate and quantizes.

Chunks begin and end at fixed positions (`CHUNKS`), whatever the context's length, and products have
the same shape in every pass. So a row's bits depend on its position, its queries and the keys and
values of its path alone: a row of a verify equals the row of the decode step that it stands for,
bit for bit. The chunks that hold the pass's own keys are worked on once for every walk to a leaf of
the draft tree, all of its rows side by side: what a row may not see has weight zero in it, which
leaves its sums as they are.

One file of more than 400 lines, since its parts are one thing: the kernels and the launcher agree
on chunks, workspace and the order of sums, and the reference is what they are held to.
"""

# Tuples of tiles grow in the kernels, which a type checker takes for an assignment of another type.
# mypy: disable-error-code="assignment,var-annotated"

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast import sizes
from sglang_qwen3next_eagle3.overlay.fast.device import (
    DOT_DTYPE,
    INTERPRETED,
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import GROUP, quantize_groups

WGMMA_OFF: Final = "DISABLE_MMA_V3"

TILE = 64
"""Positions of one product."""

QUERIES = 32
"""Queries of a work item at most; at least 16, below which the compiler takes another product."""

SCORE_WARPS = 4
PROGRAMS = 2
REGISTERS = 255
"""Programs of a multiprocessor that share the work items, and registers of a thread: as many of
these as two programs of four warps can have."""

PREPARE_WARPS = 1
COMBINE_WARPS = 1
COMBINED = 16
"""Chunks that are combined at a time."""

CHUNKS = sizes.CHUNKS


class AttentionOutput(NamedTuple):
    """What the output projection multiplies.

    out: [T, HQ * D], bf16 or (quantized) e4m3. scales: [T, HQ * D / 128] fp32, or None.
    """

    out: torch.Tensor
    scales: torch.Tensor | None


class AttentionWorkspace(NamedTuple):
    """Partial results of chunks; all layers of a stream share it.

    sums: [rows, HQ, chunks, D] fp32. stats: [rows, HQ, chunks, 2] fp32, maximum and sum of weights.
    """

    sums: torch.Tensor
    stats: torch.Tensor


def chunk_count(length: int) -> int:
    """Chunks that hold the first `length` positions."""
    return sizes.chunk_count(length, CHUNKS)


def attention_workspace(
    rows: int,
    query_heads: int,
    head_dim: int,
    max_context: int,
    device: torch.device | str,
    within: AttentionWorkspace | None = None,
) -> AttentionWorkspace:
    """Space for passes of `rows` rows and contexts of up to `max_context` tokens.

    within: another space, of which this one is a part if it is large enough. No two passes may run
    in it at a time.

    rows * query_heads * chunks * (head_dim + 2) * 4 bytes: for 32 rows of 16 heads of 256, 68 MB
    at 32,768 tokens, 304 MB at 262,144. Once, outside of any graph.
    """
    shape = rows, query_heads, chunk_count(max_context)
    size = math.prod(shape)
    if within is not None and within.stats.numel() >= 2 * size:
        sums, stats = (part.view(-1) for part in within)
        if sums.numel() >= size * head_dim:
            return AttentionWorkspace(
                sums[: size * head_dim].view(*shape, head_dim), stats[: 2 * size].view(*shape, 2)
            )
    return AttentionWorkspace(
        torch.empty(*shape, head_dim, dtype=torch.float32, device=device),
        torch.empty(*shape, 2, dtype=torch.float32, device=device),
    )


@triton.jit
def _chunk_of(position, SIZE0: tl.constexpr, FROM1: tl.constexpr, SIZE1: tl.constexpr,
              FROM2: tl.constexpr, SIZE2: tl.constexpr):  # fmt: skip
    """The chunk that holds a position."""
    middle: tl.constexpr = FROM1 // SIZE0
    far: tl.constexpr = middle + (FROM2 - FROM1) // SIZE1
    beyond = far + (position - FROM2) // SIZE2
    between = middle + (position - FROM1) // SIZE1
    return tl.where(
        position < FROM1, position // SIZE0, tl.where(position < FROM2, between, beyond)
    )


@triton.jit
def _chunk_start(chunk, SIZE0: tl.constexpr, FROM1: tl.constexpr, SIZE1: tl.constexpr,
                 FROM2: tl.constexpr, SIZE2: tl.constexpr):  # fmt: skip
    """The first position of a chunk; that of the next chunk is its end."""
    middle: tl.constexpr = FROM1 // SIZE0
    far: tl.constexpr = middle + (FROM2 - FROM1) // SIZE1
    beyond = FROM2 + (chunk - far) * SIZE2
    between = FROM1 + (chunk - middle) * SIZE1
    return tl.where(chunk < middle, chunk * SIZE0, tl.where(chunk < far, between, beyond))


@triton.jit
def _normed_and_rotated(at, weight, cos_sin, d, valid, eps, D: tl.constexpr, ROTARY: tl.constexpr,
                        PLAIN: tl.constexpr):  # fmt: skip
    """Heads [M, D] at pointers `at` [M, 1]: normalized, rounded, rotated; fp32 exact in bf16.

    cos_sin: pointers [M, 1] to the cosines of the rows' positions. d: [1, D]. PLAIN: no norm.
    """
    half: tl.constexpr = ROTARY // 2
    turned = (d < ROTARY) & valid
    other = tl.where(d < half, d + half, d - half)
    x = tl.load(at + d, mask=valid, other=0.0).to(tl.float32)
    y = tl.load(at + other, mask=turned, other=0.0).to(tl.float32)
    if not PLAIN:
        gain = 1.0 + tl.load(weight + d).to(tl.float32)
        other_gain = 1.0 + tl.load(weight + other, mask=d < ROTARY, other=0.0).to(tl.float32)
    angle = tl.where(d < half, d, d - half)
    cos = tl.load(cos_sin + angle, mask=turned, other=1.0).to(tl.float32)
    sin = tl.load(cos_sin + half + angle, mask=turned, other=0.0).to(tl.float32)
    if not PLAIN:
        scale = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]
        x = to_bfloat16(x * scale * gain).to(tl.float32)
        y = to_bfloat16(y * scale * other_gain).to(tl.float32)
    y = tl.where(d < half, -y, y)
    return to_bfloat16(x * cos + y * sin)


@triton.jit
def _fold(score, v, largest, weights, total, DOT: tl.constexpr):
    """Scores [P, M] and values [P, D] of a tile into running maxima, weights and sums [D, M]."""
    larger = tl.maximum(largest, tl.max(score, 0))
    shrink = tl.exp(largest - larger)
    weight = tl.exp(score - larger[None, :])
    weights = weights * shrink + tl.sum(weight, 0)
    total *= shrink[None, :]
    total = tl.dot(tl.trans(v).to(DOT), to_bfloat16(weight).to(DOT), total)
    return larger, weights, total


@triton.jit
def _slots(position, end, prefix, indices, drafted, path, N: tl.constexpr):
    """Cache rows [P, 1] of positions below `end`: behind the prefix those of the walk's nodes."""
    ahead = tl.maximum(position - prefix, 0)
    node = ahead * 0
    if N > 1:
        node = tl.load(path + 2 + tl.minimum(ahead, N - 1))
    before = position < prefix
    old = tl.load(indices + position, mask=before & (position < end), other=0).to(tl.int64)
    new = tl.load(drafted + node).to(tl.int64)
    return tl.where(before, old, new)[:, None]


@triton.jit
def _prepare(
    qkv,
    q_weight,
    k_weight,
    positions,
    cos_sin_cache,
    k_cache,
    v_cache,
    out_cache_loc,
    queries,
    eps,
    qkv_stride,
    k_stride,
    v_stride,
    HQ: tl.constexpr,
    HKV: tl.constexpr,
    D: tl.constexpr,
    ROTARY: tl.constexpr,
    PLAIN: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    """One head of a row: a query to `queries`, or a key with its values to the cache."""
    # A head's query, and its gate behind it.
    QUERY: tl.constexpr = D if PLAIN else 2 * D
    head = tl.program_id(0)
    row = tl.program_id(1)
    if PDL:
        if not EARLY:
            gdc_wait()
            gdc_launch_dependents()
    d = tl.arange(0, D)[None, :]
    one = tl.arange(0, 1)[:, None]
    angles = cos_sin_cache + tl.load(positions + row) * ROTARY + one
    loc = tl.load(out_cache_loc + row).to(tl.int64)
    if PDL:
        if EARLY:
            gdc_wait()
            gdc_launch_dependents()
    of_row = qkv + row * qkv_stride + one
    if head < HQ:
        q = _normed_and_rotated(
            of_row + head * QUERY, q_weight, angles, d, one == 0, eps, D, ROTARY, PLAIN
        )
        tl.store(queries + (row * HQ + head) * D + d, q)
    else:
        k_at = of_row + HQ * QUERY + (head - HQ) * D
        v = tl.load(k_at + HKV * D + d)
        k = _normed_and_rotated(k_at, k_weight, angles, d, one == 0, eps, D, ROTARY, PLAIN)
        tl.store(v_cache + loc * v_stride + (head - HQ) * D + d, v)
        tl.store(k_cache + loc * k_stride + (head - HQ) * D + d, k)


@triton.jit
def _scores(
    queries,
    k_cache,
    v_cache,
    out_cache_loc,
    kv_indptr,
    kv_indices,
    paths,
    sums,
    stats,
    batch,
    chunks,
    k_stride,
    v_stride,
    N: tl.constexpr,
    OWN: tl.constexpr,
    BP: tl.constexpr,
    HQ: tl.constexpr,
    HKV: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    NP: tl.constexpr,
    TILE: tl.constexpr,
    DOT: tl.constexpr,
    SIZE0: tl.constexpr,
    FROM1: tl.constexpr,
    SIZE1: tl.constexpr,
    FROM2: tl.constexpr,
    SIZE2: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    # Compiled without products of four warps (`_warp_level_products`); caches that hold this kernel
    # otherwise were filled by an earlier text of it.
    G: tl.constexpr = HQ // HKV
    ROW_TILES: tl.constexpr = (N + ROWS - 1) // ROWS
    PARTS: tl.constexpr = (D + 63) // 64
    PART: tl.constexpr = D // PARTS
    if PDL:
        if not EARLY:
            gdc_wait()
            gdc_launch_dependents()

    # Work items of a request: the end of every walk to a leaf, ROWS of its nodes at a time, then
    # whole chunks for all rows.
    b = tl.arange(0, BP)
    ends = tl.load(kv_indptr + b + 1, mask=b < batch, other=0)
    lengths = ends - tl.load(kv_indptr + b, mask=b < batch, other=0) - OWN
    lengths = tl.maximum(lengths, 0)
    whole = _chunk_of(lengths, SIZE0, FROM1, SIZE1, FROM2, SIZE2)
    path_node = tl.arange(0, NP)
    if N == 1:
        tails = tl.where(b < batch, 1, 0)
    else:
        header = paths + (b[:, None] * N + path_node[None, :]) * (N + 2)
        real = (b[:, None] < batch) & (path_node[None, :] < N)
        leaf = tl.load(header + 1, mask=real, other=-1) == path_node[None, :]
        walk_tiles = tl.load(header, mask=real, other=0) // ROWS + 1
        tails = tl.sum(tl.where(leaf, walk_tiles, 0), 1)
    across = _chunk_of(lengths + (N - 1), SIZE0, FROM1, SIZE1, FROM2, SIZE2) - whole + 1
    items = tl.where(b < batch, HKV * (tails * across + whole * ROW_TILES), 0)
    through = tl.cumsum(items, 0)

    m = tl.arange(0, ROWS * G)
    d = tl.arange(0, D)[None, :]
    p = tl.arange(0, TILE)
    for item in range(tl.program_id(0), tl.sum(items, 0), tl.num_programs(0)):
        request = tl.sum((through <= item).to(tl.int32), 0)
        i = item - tl.sum(tl.where(b < request, items, 0), 0)
        prefix = tl.sum(tl.where(b == request, lengths, 0), 0)
        full = tl.sum(tl.where(b == request, whole, 0), 0)
        spread = tl.sum(tl.where(b == request, across, 0), 0)
        ending = HKV * spread * tl.sum(tl.where(b == request, tails, 0), 0)
        tail = i < ending
        j = tl.where(tail, i, i - ending)
        head = j % HKV
        j = j // HKV
        chunk = tl.where(tail, full + j % spread, full - 1 - j // ROW_TILES)
        j = tl.where(tail, j // spread, j % ROW_TILES)
        root = request * N
        path = paths + root * 0
        depth = 0
        if N > 1:
            of_node = paths + (root + path_node) * (N + 2)
            real_node = path_node < N
            is_leaf = tl.load(of_node + 1, mask=real_node, other=-1) == path_node
            depths = tl.load(of_node, mask=real_node, other=0)
            tiles = tl.where(is_leaf, depths // ROWS + 1, 0)
            end_tiles = tl.cumsum(tiles, 0)
            node = tl.minimum(tl.sum((end_tiles <= j).to(tl.int32), 0), N - 1)
            node = tl.where(tail, node, 0)
            depth = tl.sum(tl.where(path_node == node, depths, 0), 0)
            j = tl.where(tail, j - tl.sum(tl.where(path_node < node, tiles, 0), 0), j)
            path = paths + (root + node) * (N + 2)
        start = _chunk_start(chunk, SIZE0, FROM1, SIZE1, FROM2, SIZE2)
        end = _chunk_start(chunk + 1, SIZE0, FROM1, SIZE1, FROM2, SIZE2)
        end = tl.where(tail, tl.minimum(end, prefix + depth + 1), end)
        if end > start:
            # A tail's rows are those of a walk, by their depth; a whole chunk's are any.
            of_tile = j * ROWS + m // G
            row = tl.minimum(of_tile, N - 1)
            if N > 1:
                on_walk = tl.load(path + 2 + tl.minimum(of_tile, depth))
                row = tl.where(tail, on_walk, row)
            valid = of_tile <= tl.where(tail, depth, N - 1)
            reach = tl.where(tail, tl.maximum(prefix + of_tile, start), prefix)
            row += root
            indices = kv_indices + tl.load(kv_indptr + request)
            q_at = queries + (row * HQ + head * G + m % G) * D

            # Positions are the rows of the products, so that few queries waste little of them.
            largest = tl.full([ROWS * G], float("-inf"), tl.float32)
            weights = tl.zeros([ROWS * G], tl.float32)
            total = tl.zeros([D, ROWS * G], tl.float32)
            for first in tl.range(start, end, TILE, num_stages=1):
                position = first + p
                inside = (position < end)[:, None]
                slot = _slots(position, end, prefix, indices, out_cache_loc + root, path, N)
                # What earlier passes have left is asked for before the wait, what this one leaves
                # behind it. A second wait takes no time.
                if PDL:
                    if EARLY:
                        if tail:
                            gdc_wait()
                k = ()
                for part in tl.static_range(PARTS):
                    of_part = head * D + part * PART + tl.arange(0, PART)[None, :]
                    key = k_cache + slot * k_stride + of_part
                    k += (tl.load(key, mask=inside, other=0.0),)
                v = tl.load(v_cache + slot * v_stride + head * D + d, mask=inside, other=0.0)
                if PDL:
                    if EARLY:
                        gdc_wait()
                        gdc_launch_dependents()
                # `first` is never negative, but the compiler, which would hold the queries in
                # half of all registers for all tiles, does not know.
                at = q_at[None, :] + tl.minimum(first, 0)
                score = tl.zeros([TILE, ROWS * G], tl.float32)
                for part in tl.static_range(PARTS):
                    of_part = part * PART + tl.arange(0, PART)[:, None]
                    q = tl.load(at + of_part, mask=valid[None, :], other=0.0)
                    score = tl.dot(k[part].to(DOT), q.to(DOT), score)
                score *= D**-0.5
                seen = (position[:, None] <= reach[None, :]) & inside
                score = tl.where(seen, score, float("-inf"))
                largest, weights, total = _fold(score, v, largest, weights, total, DOT)

            keep = valid & (~tail | (prefix + of_tile >= start))
            to = (row.to(tl.int64) * HQ + head * G + m % G) * chunks + chunk
            column = tl.arange(0, D)[:, None]
            tl.store(sums + to[None, :] * D + column, total, mask=keep[None, :])
            tl.store(stats + to * 2, largest, mask=keep)
            tl.store(stats + to * 2 + 1, weights, mask=keep)
    if PDL:
        if EARLY:
            gdc_wait()


@triton.jit
def _combine(
    qkv,
    kv_indptr,
    paths,
    accepted,
    sums,
    stats,
    out,
    scales,
    chunks,
    qkv_stride,
    N: tl.constexpr,
    OWN: tl.constexpr,
    HQ: tl.constexpr,
    D: tl.constexpr,
    PART: tl.constexpr,
    COMBINED: tl.constexpr,
    QUANTIZE: tl.constexpr,
    PLAIN: tl.constexpr,
    CHOSEN: tl.constexpr,
    SIZE0: tl.constexpr,
    FROM1: tl.constexpr,
    SIZE1: tl.constexpr,
    FROM2: tl.constexpr,
    SIZE2: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    head = tl.program_id(0)
    column = tl.program_id(1) * PART
    to = tl.program_id(2)
    if PDL:
        if not EARLY:
            gdc_wait()
            gdc_launch_dependents()
    row = to
    if CHOSEN:
        row = to * N + tl.load(accepted + to) - 1
    request = row // N
    position = tl.load(kv_indptr + request + 1) - tl.load(kv_indptr + request)
    if OWN:
        position = tl.maximum(position - 1, 0)
    else:
        position += tl.load(paths + row * (N + 2))
    count = _chunk_of(position, SIZE0, FROM1, SIZE1, FROM2, SIZE2) + 1
    d = column + tl.arange(0, PART)
    c = tl.arange(0, COMBINED)
    if PDL:
        if EARLY:
            gdc_wait()
            gdc_launch_dependents()
    if not PLAIN:
        gate = tl.load(qkv + row * qkv_stride + (head * 2 + 1) * D + d).to(tl.float32)
    base = (row.to(tl.int64) * HQ + head) * chunks
    top = float("-inf")
    weights = 0.0
    total = tl.zeros([PART], tl.float32)
    for first in range(0, count, COMBINED):
        inside = first + c < count
        at = base + first + c
        largest = tl.load(stats + at * 2, mask=inside, other=float("-inf"))
        part = tl.load(stats + at * 2 + 1, mask=inside, other=0.0)
        values = tl.load(sums + at[:, None] * D + d[None, :], mask=inside[:, None], other=0.0)
        larger = tl.maximum(top, tl.max(largest, 0))
        shrink = tl.exp(top - larger)
        factor = tl.exp(largest - larger)
        weights = weights * shrink + tl.sum(factor * part, 0)
        total = total * shrink + tl.sum(values * factor[:, None], 0)
        top = larger
    y = to_bfloat16(total / weights)
    if not PLAIN:
        y = to_bfloat16(y.to(tl.float32) * to_bfloat16(tl.sigmoid(gate)).to(tl.float32))
    at = (to * HQ + head) * D
    if QUANTIZE:
        codes, scale = quantize_groups(tl.reshape(y.to(tl.float32), [1, PART]))
        one = tl.arange(0, 1)
        tl.store(out + at + d[None, :] + one[:, None], codes)
        tl.store(scales + (at + column) // PART + one, scale)
    else:
        tl.store(out + at + d, y)


@contextlib.contextmanager
def _warp_level_products() -> Iterator[None]:
    """Compile without the products of four warps (wgmma), which Triton 3.6 gets wrong here.

    With them `_scores` reads illegal addresses on an H200, or returns wrong sums. The compiler
    asks the environment; other kernels must not be compiled meanwhile.
    """
    before = os.environ.get(WGMMA_OFF)
    os.environ[WGMMA_OFF] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WGMMA_OFF]
        else:
            os.environ[WGMMA_OFF] = before


@functools.cache
def _programs(device: torch.device) -> int:
    """How many programs share the work items; results do not depend on it."""
    if INTERPRETED or device.type != "cuda":
        return 3
    return PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


def attention(
    qkv: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    out_cache_loc: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    paths: torch.Tensor | None,
    quantize: bool,
    workspace: AttentionWorkspace,
    early_cache: bool = False,
    accepted: torch.Tensor | None = None,
) -> AttentionOutput:
    """T rows: one a request (paths None), or the nodes of draft trees.

    q_weight, k_weight: [D]; without both, qkv is [T, (HQ + 2 HKV) D] and has neither norms nor
    gates, as the draft head's. positions: [T] int64; cos_sin_cache: [positions, rotary] fp32,
    cosines then sines. k_cache, v_cache: one layer's pools [slots, HKV, D]. out_cache_loc: [T]
    int64. kv_indptr [B + 1] int32, kv_indices int64 or int32: as stock's Triton backend prepares
    them, in decode with the row's own slot as the last one of its request, in verify without the
    pass.
    paths: [T, 2 + n] of tree_paths or chain_paths; the row of depth d is at position prefix + d.
    early_cache: read kv_indptr, kv_indices, paths, positions, out_cache_loc and what earlier passes
    left in the cache before the preceding kernels have ended. Only where none of these writes them,
    which is so for the target's passes, each captured as one graph; accepted is None then.
    accepted: [B] int32. Only node accepted[b] - 1 of request b is then in the output [B, HQ * D];
    keys and values of all nodes are written all the same.
    """
    rows, width = qkv.shape
    _, kv_heads, dim = k_cache.shape
    plain = q_weight is None
    heads = (width - 2 * kv_heads * dim) // (dim if plain else 2 * dim)
    group = heads // kv_heads
    nodes = 1 if paths is None else paths.shape[1] - 2
    batch = len(kv_indptr) - 1
    if batch * nodes != rows:
        raise ValueError(f"{rows} rows are not {batch} requests of {nodes}")
    if group * kv_heads != heads or triton.next_power_of_2(group) != group or group > QUERIES:
        raise ValueError(f"{heads} query heads on {kv_heads} key/value heads do not fill a tile")
    if quantize and dim % GROUP:
        raise ValueError(f"a head of {dim} is not made of quantization groups of {GROUP}")
    out_dtype = torch.float8_e4m3fn if quantize else torch.bfloat16
    out_rows = rows if accepted is None else batch
    out = torch.empty(out_rows, heads * dim, dtype=out_dtype, device=qkv.device)
    scales = None
    if quantize:
        shape = out_rows, heads * dim // GROUP
        scales = torch.empty(shape, dtype=torch.float32, device=qkv.device)
    sums, stats = workspace
    table = qkv if paths is None else paths
    bounds = {
        "SIZE0": CHUNKS[0][1],
        "FROM1": CHUNKS[1][0],
        "SIZE1": CHUNKS[1][1],
        "FROM2": CHUNKS[2][0],
        "SIZE2": CHUNKS[2][1],
    }
    part = min(dim, GROUP)
    tile_rows = max(1, min(QUERIES, max(group * triton.next_power_of_2(nodes), 16)) // group)
    queries = torch.empty(rows, heads * dim, dtype=torch.bfloat16, device=qkv.device)
    _prepare[(heads + kv_heads, rows)](
        qkv,
        qkv if q_weight is None else q_weight,
        qkv if k_weight is None else k_weight,
        positions,
        cos_sin_cache,
        k_cache,
        v_cache,
        out_cache_loc,
        queries,
        eps,
        qkv.stride(0),
        k_cache.stride(0),
        v_cache.stride(0),
        HQ=heads,
        HKV=kv_heads,
        D=dim,
        ROTARY=cos_sin_cache.shape[1],
        PLAIN=plain,
        EARLY=early_cache,
        PDL=dependent_launch(),
        num_warps=PREPARE_WARPS,
        enable_fp_fusion=False,
        **launch_options(),
    )
    with _warp_level_products():
        _scores[(_programs(qkv.device),)](
            queries,
            k_cache,
            v_cache,
            out_cache_loc,
            kv_indptr,
            kv_indices,
            table,
            sums,
            stats,
            batch,
            sums.shape[2],
            k_cache.stride(0),
            v_cache.stride(0),
            N=nodes,
            OWN=int(paths is None),
            BP=triton.next_power_of_2(batch),
            HQ=heads,
            HKV=kv_heads,
            D=dim,
            ROWS=tile_rows,
            NP=max(8, triton.next_power_of_2(nodes)),
            TILE=TILE,
            DOT=DOT_DTYPE,
            **bounds,
            EARLY=early_cache,
            PDL=dependent_launch(),
            num_warps=SCORE_WARPS,
            **({} if INTERPRETED else {"maxnreg": REGISTERS}),
            enable_fp_fusion=False,
            **launch_options(),
        )
    _combine[(heads, dim // part, out_rows)](
        qkv,
        kv_indptr,
        table,
        kv_indptr if accepted is None else accepted,
        sums,
        stats,
        out,
        out if scales is None else scales,
        sums.shape[2],
        qkv.stride(0),
        N=nodes,
        OWN=int(paths is None),
        HQ=heads,
        D=dim,
        PART=part,
        COMBINED=COMBINED,
        QUANTIZE=quantize,
        PLAIN=plain,
        CHOSEN=accepted is not None,
        **bounds,
        EARLY=early_cache,
        PDL=dependent_launch(),
        num_warps=COMBINE_WARPS,
        enable_fp_fusion=False,
        **launch_options(),
    )
    return AttentionOutput(out, scales)


def gemma_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (1 + weight.float())
    return x.bfloat16()


def rotate(x: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """x: [T, heads, D] bf16; cos_sin: [T, rotary] fp32."""
    half = cos_sin.shape[1] // 2
    cos, sin = cos_sin[:, None, :half].float(), cos_sin[:, None, half:].float()
    one, two = x[..., :half].float(), x[..., half : 2 * half].float()
    turned = torch.cat([one * cos - two * sin, two * cos + one * sin], -1).bfloat16()
    return torch.cat([turned, x[..., 2 * half :]], -1)


def reference_attention(
    qkv: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    out_cache_loc: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    paths: torch.Tensor | None,
) -> torch.Tensor:
    """`attention` without quantization in plain torch: out [T, HQ * D] bf16, caches in place."""
    rows = qkv.shape[0]
    _, kv_heads, dim = k_cache.shape
    parts = 1 if q_weight is None else 2
    heads = (qkv.shape[1] - 2 * kv_heads * dim) // (parts * dim)
    q_gate, k, v = qkv.split([heads * parts * dim, kv_heads * dim, kv_heads * dim], 1)
    q, *gate = q_gate.view(rows, heads, parts, dim).unbind(2)
    k, v = k.view(rows, kv_heads, dim), v.view(rows, kv_heads, dim)
    cos_sin = cos_sin_cache[positions]
    if q_weight is not None and k_weight is not None:
        q, k = gemma_norm(q, q_weight, eps), gemma_norm(k, k_weight, eps)
    q, k = rotate(q, cos_sin), rotate(k, cos_sin)
    k_cache[out_cache_loc], v_cache[out_cache_loc] = k, v
    out = torch.empty(rows, heads, dim, dtype=torch.bfloat16, device=qkv.device)
    nodes = 1 if paths is None else paths.shape[1] - 2
    for row in range(rows):
        request = row // nodes
        own = kv_indices[int(kv_indptr[request]) : int(kv_indptr[request + 1])].long()
        if paths is not None:
            depth, _, *path = paths[row].tolist()
            drafted = [int(out_cache_loc[request * nodes + node]) for node in path[: depth + 1]]
            own = torch.cat([own, torch.tensor(drafted, device=own.device)])
        keys = k_cache[own].repeat_interleave(heads // kv_heads, 1).float()
        values = v_cache[own].repeat_interleave(heads // kv_heads, 1).float()
        scores = torch.einsum("hd,phd->hp", q[row].float(), keys) * dim**-0.5
        out[row] = torch.einsum("hp,phd->hd", scores.softmax(1), values).bfloat16()
    if gate:
        out *= torch.sigmoid(gate[0])
    return out.flatten(1)
