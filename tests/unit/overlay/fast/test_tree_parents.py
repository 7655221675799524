"""Parents of a draft tree against a walk along its links."""

import random

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels.tree_parents import (
    reference_tree_parents,
    tree_parents,
)


def links(parents: list[int]) -> tuple[list[int], list[int]]:
    """First child and next sibling of every node, as SGLang's tree kernel writes them."""
    child, sibling = [-1] * len(parents), [-1] * len(parents)
    last: dict[int, int] = {}
    for node, parent in enumerate(parents):
        if parent < 0:
            continue
        if parent in last:
            sibling[last[parent]] = node
        else:
            child[parent] = node
        last[parent] = node
    return child, sibling


@pytest.mark.parametrize("nodes", [1, 4, 8, 13])
@pytest.mark.parametrize("of", [tree_parents, reference_tree_parents])
def test_random_trees(nodes: int, of: object) -> None:
    drawn = random.Random(nodes)
    trees = [[-1, *(drawn.randrange(node) for node in range(1, nodes))] for _ in range(5)]
    rows = [links(tree) for tree in trees]
    child, sibling = (torch.tensor(part, dtype=torch.int32) for part in zip(*rows, strict=True))
    parents = torch.full((len(trees), nodes), 99, dtype=torch.int32)
    of(child, sibling, parents)  # type: ignore[operator]
    assert parents.tolist() == trees


def test_rows_of_padding_still_end_at_the_root() -> None:
    child = torch.tensor([[0, 0, 0, 0], [3, 2, 1, 0], [2, 2, 9, 1]], dtype=torch.int32)
    sibling = torch.tensor([[0, 0, 0, 0], [3, 3, 0, 1], [0, 0, 3, 7]], dtype=torch.int32)
    parents = torch.full((3, 4), 99, dtype=torch.int32)
    tree_parents(child, sibling, parents)
    assert (parents < torch.arange(4)).all()
    assert (parents >= -1).all()
    expected = torch.empty_like(parents)
    reference_tree_parents(child, sibling, expected)
    assert parents.tolist() == expected.tolist()
