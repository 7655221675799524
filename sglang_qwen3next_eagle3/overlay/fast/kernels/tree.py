"""The paths of a draft tree, as the kernels of a verify pass walk them.

    parents [B, n]                  -> paths [B * n, 2 + n] int32
    or next child and next sibling     column 0: depth d of the node (the root's is 0)
    [B, n] as SGLang keeps them        column 1: the node whose walk yields this node's output
                                       column 2 + i: the node at depth i on the way from the root;
                                                     beyond d the node itself

Nodes are numbered within their request; node 0 is the root, and a parent comes before its children.
A walk goes from the root to a leaf. A node on several walks belongs to the smallest of their
leaves, so that a chain is one walk and every output is written once. One launch serves a whole
pass.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import dependent_launch, launch_options

HEADER = 2
"""Columns before the path itself."""


@triton.jit
def _look_up(table, index, column):
    """table[index] for vectors of NP values in registers."""
    return tl.sum(tl.where(index[:, None] == column[None, :], table[None, :], 0), 1)


@triton.jit
def _tree_paths(
    parents,
    siblings,
    paths,
    N: tl.constexpr,
    NP: tl.constexpr,
    LINKED: tl.constexpr,
    PDL: tl.constexpr,
):
    request = tl.program_id(0)
    node = tl.arange(0, NP)
    inside = node < N
    # Successors start when this has ended, not earlier: a walk reads paths ahead of its own wait.
    if PDL:
        gdc_wait()
    first = tl.load(parents + request * N + node, mask=inside, other=-1).to(tl.int32)
    parent = first
    if LINKED:
        second = tl.load(siblings + request * N + node, mask=inside, other=-1).to(tl.int32)
        parent = tl.zeros([NP], tl.int32)
        for i in range(N):
            child = tl.sum(tl.where(node == i, first, 0), 0)
            parent = tl.where(node == child, i, parent)
            sibling = tl.sum(tl.where(node == i, second, 0), 0)
            above = tl.sum(tl.where(node == i, parent, 0), 0)
            parent = tl.where(node == sibling, above, parent)
    # Rows of padding hold what was there; a path must stay within its request all the same.
    parent = tl.maximum(tl.minimum(parent, node - 1), 0)

    depth = tl.zeros([NP], tl.int32)
    at = node
    for _ in range(N - 1):
        depth += (at > 0).to(tl.int32)
        at = _look_up(parent, at, node)

    children = tl.sum(
        ((parent[:, None] == node[None, :]) & ((node > 0) & inside)[:, None]).to(tl.int32), 0
    )
    walk = tl.where(children == 0, node, NP)
    for j in range(N - 1):
        i = N - 1 - j
        leaf = tl.sum(tl.where(node == i, walk, 0), 0)
        above = tl.sum(tl.where(node == i, parent, 0), 0)
        walk = tl.where((node == above) & (leaf < walk), leaf, walk)

    row = paths + (request * N + node) * (N + 2)
    tl.store(row, depth, mask=inside)
    tl.store(row + 1, walk, mask=inside)
    at = node
    for step in range(N):
        column = depth - step
        tl.store(row + 2 + tl.maximum(column, 0), at, mask=inside & (column >= 0))
        tl.store(row + 2 + step, node, mask=inside & (step > depth))
        at = _look_up(parent, at, node)


def tree_paths(
    parents: torch.Tensor | None = None,
    next_token: torch.Tensor | None = None,
    next_sibling: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The paths of every request's tree, [B * n, 2 + n] int32 as the module describes them.

    parents: [B, n] int, the root's entry is not read. Or next_token and next_sibling: [B, n] int,
    SGLang's `retrieve_next_token` and `retrieve_next_sibling`, -1 where there is none.
    """
    links = parents if parents is not None else next_token
    if links is None or (parents is None and next_sibling is None):
        raise ValueError("a tree is given by its parents, or by next tokens and next siblings")
    batch, nodes = links.shape
    if out is None:
        out = torch.empty(batch * nodes, HEADER + nodes, dtype=torch.int32, device=links.device)
    _tree_paths[(batch,)](
        links.contiguous(),
        links if next_sibling is None else next_sibling.contiguous(),
        out,
        N=nodes,
        NP=max(2, triton.next_power_of_2(nodes)),
        LINKED=parents is None,
        PDL=dependent_launch(),
        num_warps=1,
        **launch_options(),
    )
    return out


def chain_paths(batch: int, nodes: int, device: torch.device | str) -> torch.Tensor:
    """The paths of chains of `nodes` tokens: constant, so that they are made once per shape."""
    node = torch.arange(nodes, dtype=torch.int32)
    path = torch.minimum(node[None, :], node[:, None])
    header = torch.stack([node, torch.full_like(node, nodes - 1)], 1)
    return torch.cat([header, path], 1).repeat(batch, 1).to(device)


def reference_tree_paths(parents: torch.Tensor) -> torch.Tensor:
    """`tree_paths` of parents, node by node."""
    rows = []
    for tree in parents.tolist():
        routes: list[list[int]] = [[0]]
        for node, parent in enumerate(tree[1:], start=1):
            routes.append([*routes[parent], node])
        inner = set(tree[1:])
        for node, route in enumerate(routes):
            walks = [
                leaf for leaf in range(len(tree)) if leaf not in inner and node in routes[leaf]
            ]
            beyond = [node] * (len(tree) - len(route))
            rows.append([len(route) - 1, min(walks), *route, *beyond])
    return torch.tensor(rows, dtype=torch.int32, device=parents.device)
