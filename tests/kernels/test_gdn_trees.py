"""`gdn_trees` has the bits of `gdn_verify`: outputs, and what is kept for the commit."""

import json
import os
import random
import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from sglang_qwen3next_eagle3.overlay.fast import kernel_table
from sglang_qwen3next_eagle3.overlay.fast.kernels import gdn_trees
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_verify import GdnKept, gdn_verify
from sglang_qwen3next_eagle3.overlay.fast.kernels.tree import chain_paths, tree_paths
from tests.kernels.test_gdn import REAL, SMALL, inputs, same_bits

TWO_INNER = [-1, 0, 0, 1, 2, 1, 2, 0]
"""Two children of the root have children themselves: a walk has to start anew."""
DEEP = [-1, 0, 1, 2, 3, 3, 4, 5]
"""The same three nodes below the root."""


def random_tree(nodes: int, generator: random.Random) -> list[int]:
    return [-1, *(generator.randrange(node) for node in range(1, nodes))]


def paths_of(trees: list[list[int]]) -> torch.Tensor:
    return tree_paths(torch.tensor(trees, dtype=torch.int32))


def compared(
    paths: torch.Tensor,
    slots: list[int],
    shape: tuple[int, int, int, int],
    quantize: bool = False,
    bias: bool = False,
    early: bool = True,
) -> None:
    rows = len(paths)
    layer = inputs(rows, shape, slots=max(slots, default=0) + 2, bias=bias)
    both = []
    for run, poison in ((gdn_verify, 3.0), (gdn_trees.gdn_trees, 5.0)):
        kept = GdnKept.empty(2, rows + 1, *shape, "cpu")
        for field in fields(kept):
            getattr(kept, field.name).fill_(poison)
        before = {name: layer[name].clone() for name in ("conv_state", "ssm_state")}
        out = run(
            slots=torch.tensor(slots, dtype=torch.int32), quantize=quantize, paths=paths,
            kept=kept, layer=1, early_state=early, **layer,
        )  # fmt: skip
        assert all(same_bits(layer[name], before[name]) for name in before)
        parts = {field.name: getattr(kept, field.name) for field in fields(kept)}
        assert all(bool((part[0] == poison).all()) for part in parts.values())
        assert all(bool((part[1, rows:] == poison).all()) for part in parts.values())
        found = {name: part[1, :rows] for name, part in parts.items()} | {"out": out.out}
        both.append(found | ({} if out.scales is None else {"scales": out.scales}))
    assert set(both[0]) == set(both[1])
    for name in both[0]:
        assert same_bits(both[0][name], both[1][name]), name


@pytest.mark.parametrize(
    ("shape", "bias", "early"),
    [(SMALL, True, True), ((2, 2, 64, 32), False, False), ((1, 1, 16, 64), False, True)],
)
@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_chains(nodes: int, shape: tuple[int, int, int, int], bias: bool, early: bool) -> None:
    compared(chain_paths(3, nodes, "cpu"), [4, -1, 0], shape, bias=bias, early=early)


def test_trees_that_start_anew() -> None:
    """And a chain, in one batch with padding."""
    chain = list(range(-1, 7))
    compared(paths_of([TWO_INNER, chain, DEEP, DEEP]), [2, 5, 0, -1], SMALL, bias=True)


@pytest.mark.parametrize("requests", [2, 5, 16])
def test_random_trees(requests: int) -> None:
    generator = random.Random(requests)
    for nodes in (3,) if requests > 5 else (2, 5, 8):
        trees = [random_tree(nodes, generator) for _ in range(requests)]
        slots = generator.sample([-1, -1, *range(2 * requests)], requests)
        compared(paths_of(trees), slots, (1, 1, 16, 16), early=nodes % 2 == 0)


@pytest.mark.parametrize("heads", [(8, 16), (4, 8)])
def test_heads_of_a_rank(heads: tuple[int, int]) -> None:
    compared(paths_of([DEEP[:3], TWO_INNER[:3]]), [1, 0], (*heads, 16, 16))


@pytest.mark.parametrize("quantize", [True, False])
def test_heads_as_large_as_the_target_s(quantize: bool) -> None:
    compared(paths_of([TWO_INNER[:4], DEEP[:4]]), [1, -1], REAL, quantize=quantize)


def test_rows_that_are_no_trees_are_refused() -> None:
    layer = inputs(8, SMALL)
    with pytest.raises(ValueError, match="8 rows are not 3 trees of 4 nodes"):
        gdn_trees.gdn_trees(
            slots=torch.zeros(3, dtype=torch.int32), quantize=False,
            paths=chain_paths(2, 4, "cpu"), kept=GdnKept.empty(1, 8, *SMALL, "cpu"), layer=0,
            **layer,
        )  # fmt: skip


@triton.jit
def _only_plan(paths, plan, N: tl.constexpr, NP: tl.constexpr):
    gdn_trees._plan(paths, 0, plan, N, NP, False)


