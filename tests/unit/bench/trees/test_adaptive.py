"""From measured costs to states: which steps are kept, and what is refused."""

import json
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.bench.trees import adaptive, cost
from sglang_qwen3next_eagle3.bench.trees.cost import CostModel, CycleCell
from sglang_qwen3next_eagle3.overlay.adaptive import states
from sglang_qwen3next_eagle3.overlay.environment import CPU_ENGINE, DEFER, FAST, SEAMS
from sglang_qwen3next_eagle3.overlay.fast.trials import TRY
from tests.support import speed

RESULTS = Path(__file__).parents[4] / "benchmarks" / "results"


def model(costs: dict[int, dict[int, float]], tree: float | None = None) -> CostModel:
    cells = [
        CycleCell(
            configuration="none" if n < 0 else f"{n},1,{n + 1}",
            algorithm="none" if n < 0 else "eagle3",
            tree=None if n < 0 else (n, 1, n + 1),
            batch=batch,
            cycle_ms=ms,
            low_ms=ms,
            high_ms=ms,
        )
        for batch, row in costs.items()
        for n, ms in row.items()
    ]
    if tree is not None:
        cells.append(cells[0].model_copy(update={
            "configuration": "3,4,8", "algorithm": "eagle3", "tree": (3, 4, 8), "cycle_ms": tree,
        }))  # fmt: skip
    return CostModel(cells=tuple(cells))


def test_states_are_few_and_lose_little() -> None:
    found = adaptive.plan_states(cost.fit(Result.load(RESULTS / "h200x1-speed")))
    assert found.considered == (0, 1, 2, 3, 4, 5, 6, 7)
    assert 0 in found.states.steps
    assert len(found.states.steps) <= adaptive.MOST_STATES
    assert max(found.loss.values()) <= adaptive.LOSS
    assert found.over_chain["3,4,8"] == pytest.approx(1.25, abs=0.01)


def test_a_tree_that_a_server_of_its_own_was_asked_too_counts_once() -> None:
    trees = {"none": None, "2,1,3": (2, 1, 3), "2,1,3 alone": (2, 1, 3)}
    rows = [speed.configuration(tree, name) for name, tree in trees.items()]
    cycles = {"none": 5.0, "2,1,3": 6.0, "2,1,3 alone": 60.0}
    lengths = {"none": None, "2,1,3": 2.0, "2,1,3 alone": 2.0}
    cells = [speed.measurement(name, 1, ms, lengths[name]) for name, ms in cycles.items()]
    found = speed.result(rows, cells)
    assert [cell.configuration for cell in cost.measured(found)] == ["none", "2,1,3"]
    assert cost.fit(found).cells[1].cycle_ms == pytest.approx(6.0)


def test_where_drafts_cost_too_much_none_are_a_candidate() -> None:
    costs = {1: {-1: 5.0, 1: 5.5, 3: 6.0}, 8: {-1: 5.0, 1: 11.0, 3: 25.0}, 16: {-1: 6.0, 1: 13.0}}
    found = adaptive.plan_states(model(costs), steps=(1, 3))
    assert found.states.candidates[1] == (0, 1, 3)
    assert found.states.candidates[16] == (0,)
    # Between one measured load and the next, what is best at one of both.
    assert found.states.candidates_at(7) == (0, 1, 3)
    assert found.states.start == 3


def test_a_server_has_a_chain_to_begin_with_where_none_ever_pays() -> None:
    found = adaptive.plan_states(model({1: {-1: 5.0, 2: 40.0}, 8: {-1: 5.0, 2: 40.0}}))
    assert found.states.candidates == {1: (0, 2), 8: (0,)}
    assert found.states.start == 2


def test_a_measured_cycle_without_drafts_is_taken_for_none() -> None:
    """It extends the head's cache, and takes longer than a server that has none."""
    costs = {1: {-1: 5.0, 0: 5.4, 1: 6.0}}
    assert adaptive.plan_states(model(costs)).states.cycle_ms[1][0] == 5.4


