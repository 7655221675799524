"""Full attention of a decode or verify pass after its projection, in two launches.

    qkv [T, HQ * 2 D + 2 HKV D] bf16  -> out [T, HQ * D] bf16, or e4m3 with scales [T, HQ * D / 128]
    k_cache, v_cache [slots, HKV, D] bf16: rows `out_cache_loc` are written

The projection holds query and output gate of a head side by side (q0, gate0, q1, gate1, ...), then
the keys and the values. Query and key heads are normalized (gemma: gain 1 + weight) and their first
`rotary` dimensions rotated (neox style), each rounded to bf16 as in stock.

    1. scores: a work item is one chunk of positions, one key/value head, and up to four rows of a
       request (their HQ / HKV query heads are the rows of one tile of the tensor cores). It leaves
       the unnormalized sum, the maximum and the sum of weights of its chunk.
    2. combine: one program a row and query head folds its chunks in their order, multiplies by the
       sigmoid of the gate and quantizes.

Chunks begin and end at fixed positions (`chunk_bounds`), whatever the context's length, and a row's
own tile is the same in every pass. So a row's bits depend on its position, its queries and the keys
and values of its path alone: a row of a verify equals the row of the decode step that it stands for,
bit for bit. The keys of the pass itself are computed from `qkv` by whoever needs them, so that no
program waits for another; chunks that hold them are worked on row by row, along the row's path.
"""

from typing import NamedTuple

import torch

CHUNKS = ((0, 64), (2048, 256), (8192, 512))
"""(first position, positions in a chunk) of ranges of chunks: short contexts are cut finely, so
that they fill the GPU, long ones coarsely, so that few partial results are combined."""

ROW_TILE = 4
"""Rows of a request that share a work item, and with it one reading of keys and values."""


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
    if length <= 0:
        return 0
    count = 0
    for (first, size), following in zip(CHUNKS, [*CHUNKS[1:], (length, 1)], strict=True):
        count += -(-max(0, min(length, following[0]) - first) // size)
    return count


def attention_workspace(
    rows: int, query_heads: int, head_dim: int, max_context: int, device: torch.device | str
) -> AttentionWorkspace:
    """Space for passes of `rows` rows and contexts of up to `max_context` tokens.

    rows * query_heads * chunks * (head_dim + 2) * 4 bytes: 55 MB for 32 rows of 16 heads of 256 at
    32,768 tokens, 290 MB at 262,144. Once, outside of any graph.
    """
    shape = rows, query_heads, chunk_count(max_context)
    return AttentionWorkspace(
        torch.empty(*shape, head_dim, dtype=torch.float32, device=device),
        torch.empty(*shape, 2, dtype=torch.float32, device=device),
    )


def attention(
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
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
) -> AttentionOutput:
    """T rows: one a request (paths None), or the nodes of draft trees.

    q_weight, k_weight: [D]; positions: [T] int64; cos_sin_cache: [positions, rotary] fp32, cosines
    then sines. k_cache, v_cache: one layer's pools [slots, HKV, D]. out_cache_loc: [T] int64.
    kv_indptr [B + 1] int32, kv_indices int64 or int32: as stock's Triton backend prepares them, in
    decode with the row's own slot as the last one of its request, in verify without the pass.
    paths: [T, 2 + n] of tree_paths or chain_paths; the row of depth d is at position prefix + d.
    """
    raise NotImplementedError


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
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
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
    heads = (qkv.shape[1] - 2 * kv_heads * dim) // (2 * dim)
    q_gate, k, v = qkv.split([heads * 2 * dim, kv_heads * dim, kv_heads * dim], 1)
    q, gate = q_gate.view(rows, heads, 2, dim).unbind(2)
    k, v = k.view(rows, kv_heads, dim), v.view(rows, kv_heads, dim)
    cos_sin = cos_sin_cache[positions]
    q = rotate(gemma_norm(q, q_weight, eps), cos_sin)
    k = rotate(gemma_norm(k, k_weight, eps), cos_sin)
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
    return (out * torch.sigmoid(gate)).flatten(1)
