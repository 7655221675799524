import json

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.bench.trees.cost import CostModel
from sglang_qwen3next_eagle3.overlay.environment import CYCLE_COSTS
from sglang_qwen3next_eagle3.overlay.metrics import cycle_costs
from sglang_qwen3next_eagle3.serving import profile


def test_costs_are_read_in_milliseconds_and_told_in_seconds() -> None:
    (costs,) = cycle_costs.parse(" 3,4,8  4:15.06/6.76 1:9.86/6.1 ")
    assert costs.tree == (3, 4, 8)
    assert costs.of(1) == (pytest.approx(0.00986), pytest.approx(0.0061))
    assert costs.of(2) == (pytest.approx(0.00986 + 0.0052 / 3), pytest.approx(0.0061 + 0.00066 / 3))
    assert costs.of(4) == (pytest.approx(0.01506), pytest.approx(0.00676))
    assert costs.of(5) is None
    assert costs.of(0) is None


@pytest.mark.parametrize("text", [None, "", "  ", " ; "])
def test_nothing_is_no_costs(text: str | None) -> None:
    assert cycle_costs.parse(text) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3,4,8", "cannot be read: write the tree and then"),
        ("1:9.86/6.10", "cannot be read"),
        ("3,4 1:9.86/6.10", "cannot be read"),
        ("3,4,8 1:9.86", "cannot be read"),
        ("3,4,8 1:9.86/-6", "cannot be read"),
        ("3,4,8 1:nan/6", "cannot be read"),
        ("3,4,8 1:9.86/6.1 1:9.9/6.1", "a number of requests twice"),
        ("3,4,8 1:0/6.1", "more than 0"),
        ("3,4,8 0:9/6.1", "more than 0"),
        ("fast", "cannot be read"),
        ("fast 1:9.86/6.10", "cannot be read"),
        ("3,4,8 1:9/6; 3,1,4 1:8/6", "costs of the same kernels twice"),
        ("tp=1 tp=2 3,4,8 1:9/6", "says tp twice"),
        ("fast fast 3,4,8 1:9/6", "says fast twice"),
        ("fast=rows 3,4,8 1:9/6", "fast=rows: 'rows' is not one of"),
        ("seams=every 3,4,8 1:9/6", "seams=every: 'every' is not one of"),
        ("cpu=1 3,4,8 1:9/6", "cannot be read"),
    ],
)
def test_costs_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        cycle_costs.parse(text)
    assert str(raised.value).startswith(CYCLE_COSTS)


def test_costs_of_both_kernels() -> None:
    stock, ours = cycle_costs.parse("3,4,8 1:9.28/4.71; fast 3,4,8 1:5.44/2.29")
    assert (stock.fast, ours.fast) == (False, True)
    assert ours.of(1) == (pytest.approx(0.00544), pytest.approx(0.00229))


def test_the_costs_of_the_profile_are_those_that_were_measured() -> None:
    path = data_dir("launch").parent / "benchmarks/results/h200x1-whole/servers.json"
    servers = json.loads(path.read_text(encoding="utf-8"))["servers"]
    cycles = {
        (one["server"], one["batch"]): one["cycle_ms"]
        for one in servers
        if one["input_tokens"] == 256
    }
    served = profile.load("h200-fp8")
    assert served.tree is not None
    tree = (served.tree.steps, served.tree.topk, served.tree.draft_tokens)
    both = cycle_costs.parse(served.environment[CYCLE_COSTS])
    one = {"gpu": "H200", "tp": "1", "weights": "fp8"}
    assert [costs.kind for costs in both] == [
        {**one, "seams": "off"},
        {**one, "fast": "on,head", "seams": "on"},
    ]
    assert [costs.fast for costs in both] == [False, True]
    for costs, who in zip(both, ("stock", "ours"), strict=True):
        assert costs.tree == tree
        for batch in (1, 8, 32):
            measured = cycles[f"{who}-348", batch], cycles[f"{who}-none", batch]
            assert costs.of(batch) == pytest.approx([ms / 1000 for ms in measured], abs=6e-6)
        assert tuple(costs.cycle) == tuple(costs.step) == (1, 8, 32)


def test_a_tree_that_the_model_does_not_reach_is_refused() -> None:
    path = data_dir("launch").parent / "benchmarks/results/h200x1-speed/cost-model.json"
    model = CostModel.load(path)
    assert model.for_server((3, 1, 4), [1]) == "3,1,4 1:7.92/6.10"
    with pytest.raises(UserError, match="tree 9,1,10 with 1 requests was not measured"):
        model.for_server((9, 1, 10))
