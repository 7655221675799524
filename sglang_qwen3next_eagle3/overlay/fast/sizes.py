"""How large the buffers of the fast path are, by the shapes of a server alone.

`kernel_table.Kernels` and `head.HeadKernels` allocate them; this says beforehand what they take
(`doctor`). Importing it loads neither torch nor triton.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_ROWS: Final = 32
"""Rows (requests times draft tokens) that the draft head, lm_head and sums over ranks have room
for, and that every program of a dense layer or of the list of experts takes at once."""
ALL_ROWS: Final = 128
"""Rows up to which any stage of a pass is ours."""
CHUNKS: Final = ((0, 64), (2048, 128), (8192, 512))
"""(first position, positions in a chunk) of ranges of chunks: short contexts are cut finely, so
that they fill the GPU, long ones coarsely, so that few partial results are combined."""
WORKSPACE_BYTES: Final = 305_000_000
"""Of the target's workspace at most: 32 rows at 262,144 tokens. There,
passes of more are stock's."""
LEFT: Final = 2 * 2**30
"""Bytes that stay free beside the buffers under `auto`: for the head's buffers, the check at start,
the graphs and the prefills, which SGLang captures and runs after. A guess; not measured."""


def chunk_count(length: int, chunks: Sequence[tuple[int, int]] = CHUNKS) -> int:
    """Chunks that hold the first `length` positions."""
    if length <= 0:
        return 0
    count = 0
    for (first, size), following in zip(chunks, [*chunks[1:], (length, 1)], strict=True):
        count += -(-max(0, min(length, following[0]) - first) // size)
    return count


def least_rows(nodes: int) -> int:
    """Rows that attention has at any length: two requests of so many tokens, or one where two are
    too many."""
    return max(8, 2 * nodes if 2 * nodes <= MAX_ROWS else nodes)


@dataclass(frozen=True)
class Shapes:
    """Of a target on one rank. layers: of GDN; context: tokens of the longest request and its
    drafts."""

    heads: int
    head_dim: int
    layers: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    context: int


def of_attention(rows: int, heads: int, head_dim: int, context: int) -> int:
    """Bytes of an attention's workspace."""
    return rows * heads * chunk_count(context) * (head_dim + 2) * 4


def attention_rows(rows: int, nodes: int, heads: int, head_dim: int, context: int) -> int:
    """Rows of a pass up to which attention is ours, of at most `rows`."""
    fitting = WORKSPACE_BYTES // of_attention(1, heads, head_dim, context)
    return min(rows, max(least_rows(nodes), fitting))


def of_target(shapes: Shapes, rows: int, nodes: int) -> int:
    """Bytes of the buffers of passes of up to `rows` rows, of `nodes` tokens a request."""
    keys, values = shapes.key_heads * shapes.key_dim, shapes.value_heads * shapes.value_dim
    kept = 2 * (2 * keys + values) + 4 * keys + 2 * values + 2 * 4 * shapes.value_heads
    arrivals = 4 * shapes.key_heads
    full = shapes.heads, shapes.head_dim, shapes.context
    within = attention_rows(rows, nodes, *full)
    return rows * (shapes.layers * kept + arrivals) + of_attention(within, *full)


def of_head(shapes: Shapes, rows: int, nodes: int, heads: int, head_dim: int) -> int:
    """Bytes that an EAGLE3 head with these heads takes beside the target's buffers, in whose
    workspace it works where that is large enough. rows, nodes: as of the target."""
    chunks = chunk_count(shapes.context)
    full = shapes.heads, shapes.head_dim, shapes.context
    there = attention_rows(rows, nodes, *full) * shapes.heads * chunks
    own = MAX_ROWS * heads * chunks
    if there >= own and there * shapes.head_dim >= own * head_dim:
        return 0
    return of_attention(MAX_ROWS, heads, head_dim, shapes.context)
