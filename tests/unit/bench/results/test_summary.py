from typing import Any

import pytest

from sglang_qwen3next_eagle3.bench.reports.card import read_card
from sglang_qwen3next_eagle3.bench.results import summary
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Equality
from sglang_qwen3next_eagle3.bench.results.summary import Cell, CellKey, Spread, SuiteRow
from tests.support.bench_results import (
    BASELINE,
    CARD,
    MTP,
    NARROW,
    WIDE,
    like_the_card,
    passes,
    repeated,
    result,
)


def of(rows: list[SuiteRow], suite: str) -> SuiteRow:
    return next(row for row in rows if row.suites == (suite,))


def median(spread: Spread | None) -> float:
    assert spread is not None
    return spread.median


def test_a_cell_gives_the_median_over_repetitions_with_the_smallest_and_the_largest() -> None:
    cell = summary.cells(repeated())[CellKey("3,4,8", "humaneval", 1)]
    assert cell.spread("request_tok_s") == Spread(150, 140, 160, 3)
    assert median(cell.spread("inter_token.p50")) == pytest.approx(1 / 150)
    assert (
        summary.cells(repeated())[CellKey("none", "humaneval", 1)].spread("accept_length") is None
    )


def test_the_median_of_an_even_number_of_repetitions_lies_between_the_middle_ones() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 9.0]) == Spread(3.0, 1.0, 9.0, 4)


def test_a_speedup_is_the_ratio_of_medians_and_reaches_as_far_as_both_spreads_allow() -> None:
    row = of(summary.rows(repeated(), "3,4,8", 1), "humaneval")
    assert row.speedup == Spread(1.5, 140 / 110, 160 / 90, 3)


def test_the_tok_s_is_a_request_s_at_one_and_the_server_s_total_above() -> None:
    pair = [
        one
        for batch in (1, 2)
        for one in (
            *passes("none", "smoke", batch, [100]),
            *passes("3,4,8", "smoke", batch, [150], 2.0, output_tok_s=400),
        )
    ]
    made = result([BASELINE, WIDE], pair)
    alone, together = (summary.rows(made, "3,4,8", batch)[0] for batch in (1, 2))
    assert (median(alone.own), median(alone.baseline)) == (150, 100)
    assert (median(together.own), median(together.baseline)) == (400, 90)


def test_the_speedup_of_a_mean_is_the_ratio_of_mean_tok_s() -> None:
    mean = summary.mean_row(summary.rows(repeated(), "3,4,8", 1))
    assert mean is not None
    assert (median(mean.baseline), median(mean.own)) == (150, 185)
    assert median(mean.speedup) == pytest.approx(185 / 150)
    assert mean.speedup is not None
    assert mean.speedup.low == pytest.approx(175 / 160), "mean of 140, 210 over mean of 110, 210"
    assert median(mean.accept_length) == 2.5


def test_the_card_s_own_figures_give_the_card_s_own_means() -> None:
    mean = summary.mean_row(summary.rows(like_the_card(), "3,4,8", 1))
    assert mean is not None
    assert round(median(mean.baseline), 1) == 166.9
    assert median(mean.own) == pytest.approx(228.65)
    assert round(median(mean.speedup), 2) == 1.37
    assert median(mean.accept_rate) == pytest.approx(0.307, abs=5e-4)
    assert median(mean.accept_length) == pytest.approx(2.455)


def test_every_table_of_the_card_agrees_with_itself_but_for_the_figure_that_its_notes_name() -> (
    None
):
    unlike = []
    for table in read_card().tables:
        for row in table.rows:
            if abs(row.eagle3 / row.baseline - row.speedup) > 0.0051:
                unlike.append((table.batch, table.tree, row.suite))
            if row.accept_rate is not None and row.accept_length is not None:
                assert row.accept_rate == pytest.approx(row.accept_length / 8, abs=1e-3)
        mean_eagle3 = sum(row.eagle3 for row in table.rows) / 4
        mean_baseline = sum(row.baseline for row in table.rows) / 4
        assert table.mean.eagle3 == pytest.approx(mean_eagle3, abs=0.0501)
        assert table.mean.baseline == pytest.approx(mean_baseline, abs=0.0501)
        assert table.mean.speedup == pytest.approx(mean_eagle3 / mean_baseline, abs=0.005)
    assert unlike == [(32, (5, 1, 6), "SWEBench-Verified")]
    assert any("SWEBench-Verified" in note for note in read_card().notes)


def test_the_card_has_a_table_for_its_trees_at_its_batch_sizes_only() -> None:
    card = read_card()
    found = [
        (each.name, batch)
        for each in (WIDE, NARROW, MTP, BASELINE)
        for batch in (1, 8, 32)
        if card.table(each, batch)
    ]
    assert found == [("3,4,8", 1), ("3,4,8", 32), ("b32", 32)]
    assert card.table(WIDE.model_copy(update={"algorithm": "nextn"}), 1) is None


def test_the_card_s_mean_is_over_the_suites_that_were_measured() -> None:
    table = read_card().table(WIDE, 1)
    assert table is not None
    assert table.mean_over(tuple(CARD)) is table.mean
    two = table.mean_over(("humaneval", "mt-bench"))
    assert two is not None
    assert two.baseline == pytest.approx((171.1 + 166.5) / 2)
    assert two.speedup == pytest.approx((237.9 + 196.0) / (171.1 + 166.5))
    assert table.mean_over(("humaneval", "smoke")) is None, "a suite that the card does not have"


