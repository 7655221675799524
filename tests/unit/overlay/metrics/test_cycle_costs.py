import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.bench.trees.cost import CostModel
from sglang_qwen3next_eagle3.overlay.environment import CYCLE_COSTS
from sglang_qwen3next_eagle3.overlay.metrics import cycle_costs
from sglang_qwen3next_eagle3.serving import profile


def test_costs_are_read_in_milliseconds_and_told_in_seconds() -> None:
    costs = cycle_costs.parse(" 3,4,8  4:15.06/6.76 1:9.86/6.1 ")
    assert costs is not None
    assert costs.tree == (3, 4, 8)
    assert costs.of(1) == (pytest.approx(0.00986), pytest.approx(0.0061))
    assert costs.of(2) == (pytest.approx(0.00986 + 0.0052 / 3), pytest.approx(0.0061 + 0.00066 / 3))
    assert costs.of(4) == (pytest.approx(0.01506), pytest.approx(0.00676))
    assert costs.of(5) is None
    assert costs.of(0) is None


@pytest.mark.parametrize("text", [None, "", "  "])
def test_nothing_is_no_costs(text: str | None) -> None:
    assert cycle_costs.parse(text) is None


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
    ],
)
def test_costs_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        cycle_costs.parse(text)
    assert str(raised.value).startswith(f"{CYCLE_COSTS}=")


def test_the_costs_of_the_profile_are_those_that_were_measured() -> None:
    path = data_dir("launch").parent / "benchmarks/results/h200x1-speed/cost-model.json"
    model = CostModel.load(path)
    served = profile.load("h200-fp8")
    assert served.tree is not None
    tree = (served.tree.steps, served.tree.topk, served.tree.draft_tokens)
    told = served.environment[CYCLE_COSTS]
    assert told == model.for_server(tree)
    costs = cycle_costs.parse(told)
    assert costs is not None
    assert costs.tree == tree
    assert tuple(costs.cycle) == tuple(costs.step) == model.batches
    assert costs.of(32) == (pytest.approx(0.03712), pytest.approx(0.01574))


def test_a_tree_that_the_model_does_not_reach_is_refused() -> None:
    path = data_dir("launch").parent / "benchmarks/results/h200x1-speed/cost-model.json"
    model = CostModel.load(path)
    assert model.for_server((3, 1, 4), [1]) == "3,1,4 1:7.92/6.10"
    with pytest.raises(UserError, match="tree 9,1,10 with 1 requests was not measured"):
        model.for_server((9, 1, 10))
