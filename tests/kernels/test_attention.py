"""Attention in the interpreter: against plain torch, and a verify's rows against decode's bits."""

import itertools
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import attention as module
from sglang_qwen3next_eagle3.overlay.fast.kernels.attention import (
    AttentionOutput,
    attention,
    attention_workspace,
    chunk_count,
    reference_attention,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import reference_quantize
from sglang_qwen3next_eagle3.overlay.fast.kernels.tree import chain_paths, tree_paths

Inputs = dict[str, Any]
CHUNKS = ((0, 64), (128, 128), (256, 192))
"""Small ones, so that short contexts reach every range."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNKS", CHUNKS)


def inputs(
    prefixes: list[int],
    paths: torch.Tensor | None = None,
    heads: int = 2,
    kv_heads: int = 1,
    dim: int = 32,
) -> Inputs:
    """A pass of one row a request, or of the nodes of `paths`, over slots in random order."""
    nodes = 1 if paths is None else paths.shape[1] - 2
    rows = len(prefixes) * nodes
    generator = torch.Generator().manual_seed(rows + prefixes[0])
    slots = sum(prefixes) + rows + 3
    order = torch.randperm(slots, generator=generator).split([*prefixes, rows, 3])
    drafted = order[-2].view(len(prefixes), nodes)
    indices = [
        torch.cat([own, new]) if paths is None else own
        for own, new in zip(order, drafted, strict=False)
    ]
    lengths = torch.tensor([0, *map(len, indices)])
    depth = torch.zeros(rows, dtype=torch.int64) if paths is None else paths[:, 0].long()

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    return {
        "qkv": normal(rows, heads * 2 * dim + 2 * kv_heads * dim).bfloat16(),
        "q_weight": (normal(dim) * 0.1).bfloat16(),
        "k_weight": (normal(dim) * 0.1).bfloat16(),
        "eps": 1e-6,
        "positions": torch.tensor(prefixes).repeat_interleave(nodes) + depth,
        "cos_sin_cache": normal(max(prefixes) + nodes, dim // 4),
        "k_cache": normal(slots, kv_heads, dim).bfloat16(),
        "v_cache": normal(slots, kv_heads, dim).bfloat16(),
        "out_cache_loc": drafted.flatten(),
        "kv_indptr": lengths.cumsum(0).int(),
        "kv_indices": torch.cat(indices),
    }


def copied(layer: Inputs) -> Inputs:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in layer.items()}


def run(
    layer: Inputs, paths: torch.Tensor | None = None, quantize: bool = False
) -> AttentionOutput:
    heads = 2 * layer["qkv"].shape[1] // layer["k_cache"].shape[2]
    workspace = attention_workspace(
        max(16, len(layer["qkv"])), heads, layer["k_cache"].shape[2], 512, "cpu"
    )
    return attention(paths=paths, quantize=quantize, workspace=workspace, **layer)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize(
    ("prefixes", "heads", "kv_heads", "dim"),
    [
        ([0, 63, 64], 2, 1, 32),
        ([127, 130], 4, 2, 16),
        ([255], 8, 1, 32),
        ([449], 1, 1, 64),
        ([*range(40)], 1, 1, 16),
    ],
)
def test_decode_is_its_reference(prefixes: list[int], heads: int, kv_heads: int, dim: int) -> None:
    """Contexts that end within, at and behind the edges of chunks of each size; many requests."""
    layer = inputs(prefixes, None, heads, kv_heads, dim)
    expected = copied(layer)
    out = run(layer).out
    wanted = reference_attention(paths=None, **expected)
    # bf16 in the weights of a value, which stock rounds as well.
    torch.testing.assert_close(out.float(), wanted.float(), rtol=2**-6, atol=4e-3)
    assert same_bits(layer["k_cache"], expected["k_cache"])
    assert same_bits(layer["v_cache"], expected["v_cache"])


def test_a_verify_of_one_token_is_a_decode() -> None:
    """What adaptive drafting runs with 0 steps."""
    paths = chain_paths(2, 1, "cpu")
    layer = inputs([62, 127], paths)
    indices, ends = layer["kv_indices"], layer["kv_indptr"].tolist()
    new = layer["out_cache_loc"]
    own = [torch.cat([indices[ends[n] : ends[n + 1]], new[n : n + 1]]) for n in range(2)]
    lengths = torch.tensor([0, *map(len, own)]).cumsum(0).int()
    decoded = {**copied(layer), "kv_indices": torch.cat(own), "kv_indptr": lengths}
    assert same_bits(run(layer, paths).out, run(decoded).out)
    assert same_bits(layer["k_cache"], decoded["k_cache"])


@pytest.mark.parametrize(
    ("prefix", "tree", "heads"),
    [
        (62, [-1, 0, 1, 2], 2),
        (126, [-1, 0, 0, 2], 2),
        (60, [-1, 0, 1, 2, 3, 4], 8),
        (61, [-1, 0, 0, 1, 3, 4], 8),
    ],
)
def test_a_row_of_a_verify_is_that_of_decode(prefix: int, tree: list[int], heads: int) -> None:
    """Drafts that lie on both sides of an edge between chunks, on chains and on branches; walks of
    more nodes than a work item has rows."""
    nodes = len(tree)
    paths = tree_paths(torch.tensor([tree]))
    layer = inputs([prefix], paths, heads)
    start, expected = copied(layer), copied(layer)
    out = run(layer, paths).out
    wanted = reference_attention(paths=paths, **expected)
    torch.testing.assert_close(out.float(), wanted.float(), rtol=2**-6, atol=4e-3)
    assert same_bits(layer["k_cache"], expected["k_cache"])
    assert same_bits(layer["v_cache"], expected["v_cache"])
    for leaf in [row for row in range(nodes) if paths[row, 1] == row]:
        sequential = copied(start)
        depth, _, *path = paths[leaf].tolist()
        for length, node in enumerate(path[: depth + 1], start=1):
            own = start["out_cache_loc"][path[:length]]
            step = {
                **sequential,
                "qkv": start["qkv"][node : node + 1],
                "positions": start["positions"][node : node + 1],
                "out_cache_loc": own[-1:],
                "kv_indptr": torch.tensor([0, prefix + length], dtype=torch.int32),
                "kv_indices": torch.cat([start["kv_indices"], own]),
            }
            assert same_bits(run(step).out[0], out[node])


def test_codes_are_those_of_the_rounded_output() -> None:
    layer = inputs([70], None, heads=2, kv_heads=1, dim=128)
    plain, quantized = run(copied(layer)), run(layer, quantize=True)
    codes, scales = reference_quantize(plain.out)
    assert quantized.scales is not None
    assert same_bits(quantized.out, codes)
    assert same_bits(quantized.scales, scales)


def test_chunks_are_counted_to_the_end_of_every_range(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = [0, 64, 128, 256, 448, 640]
    for count, (begin, end) in enumerate(itertools.pairwise(edges), start=1):
        assert chunk_count(begin) == count - 1
        assert chunk_count(begin + 1) == chunk_count(end) == count
    monkeypatch.undo()
    assert chunk_count(262_144) < 600


def test_arguments_that_do_not_fit_are_refused() -> None:
    layer = inputs([3])
    with pytest.raises(ValueError, match="1 rows are not 1 requests of 2"):
        run(layer, chain_paths(1, 2, "cpu"))
    with pytest.raises(ValueError, match="quantization groups"):
        run(layer, quantize=True)
    with pytest.raises(ValueError, match="do not fill a tile"):
        run(inputs([3], heads=3))
