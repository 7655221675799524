import json
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.bench.trees.cost import CostModel, fit
from sglang_qwen3next_eagle3.bench.trees.plan import (
    AcceptLengths,
    PlanRow,
    TreePlan,
    parse_accept_lengths,
    plan,
)
from sglang_qwen3next_eagle3.overlay import environment
from sglang_qwen3next_eagle3.overlay.metrics import cycle_costs
from tests.support import speed
from tests.support.speed import configuration, measurement

# Cycles in ms that are easy to divide, at B=1 and B=8.
CYCLES = {
    "none": (5.0, 10.0),
    "1,1,2": (6.0, 14.0),
    "3,1,4": (8.0, 20.0),
    "3,4,8": (10.0, 44.0),
    "mtp": (9.0, 25.0),
    "eagle3-defaults": (8.2, 20.2),
}
TREES = {
    "none": None,
    "1,1,2": (1, 1, 2),
    "3,1,4": (3, 1, 4),
    "3,4,8": (3, 4, 8),
    "mtp": (3, 1, 4),
    "eagle3-defaults": (3, 1, 4),
}


def model(*names: str) -> CostModel:
    """Of the configurations named, else of all; too few cells for a law."""
    chosen = names or tuple(CYCLES)
    return fit(
        speed.result(
            [
                configuration(TREES[name], name, "nextn" if name == "mtp" else "eagle3")
                for name in chosen
            ],
            [
                measurement(name, batch, CYCLES[name][place], 1.0 if TREES[name] else None)
                for name in chosen
                for place, batch in enumerate((1, 8))
            ],
        )
    )


def rows(found: TreePlan, batch: int) -> dict[str, PlanRow]:
    return {row.name: row for row in found.rows if row.batch == batch}


SMALL = ("none", "1,1,2", "3,1,4", "3,4,8", "mtp")


def test_a_tree_breaks_even_at_its_cycle_over_that_without_speculation() -> None:
    found = plan(model(*SMALL[:4]))
    one, eight = rows(found, 1), rows(found, 8)
    assert {name: row.break_even for name, row in one.items()} == {
        "none": None,
        "1,1,2": pytest.approx(1.2),
        "3,1,4": pytest.approx(1.6),
        "3,4,8": pytest.approx(2.0),
    }
    assert eight["3,4,8"].break_even == pytest.approx(4.4), "more than the 4 that it can accept"
    assert eight["3,4,8"].over_chain == pytest.approx(2.2), "44 over 20 ms, both of 3 steps"
    assert eight["3,4,8"].beats_chain is None, "nothing is known of what the chains accept"
    assert found.best == {}


def test_what_beats_the_best_chain_follows_from_what_chains_accept() -> None:
    found = plan(model(*SMALL[:4]), parse_accept_lengths("0.8,0.6,0.4;3,4,8=3.2"))
    one, eight = rows(found, 1), rows(found, 8)
    assert one["1,1,2"].accept_length == pytest.approx(1.8)
    assert one["3,1,4"].accept_length == pytest.approx(2.8)
    # 1.8 / 6 = 0.3 and 2.8 / 8 = 0.35 tokens a ms: the longer chain is the best at B=1.
    assert one["3,4,8"].beats_chain == pytest.approx(3.5)
    # 1.8 / 14 = 0.1286 and 2.8 / 20 = 0.14 at B=8.
    assert eight["3,4,8"].beats_chain == pytest.approx(6.16)
    assert one["3,4,8"].tok_s == pytest.approx(320.0)
    assert one["3,4,8"].speedup == pytest.approx(1.6)
    assert eight["3,1,4"].tok_s == pytest.approx(8 * 140.0), "of the whole batch"
    assert found.best == {1: "3,1,4", 8: "3,1,4"}


def test_no_speculation_is_the_best_where_no_tree_breaks_even() -> None:
    found = plan(model(*SMALL[:4]), parse_accept_lengths("3,4,8=2.5"))
    assert found.best == {1: "3,4,8", 8: "none"}


def test_a_tree_that_cannot_reach_the_length_of_all_has_no_prediction() -> None:
    one = rows(plan(model(*SMALL[:4]), AcceptLengths(everywhere=2.5)), 1)
    assert one["1,1,2"].tok_s is None
    assert one["3,1,4"].beats_chain == pytest.approx(2.5), "itself the best chain"


def test_mtp_is_a_row_of_its_own_and_no_chain_of_eagle3() -> None:
    found = plan(model(*SMALL), parse_accept_lengths("mtp=3.6;0.6"), [1])
    one = rows(found, 1)
    assert one["mtp"].over_chain == pytest.approx(9 / 8)
    assert one["mtp"].tok_s == pytest.approx(400.0)
    assert one["3,4,8"].beats_chain == pytest.approx(10 * 1.6 / 6), "of 1,1,2, though mtp is faster"
    assert found.best == {1: "mtp"}


def test_a_tree_under_two_names_is_one_row_unless_the_other_is_asked_for() -> None:
    assert "eagle3-defaults" not in rows(plan(model()), 1)
    asked = rows(plan(model(), parse_accept_lengths("eagle3-defaults=2.5")), 1)
    assert asked["eagle3-defaults"].cycle_ms == pytest.approx(8.2)
    assert asked["3,1,4"].accept_length is None