def test_what_a_tree_would_need_is_told() -> None:
    found = adaptive.plan_states(model({1: {-1: 5.0, 3: 8.0}}, tree=10.0))
    assert found.over_chain == {"3,4,8": 1.25}
    assert "3,4,8 pays where it accepts 1.25x" in found.text()


@pytest.mark.parametrize(
    ("costs", "steps", "told"),
    [
        ({1: {-1: 5.0}}, (), "no chain was measured"),
        ({1: {-1: 5.0, 1: 6.0}}, (2,), "2 steps were not measured"),
        ({1: {-1: 5.0, 1: 6.0}}, (0,), "name a chain, too"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    costs: dict[int, dict[int, float]], steps: tuple[int, ...], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        adaptive.plan_states(model(costs), steps=steps)


def test_the_command_writes_a_file_that_a_launch_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    words = ["bench", "plan", "--result", str(RESULTS / "h200x1-speed"), "--adaptive", str(file)]
    assert main([*words, "--steps", "0,1,3", "--accept-lengths", "0.7,0.5,0.35", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = states.read(file)
    assert written is not None
    assert written.steps == (0, 1, 3)
    assert written.shares == pytest.approx((0.7, 0.7143, 0.7))
    measured = {key: written.measured[key] for key in ("tp", "precision", "fast", "seams")}
    assert measured == {"tp": 1, "precision": "fp8", "fast": "off", "seams": "off"}
    assert printed["states"] == json.loads(file.read_text(encoding="utf-8"))
    assert main(["launch", "--profile", "h200-fp8", "--adaptive", str(file), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"--speculative-adaptive-config {file}" in shown
    assert "# auto: drafts 0, 1, 3 steps" in shown


def _measured_with(**environments: dict[str, str]) -> Result:
    """The H200's result, its servers with these variables: of none, of chains, of the caller."""
    result = Result.load(RESULTS / "h200x1-speed")
    rows = []
    for row in result.configurations:
        added = environments.get("none" if row.algorithm == "none" else "chains", {})
        rows.append(row.model_copy(update={"environment": {**row.environment, **added}}))
    provenance = {**result.provenance, "environment": environments.get("caller", {})}
    update = {"configurations": tuple(rows), "provenance": provenance}
    return result.model_copy(update=update)


@pytest.mark.parametrize(
    ("fast", "seams", "told", "said"),
    [
        ("on", "off", {"fast": "on", "seams": "off"}, "fast path"),
        (
            "dense,moe,gdn,attention,lm_head",
            "cycle,requests",
            {"fast": "on", "seams": "requests,cycle"},
            "fast path, seams requests,cycle",
        ),
        ("require,head", "on", {"fast": "on,head", "seams": "on"}, "fast path on,head, seams"),
        ("off", "", {"fast": "off", "seams": "off"}, "FP8"),
    ],
)
def test_a_file_says_what_of_ours_was_on(
    fast: str, seams: str, told: dict[str, str], said: str
) -> None:
    """In one spelling, whether a profile said so or the environment of whoever measured."""
    variables = {FAST: fast, SEAMS: seams}
    for result in (
        _measured_with(none=variables, chains=variables),
        _measured_with(caller=variables),
        _measured_with(caller={FAST: "moe", SEAMS: "chain"}, none=variables, chains=variables),
    ):
        found = adaptive.of_result(result)
        assert {key: found[key] for key in told} == told
        assert found["on"].endswith(said)


def test_a_file_says_what_was_on_trial() -> None:
    found = adaptive.of_result(_measured_with(caller={FAST: "on", TRY: " wide,"}))
    assert found["tries"] == "wide"
    assert found["on"].endswith("fast path, tries wide")
    assert adaptive.of_result(_measured_with(caller={TRY: "wide"}))["tries"] == "off"
    one = _measured_with(caller={FAST: "on"}, chains={TRY: "wide"})
    with pytest.raises(UserError, match="tries off, and .* tries wide"):
        adaptive.of_result(one)


def test_costs_say_of_which_requests_and_experts_they_are() -> None:
    result = _measured_with(caller={})
    told = adaptive.of_result(result)["on"]
    assert "sampled" not in told
    assert "routing" not in told
    more = {"sampling": {"temperature": 0.7, "top_k": 20}, "routing": "uniform"}
    other = result.model_copy(update={"settings": {**result.settings, **more}})
    sampled = ", sampled requests (temperature 0.7, top_k 20), routing uniform"
    assert adaptive.of_result(other)["on"] == told + sampled


def _of_bench_auto(caller: dict[str, str], **added: dict[str, str]) -> Result:
    """A server whose steps were asked for, 0 among them, and one without a head."""
    trees = {"none": None, "0,1,1": (0, 1, 1), "2,1,3": (2, 1, 3)}
    rows = [speed.configuration(tree, name) for name, tree in trees.items()]
    rows += [rows[-1].model_copy(update={"algorithm": "adaptive", "name": "auto", "tree": None})]
    rows = [row.model_copy(update={"environment": added.get(row.algorithm, {})}) for row in rows]
    found = speed.result(rows, [])
    return found.model_copy(update={"provenance": {**found.provenance, "environment": caller}})


def test_a_file_says_for_how_many_cycles_extends_were_put_off() -> None:
    """Where cycles of 0 steps had a head, whoever said so."""
    ours = {DEFER: "8"}
    for result in (_of_bench_auto(ours), _of_bench_auto({}, eagle3=ours, adaptive=ours)):
        found = adaptive.of_result(result)
        assert found["defer"] == 8
        assert found["on"].endswith(", defer 8")
    for caller in ({}, {DEFER: "0"}):
        assert "defer" not in adaptive.of_result(_of_bench_auto(caller))
    # Of chains and of no head it says nothing.
    assert "defer" not in adaptive.of_result(_measured_with(caller=ours))
    with pytest.raises(UserError, match="0,1,1 with 8, auto with 0: costs of one file"):
        adaptive.of_result(_of_bench_auto({}, eagle3=ours))


def test_costs_of_two_kinds_of_servers_are_no_file() -> None:
    """None was measured without what the chains had."""
    with pytest.raises(
        UserError, match="none was measured with fast off, seams off, tries off, and"
    ):
        adaptive.of_result(_measured_with(chains={FAST: "on"}))


def test_what_servers_came_to_serve_with_counts() -> None:
    """Whatever they were asked for; those that draft have a head, which none has not."""
    asked = _measured_with(none={FAST: "auto"}, chains={FAST: "auto,head"})

    def served(none: str, chains: str) -> Result:
        rows = tuple(
            row.model_copy(
                update={
                    "switched": {FAST: none if row.algorithm == "none" else chains, SEAMS: "on"}
                }
            )
            for row in asked.configurations
        )
        return asked.model_copy(update={"configurations": rows})

    for theirs in ("on,head", "on,head_w8"):
        found = adaptive.of_result(served("on", theirs))
        assert {key: found[key] for key in ("fast", "seams")} == {"fast": theirs, "seams": "on"}
    assert adaptive.of_result(served("off", "off"))["fast"] == "off"
    with pytest.raises(UserError, match="none was measured with fast off, .* with fast on,head"):
        adaptive.of_result(served("off", "on,head"))


def test_a_result_of_the_cpu_engine_is_a_cpu_s_wherever_it_ran() -> None:
    engine = {CPU_ENGINE: "1"}
    assert "tp" not in adaptive.of_result(_measured_with(none=engine, chains=engine))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--steps", "1,9"], "9 steps were not measured"),
        (["--steps", "x"], "--steps x: give whole numbers"),
        (["--accept-lengths", "2.46"], "takes the shares of steps"),
        (["--batch", "1"], "states of all batches that were measured: no --batch"),
        (["--adaptive", "o.txt"], "--adaptive o.txt: name a file that ends in .json"),
        (["--adaptive", "."], "--adaptive .: name a file"),
        (["--adaptive", ""], "--adaptive .: name a file"),
    ],
)
def test_the_command_s_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    file = tmp_path / "mine.json"
    argv = ["bench", "plan", "--result", str(RESULTS / "h200x1-speed"), "--adaptive", str(file)]
    assert main([*argv, *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not file.exists()
