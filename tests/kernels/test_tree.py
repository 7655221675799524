"""Paths of draft trees, from parents and from SGLang's links."""

import random

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels.tree import (
    chain_paths,
    reference_tree_paths,
    tree_paths,
)


def parents(batch: int, nodes: int, seed: int = 0) -> torch.Tensor:
    """Random trees; a parent comes before its children."""
    choose = random.Random(seed)
    return torch.tensor(
        [[-1, *(choose.randrange(node) for node in range(1, nodes))] for _ in range(batch)]
    )


def links(trees: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first child of every node, and its next sibling, -1 where there is none."""
    child, sibling = torch.full_like(trees, -1), torch.full_like(trees, -1)
    for request, tree in enumerate(trees.tolist()):
        youngest: dict[int, int] = {}
        for node, parent in enumerate(tree[1:], start=1):
            if parent in youngest:
                sibling[request, youngest[parent]] = node
            else:
                child[request, parent] = node
            youngest[parent] = node
    return child, sibling


@pytest.mark.parametrize("nodes", [1, 2, 5, 8])
def test_paths_of_random_trees(nodes: int) -> None:
    trees = parents(3, nodes, seed=nodes)
    expected = reference_tree_paths(trees)
    assert torch.equal(tree_paths(trees), expected)
    child, sibling = links(trees)
    assert torch.equal(tree_paths(next_token=child, next_sibling=sibling), expected)


def test_every_output_is_written_by_one_walk() -> None:
    nodes = 16
    for seed in range(5):
        paths = reference_tree_paths(parents(1, nodes, seed)).tolist()
        written = [
            node
            for leaf, (depth, walk, *path) in enumerate(paths)
            if walk == leaf
            for node in path[: depth + 1]
            if paths[node][1] == leaf
        ]
        assert sorted(written) == list(range(nodes))


def test_chains_are_trees() -> None:
    chain = torch.arange(-1, 5).repeat(2, 1)
    assert torch.equal(chain_paths(2, 6, "cpu"), reference_tree_paths(chain))


def test_rows_of_padding_stay_within_their_request() -> None:
    generator = torch.Generator().manual_seed(0)
    junk = torch.randint(-(2**31), 2**31 - 1, (2, 6), generator=generator)
    for paths in (tree_paths(junk), tree_paths(next_token=junk, next_sibling=junk)):
        assert bool((paths >= 0).all())
        assert bool((paths < 6).all())


def test_half_of_the_links_is_an_error() -> None:
    with pytest.raises(ValueError, match="next siblings"):
        tree_paths(next_token=torch.zeros(1, 4, dtype=torch.int64))
