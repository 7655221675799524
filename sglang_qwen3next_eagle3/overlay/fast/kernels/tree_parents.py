"""The parent of every node of a draft tree, from the links that SGLang keeps of it.

    next_token [B, n] int32 (first child or -1), next_sibling [B, n] int32 (or -1)
        -> parents [B, n] int32, -1 at the root

One program a request. Nodes are in the order in which a parent stands before its children. The
rows of padding hold anything; a parent that does not stand before its node becomes the root's -1
or the node before, so that a walk to the root always ends.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import dependent_launch, launch_options


@triton.jit
def _tree_parents(
    next_token, next_sibling, parents, N: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    row = tl.program_id(0) * N
    node = tl.arange(0, BLOCK)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    child = tl.load(next_token + row + node, mask=node < N, other=-1)
    sibling = tl.load(next_sibling + row + node, mask=node < N, other=-1)
    found = tl.full((BLOCK,), -1, tl.int32)
    for i in range(N):
        here = node == i
        own = tl.sum(tl.where(here, found, 0), 0)
        first = tl.sum(tl.where(here, child, 0), 0)
        other = tl.sum(tl.where(here, sibling, 0), 0)
        found = tl.where((node == first) & (node > i), i, found)
        found = tl.where((node == other) & (node > i), own, found)
    tl.store(parents + row + node, found, mask=node < N)


def tree_parents(
    next_token: torch.Tensor, next_sibling: torch.Tensor, parents: torch.Tensor
) -> None:
    """Fill `parents` [B, n] int32, contiguous like the links."""
    requests, nodes = parents.shape
    _tree_parents[(requests,)](
        next_token,
        next_sibling,
        parents,
        N=nodes,
        BLOCK=triton.next_power_of_2(nodes),
        PDL=dependent_launch(),
        num_warps=1,
        **launch_options(),
    )


def reference_tree_parents(
    next_token: torch.Tensor, next_sibling: torch.Tensor, parents: torch.Tensor
) -> None:
    """The same in plain torch."""
    parents.fill_(-1)
    children, siblings = next_token.tolist(), next_sibling.tolist()
    nodes = parents.shape[1]
    for row in range(parents.shape[0]):
        for i in range(nodes):
            if i < children[row][i] < nodes:
                parents[row, children[row][i]] = i
            if i < siblings[row][i] < nodes:
                parents[row, siblings[row][i]] = parents[row, i]