def test_without_a_baseline_there_are_figures_and_no_speedup() -> None:
    made = result([WIDE], passes("3,4,8", "humaneval", 1, [150], 2.0))
    rows = summary.rows(made, "3,4,8", 1)
    mean = summary.mean_row(rows)
    assert mean is not None
    assert (median(rows[0].own), median(mean.own)) == (150, 150)
    assert rows[0].speedup is rows[0].baseline is mean.speedup is None


def test_the_baseline_is_not_compared_with_itself() -> None:
    mean = summary.mean_row(summary.rows(repeated(), "none", 1))
    assert mean is not None
    assert (median(mean.own), mean.speedup) == (150, None)


def test_the_mean_of_an_interrupted_run_is_over_what_both_have() -> None:
    made = result(
        [BASELINE, WIDE],
        [
            *passes("none", "humaneval", 1, [100, 100]),
            *passes("none", "mt-bench", 1, [300, 300]),
            *passes("3,4,8", "humaneval", 1, [150], 2.0),
        ],
    )
    rows = summary.rows(made, "3,4,8", 1)
    mean = summary.mean_row(rows)
    assert of(rows, "mt-bench").own is None
    assert mean is not None
    assert (mean.suites, median(mean.baseline), median(mean.speedup)) == (("humaneval",), 100, 1.5)
    assert summary.missing(made) == [
        (CellKey("3,4,8", "humaneval", 1), 1, 2),
        (CellKey("3,4,8", "mt-bench", 1), 0, 2),
    ]


def test_what_was_asked_for_and_never_begun_is_missing_too() -> None:
    asked = {"suites": {"smoke": {}, "mt-bench": {}}, "batches": [1, 8], "repeats": 2}
    made = result([BASELINE], passes("none", "smoke", 1, [100, 100]), settings=asked)
    assert summary.missing(made) == [
        (CellKey("none", "smoke", 8), 0, 2),
        (CellKey("none", "mt-bench", 1), 0, 2),
        (CellKey("none", "mt-bench", 8), 0, 2),
    ]


def test_a_suite_without_a_baseline_is_left_out_of_a_mean_that_has_one() -> None:
    made = result(
        [BASELINE, WIDE],
        [
            *passes("none", "humaneval", 1, [100]),
            *passes("3,4,8", "humaneval", 1, [150], 2.0),
            *passes("3,4,8", "mt-bench", 1, [250], 3.0),
        ],
    )
    mean = summary.mean_row(summary.rows(made, "3,4,8", 1))
    assert mean is not None
    assert (mean.suites, median(mean.own), median(mean.speedup)) == (("humaneval",), 150, 1.5)


def test_a_configuration_without_a_pass_has_no_mean() -> None:
    made = result([BASELINE, WIDE], passes("none", "humaneval", 1, [100]))
    assert summary.mean_row(summary.rows(made, "3,4,8", 1)) is None


def test_a_pass_without_answers_counts_its_failures_and_no_speed() -> None:
    dead: dict[str, Any] = {
        "requests": 0,
        "failed": 10,
        "completion_tokens": 0,
        "request_tok_s": 0.0,
    }
    measured = [
        *passes("3,4,8", "humaneval", 1, [150], 2.0),
        *passes("3,4,8", "humaneval", 1, [1], **dead),
    ]
    cell = summary.cells(result([WIDE], measured))[CellKey("3,4,8", "humaneval", 1)]
    assert (cell.failed, median(cell.spread("request_tok_s"))) == (10, 150)


def test_a_baseline_of_no_speed_gives_no_speedup() -> None:
    assert Spread(5, 5, 5).over(Spread(0, 0, 0)) is None


def test_acceptance_by_position_is_the_median_of_each_position() -> None:
    curves = [(0.9, 0.5, 0.1), (0.7, 0.4), (0.8, 0.6, 0.2)]
    measured = tuple(
        passes("3,4,8", "humaneval", 1, [150], 2.0, accept_by_position=curve)[0] for curve in curves
    )
    cell = Cell(CellKey("3,4,8", "humaneval", 1), measured)
    assert cell.accept_by_position() == (0.8, 0.5, 0.1), "where a pass ends, its share is 0"


def test_equality_adds_up_over_repetitions() -> None:
    cell = summary.cells(repeated())[CellKey("3,4,8", "humaneval", 1)]
    assert cell.equality() == Equality(equal=27, of=30, first_divergence=(40, 40, 40))
    assert summary.cells(repeated())[CellKey("none", "humaneval", 1)].equality() is None


def test_cells_come_by_configuration_suite_and_batch_whatever_was_run_first() -> None:
    measured = [
        *passes("3,4,8", "mt-bench", 8, [1], 2.0),
        *passes("none", "humaneval", 8, [1]),
        *passes("none", "mt-bench", 1, [1]),
        *passes("none", "mt-bench", 8, [1]),
    ]
    assert [tuple(key)[:3] for key in summary.cells(result([BASELINE, WIDE], measured))] == [
        ("none", "mt-bench", 1),
        ("none", "mt-bench", 8),
        ("none", "humaneval", 8),
        ("3,4,8", "mt-bench", 8),
    ]


@pytest.mark.parametrize(
    ("configuration", "text"),
    [
        (BASELINE, "no speculation"),
        (WIDE, "EAGLE3 3,4,8"),
        (NARROW, "b32 (EAGLE3 5,1,6)"),
        (MTP, "MTP 3,1,4"),
        (MTP.model_copy(update={"name": "mtp:3,1,4"}), "MTP 3,1,4"),
    ],
)
def test_a_configuration_is_named_with_its_algorithm_and_tree(
    configuration: Configuration, text: str
) -> None:
    assert summary.title(configuration) == text
