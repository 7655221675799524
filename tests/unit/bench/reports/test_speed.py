from sglang_qwen3next_eagle3.bench.reports.speed import (
    readme_rows,
    speed_report,
    without_model,
)
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.bench.trees.cost import fit
from tests.support import speed
from tests.support.speed import configuration, measurement


def sections(text: str) -> dict[str, str]:
    """By heading."""
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def report(result: Result) -> dict[str, str]:
    return sections(speed_report(result, fit(result)))


def cells(section: str, *first: str) -> list[str]:
    """The rest of the row that starts with these cells."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| ")
    ]
    return next(row[len(first) :] for row in rows if row[: len(first)] == list(first))


SMALL = speed.result(
    [configuration(None), configuration((3, 1, 4)), configuration((3, 4, 8))],
    [
        measurement("none", 1, 5.0, decoding=0.8),
        measurement("none", 8, 10.0, decoding=0.8),
        measurement("3,1,4", 1, 8.0, 2.46, decoding=0.8),
        measurement("3,1,4", 8, 20.0, 2.46, decoding=0.8),
        measurement("3,4,8", 1, 10.0, 2.46, decoding=0.8),
        measurement("3,4,8", 8, 44.0, 2.2, simulated=2.46, decoding=0.5),
    ],
)


def test_speeds_are_of_the_whole_pass_and_over_those_without_speculation() -> None:
    table = report(SMALL)["Output tok/s at accept length 2.46"]
    assert cells(table, "no speculation") == ["160.0", "640.0"]
    assert cells(table, "EAGLE3 3,1,4") == ["246.0 (1.54x)", "787.2 (1.23x)"]


def test_an_accept_length_that_is_not_the_simulated_is_said() -> None:
    table = report(SMALL)["Output tok/s at accept length 2.46"]
    assert cells(table, "EAGLE3 3,4,8")[1] == "200.0 (0.31x) at 2.20"


def test_cycles_and_what_a_tree_needs_are_of_decoding_alone() -> None:
    found = report(SMALL)
    assert cells(found["Cycle time in ms"], "EAGLE3 3,1,4") == ["8.00", "20.00"]
    assert cells(found["Accept length to break even"], "EAGLE3 3,1,4") == ["1.60", "2.00"]
    assert cells(found["Accept length to break even"], "EAGLE3 3,4,8") == ["2.00", "never (4.40)"]
    over = found["Accept length over the chain's"]
    assert cells(over, "EAGLE3 3,4,8") == ["1.25x", "2.20x"]
    assert "3,1,4 |" not in over


def test_few_cells_are_no_law_and_that_is_said() -> None:
    assert "Too few cells to fit a law" in report(SMALL)["Cost model"]


def test_how_far_cycles_of_a_cell_lie_apart_is_said() -> None:
    again = measurement("3,1,4", 1, 8.8, 1.6, decoding=0.8)
    found = SMALL.model_copy(update={"measurements": (*SMALL.measurements, again)})
    assert "lie 10.0% apart at most (EAGLE3 3,1,4 at B=1)" in report(found)["Cycle time in ms"]


def test_a_cell_that_ran_with_fewer_at_once_is_in_doubt() -> None:
    doubts = report(SMALL)["What failed or is in doubt"]
    assert "EAGLE3 3,4,8, B=8, 2.46: the server gave 50.0% of 8 requests' decode rate" in doubts
    assert doubts.count("- ") == 1


def test_a_cycle_that_hangs_on_the_accept_length_is_in_doubt() -> None:
    def doubts(of_another_length: float) -> str:
        again = measurement("3,1,4", 1, of_another_length, 1.6, decoding=0.8)
        found = SMALL.model_copy(update={"measurements": (*SMALL.measurements, again)})
        return report(found)["What failed or is in doubt"]

    assert "EAGLE3 3,1,4, B=1: its cycle takes 8.00 to 10.00 ms" in doubts(10.0)
    assert "its cycle takes" not in doubts(9.6), "a fifth of the median, not more"


def test_without_a_baseline_what_was_measured_is_not_called_missing() -> None:
    lengths = [measurement("3,1,4", 1, 8.0, length) for length in (1.0, 2.46)]
    found = speed.result([configuration(None), configuration((3, 1, 4))], lengths)
    missing = sections(without_model(found, "no baseline"))["What failed or is missing"]
    assert cells(missing, "1", "no speculation") == ["synthetic", "0", "1"]
    assert "3,1,4" not in missing
    again = measurement("3,1,4", 1, 8.0, 1.0, repetition=1)
    found = found.model_copy(update={"measurements": (*found.measurements, again)})
    missing = sections(without_model(found, "no baseline"))["What failed or is missing"]
    assert cells(missing, "1", "EAGLE3 3,1,4") == ["synthetic", "1", "2"]


def test_a_configuration_that_failed_is_named_with_its_reason() -> None:
    failed = configuration((5, 1, 6)).model_copy(update={"status": "failed", "error": "no memory"})
    found = SMALL.model_copy(update={"configurations": (*SMALL.configurations, failed)})
    assert "**EAGLE3 5,1,6** failed: no memory" in report(found)["What failed or is in doubt"]


def test_the_law_its_residuals_and_its_error_in_every_cell_are_given() -> None:
    table = report(speed.by_hand())["Cost model"]
    assert "Off by 1.1% (median) and 3.3% (largest)" in table
    assert "5.3% and 8.5%" in table, "predicted from the others"
    assert cells(table, "fixed")[1] == "5.9332"
    assert cells(table, "EAGLE3 3,1,4") == ["+1.2%", "-0.4%", "-3.3%"]
    assert "MTP" not in table


def test_the_card_s_rows_stand_beside_ours_at_their_accept_length() -> None:
    table = report(speed.of_law())["Beside the model card"]
    baseline, tree = speed.law(1, None), speed.law(1, (3, 4, 8))
    row = cells(table, "1", "EAGLE3 3,4,8", "SWEBench-Verified")
    assert row[0] == "3.00"
    assert row[1] == f"{1000 / baseline:.1f}"
    assert row[3] == f"{3 * baseline / tree:.2f}x"
    assert row[4:] == ["163.9", "249.7", "1.52x"]
    assert cells(table, "1", "EAGLE3 3,4,8", "HumanEval")[0] == "1.60"
    unpublished = "mean (no accept length published)"
    assert cells(table, "32", "EAGLE3 5,1,6", unpublished)[-1] == "1.03x"
    assert cells(table, "32", "EAGLE3 3,4,8", unpublished)[-1] == "1.06x"
    assert "Terminal-Bench" not in table, "2.77 was not simulated"


def test_the_readme_s_rows_are_the_card_s() -> None:
    rows = readme_rows(speed.of_law())
    assert rows.startswith("| B | Configuration | Card's row |")
    assert cells(rows, "1", "EAGLE3 3,4,8", "mean")[-1] == "1.37x"
    assert readme_rows(SMALL.model_copy(update={"measurements": SMALL.measurements[:2]})) == ""


def test_a_baseline_that_lacks_a_batch_leaves_that_out() -> None:
    kept = tuple(m for m in SMALL.measurements if (m.configuration, m.batch) != ("none", 8))
    found = report(SMALL.model_copy(update={"measurements": kept}))
    assert cells(found["Accept length to break even"], "EAGLE3 3,1,4") == ["1.60"]
    assert cells(found["Output tok/s at accept length 2.46"], "EAGLE3 3,1,4")[1] == "787.2"