def test_trees_and_batches_between_the_measured_ones_are_fitted() -> None:
    found = plan(fit(speed.of_law()), parse_accept_lengths("4,2,6=2.7"), [1, 12])
    asked = [row for row in found.rows if row.name == "4,2,6"]
    assert [row.batch for row in asked] == [1, 12]
    assert {row.source for row in asked} == {"fitted"}
    assert asked[1].cycle_ms == pytest.approx(speed.law(12, (4, 2, 6)), rel=1e-6)
    assert rows(found, 1)["3,4,8"].source == "measured"
    assert rows(found, 12)["3,4,8"].source == "fitted"
    assert "mtp" in rows(found, 1)
    assert "mtp" not in rows(found, 12), "MTP has no law"


@pytest.mark.parametrize(
    ("lengths", "batches", "said"),
    [
        ("b1=2.4", [], "no tree 'b1' in the cost model; it has 1,1,2; 3,1,4; 3,4,8; mtp"),
        ("mtp=4.5", [], "mtp has 3 steps, so its accept length lies between 1 and 4"),
        ("4.5", [], "4.5 is more than the 4 that the longest tree can accept"),
        ("4,1,7=2.4", [], "no tree is 4,1,7: a chain .* of 4 steps verifies 5 draft tokens"),
        ("5,1,6=2.4", [], "5,1,6 was not measured at these batches"),
        (None, [64], "--batch 64: no speculation was not measured there"),
    ],
)
def test_what_the_model_does_not_know_is_refused_in_a_line(
    lengths: str | None, batches: list[int], said: str
) -> None:
    given = None if lengths is None else parse_accept_lengths(lengths)
    with pytest.raises(UserError, match=said) as error:
        plan(model(*SMALL), given, batches)
    assert "\n" not in str(error.value)


def test_shares_by_position_need_a_chain() -> None:
    with pytest.raises(UserError, match="no chain was measured: give the accept length of each"):
        plan(model("none", "3,4,8"), parse_accept_lengths("0.7,0.5"))


@pytest.mark.parametrize("text", ["0", "-1", "one", "1,,2", ""])
def test_batches_are_numbers_with_commas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    model(*SMALL).save(tmp_path / "m.json")
    assert run("--model", str(tmp_path / "m.json"), "--batch=" + text) == 2
    assert "give batch sizes as 1,8,32" in capsys.readouterr().err
    assert run("--model", str(tmp_path / "m.json"), "--batch", "1, 8") == 0


def run(*words: str) -> int:
    return main(["bench", "plan", *words])


def test_a_result_s_folder_and_its_model_give_the_same_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speed.of_law().save(tmp_path / "result.json")
    fit(speed.of_law()).save(tmp_path / "cost-model.json")
    words = ("--accept-lengths", "3,4,8=2.8;0.7,0.5,0.35", "--batch", "1,32", "--json")
    assert run("--result", str(tmp_path), *words) == 0
    by_result = json.loads(capsys.readouterr().out)
    assert run("--model", str(tmp_path / "cost-model.json"), *words) == 0
    assert json.loads(capsys.readouterr().out) == by_result
    assert by_result["best"] == {"1": "3,1,4", "32": "3,1,4"}
    assert by_result["law"] == pytest.approx(speed.COEFFICIENTS)
    assert by_result["provenance"]["commit"] == "abc1234"
    assert by_result["residuals"]["cells"] == 54


def test_the_table_marks_the_best_and_what_no_acceptance_can_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model(*SMALL).save(tmp_path / "m.json")
    assert run("--model", str(tmp_path / "m.json"), "--accept-lengths", "2.0", "--batch", "8") == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split()[1]: line for line in lines[1:6]}
    assert "1,1,2 *" in cells["1,1,2"]
    assert "never (4.40)" in cells["3,4,8"]
    assert "1,142.9" in cells["1,1,2"], "8 x 2.0 tokens in 14 ms"
    assert any("at equal acceptance" in line for line in lines)
    assert any("Accept lengths are per cycle" in line for line in lines)


def test_a_plan_without_accept_lengths_shows_no_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model(*SMALL).save(tmp_path / "m.json")
    assert run("--model", str(tmp_path / "m.json")) == 0
    out = capsys.readouterr().out
    assert "to break even" in out
    assert "tok/s" not in out
    assert "at equal acceptance" not in out


def test_what_a_server_is_told_can_be_pasted_and_is_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = model(*SMALL)
    made.save(tmp_path / "m.json")
    words = ("--model", str(tmp_path / "m.json"), "--for-server")
    assert run(*words, "3,4,8", "--batch", "8") == 0
    name, _, told = capsys.readouterr().out.strip().partition("=")
    assert name == environment.CYCLE_COSTS
    cycle, step = made.measured("3,4,8", 8), made.measured("none", 8)
    assert cycle is not None
    assert step is not None
    (costs,) = cycle_costs.parse(told.strip("'"))
    assert costs.of(8) == (pytest.approx(cycle / 1000), pytest.approx(step / 1000))
    result = data_dir("launch").parent / "benchmarks" / "results" / "h200x1-speed"
    assert run("--result", str(result), "--for-server", "3,4,8", "--batch", "8") == 0
    name, _, told = capsys.readouterr().out.strip().partition("=")
    (of_kind,) = cycle_costs.parse(told.strip("'"))
    assert of_kind.kind == {
        "gpu": "H200", "tp": "1", "weights": "fp8", "fast": "off", "seams": "off",
    }  # fmt: skip
    assert not of_kind.fast
    assert run(*words, "3,4") == 2
    assert "write steps,topk,draft-tokens" in capsys.readouterr().err