def plan_of(tree: list[int]) -> list[tuple[int, int]]:
    """(node, what to do) of every entry."""
    nodes = len(tree)
    plan = torch.full((gdn_trees.plan_width(nodes),), -1, dtype=torch.int32)
    _only_plan[(1,)](paths_of([tree]), plan, N=nodes, NP=max(2, triton.next_power_of_2(nodes)))
    count, *entries = plan.tolist()
    assert all(entry == -1 for entry in entries[count:])
    return [divmod(entry, 4) for entry in entries[:count]]


def test_plans_visit_every_node_once_from_its_parent() -> None:
    generator = random.Random(1)
    trees = [random_tree(nodes, generator) for nodes in (1, 2, 3, 4, 6, 8, 12, 16) * 6]
    # As many entries as a plan may have room for: a stem, and twigs of two nodes at its end.
    trees += [[-1, *range(6), *[6] * 4, 7, 8, 9, 10], [*range(-1, 31)], [-1, *[0] * 7]]
    for tree in trees:
        state, answered, restarts = -1, [], 0
        for node, kind in plan_of(tree):
            if kind == gdn_trees.RESTART.value:
                state, restarts = -1, restarts + 1
            assert tree[node] == state, (tree, node)
            if kind != gdn_trees.LEAF.value:
                state = node
            if kind in (gdn_trees.STEP.value, gdn_trees.LEAF.value):
                answered.append(node)
        assert sorted(answered) == list(range(len(tree))), tree
        inner = set(tree[1:])
        assert restarts == sum(max(0, sum(tree[c] == p for c in inner) - 1) for p in inner)
    assert [kind for _, kind in plan_of([*range(-1, 7)])] == [gdn_trees.STEP.value] * 8


PROGRAM = """
import json, re, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sglang_qwen3next_eagle3.overlay.fast.kernels import gdn_trees, gdn_verify

TYPES = {
    "*bf16": "qkvz ba conv_state conv_weight conv_bias dt_bias norm_weight kept_raw kept_value "
    "values",
    "*fp32": "A_log ssm_state kept_key kept_decay kept_beta scales keys decays betas queries",
    "*i32": "slots paths plans", "*fp8e4nv": "out", "fp32": "eps",
    "i32": "qkvz_stride ba_stride conv_stride ssm_stride",
}
TYPES = {name: dtype for dtype, names in TYPES.items() for name in names.split()}

def sums(kernel, **constants):
    '''Layout and axis of every sum: what its order is.'''
    order = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else TYPES[name] for name in order},
        constexprs={(order.index(name),): value for name, value in constants.items()},
        attrs={
            (i,): [["tt.divisibility", 16]] for i, n in enumerate(order)
            if n not in constants and n != "eps"
        },
    )
    options = {"num_warps": 4, "enable_fp_fusion": False, "launch_pdl": True}
    made = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    text = made.asm["ttgir"]
    names = dict(re.findall(r"^(#\\w+) = (#ttg[^\\n]*)", text, re.M))
    found = []
    for block in text.split('"tt.reduce"')[1:]:
        body, rest = block.split("tt.reduce.return", 1)
        axis = re.search(r"axis = (\\d)", body).group(1)
        kind = re.search(r"\\}\\) : \\((.*?)\\) ->", rest, re.S).group(1)
        if "xf32" in kind and "arith.addf" in body:
            for name in sorted(names, key=len, reverse=True):
                kind = kind.replace(name, names[name])
            found.append(axis + " " + kind)
    return sorted(set(found))

common = {"N": 8, "HK": 16, "R": 2, "DK": 128, "DV": 128, "EARLY": True, "PDL": True}
width = gdn_trees.plan_width(8)
before = sums(gdn_verify._gdn_verify, **common, PARTS=4, BIAS=False, QUANTIZE=True)
nodes = sums(gdn_trees._gdn_nodes, **common, NP=8, WIDTH=width, BIAS=False)
walks = sums(gdn_trees._gdn_walks, **common, WIDTH=width, PARTS=4, QUANTIZE=True)
print(json.dumps([before, nodes, walks]))
"""


def test_sums_are_in_the_order_of_gdn_verify() -> None:
    """By the layouts that Triton chose on a GPU, which the interpreter knows nothing of."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    before, nodes, walks = json.loads(done.stdout.splitlines()[-1])
    assert len(before) == 3  # both norms at once, along the state, the gated norm
    assert len(nodes) == 1
    assert len(walks) == 2
    assert sorted(nodes + walks) == before


def test_trees_of_several_requests_go_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_table, "_gdn_operands", lambda *layer: {})
    monkeypatch.setattr(kernel_table.gdn_trees, "gdn_trees", lambda **operands: "gdn_trees")
    monkeypatch.setattr(kernel_table.gdn_verify, "gdn_verify", lambda **operands: "gdn_verify")
    table: Any = SimpleNamespace(kept=None)

    def serving(requests: int, tree: bool) -> object:
        at: Any = SimpleNamespace(requests=requests, tree=tree, paths=None)
        rows: Any = torch.empty(0)
        operands = None, rows, rows, None, rows
        return kernel_table.Kernels.gdn_verify(table, at, *operands, False, 0)

    assert [serving(requests, True) for requests in (1, 2, 8)] == [
        "gdn_verify", "gdn_trees", "gdn_trees",
    ]  # fmt: skip
    assert [serving(requests, False) for requests in (1, 2, 8)] == ["gdn_verify"] * 3
