from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.reports.run import readme_rows, report
from sglang_qwen3next_eagle3.bench.results.records import Equality
from tests.support.bench_results import (
    BASELINE,
    MTP,
    NARROW,
    PROVENANCE,
    WIDE,
    like_the_card,
    passes,
    repeated,
    result,
)


def section(text: str, heading: str) -> str:
    """From a heading to the next of any level."""
    return text.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]


def rows(text: str, first: str) -> list[list[str]]:
    """The cells behind the first one, of the rows that begin with it."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [line[1:] for line in lines if line and line[0] == first]


def test_the_card_s_figures_stand_beside_ours_at_its_batch_and_tree() -> None:
    table = section(report(like_the_card()), "EAGLE3 3,4,8, B=1")
    for suite in ("SWEBench-Verified", "HumanEval", "MT-Bench", "**Mean**"):
        [cells] = rows(table, suite)
        assert cells[:3] == cells[5:8], "tok/s and speedup, ours and the card's"
        assert cells[4] == cells[9], "accept length"
    assert rows(table, "HumanEval") == [
        ["171.1", "237.9", "1.39x", "20.0%", "1.60", "171.1", "237.9", "1.39x", "20.0%", "1.60"]
    ]
    assert rows(table, "Dataset")[0][5:] == [
        "Card: Baseline",
        "Card: EAGLE3",
        "Card: Speedup",
        "Card: Accept Rate",
        "Card: Accept Length",
    ]


def test_a_tree_or_a_batch_that_the_card_does_not_have_stands_alone() -> None:
    measured = [
        one
        for batch in (1, 32)
        for one in (
            *passes("none", "humaneval", batch, [100]),
            *passes("b32", "humaneval", batch, [150], 2.0),
            *passes("mtp", "humaneval", batch, [120], 2.0),
        )
    ]
    text = report(result([BASELINE, NARROW, MTP], measured))
    assert len(rows(section(text, "b32 (EAGLE3 5,1,6), B=1"), "HumanEval")[0]) == 5
    assert len(rows(section(text, "MTP 3,1,4, B=32"), "HumanEval")[0]) == 5
    assert rows(section(text, "b32 (EAGLE3 5,1,6), B=32"), "HumanEval")[0][5:] == [
        "1,740.2",
        "1,756.3",
        "1.01x",
    ], "the card has no acceptance at B=32"


def test_repetitions_show_as_the_spread_behind_the_median() -> None:
    text = report(repeated())
    [cells] = rows(section(text, "EAGLE3 3,4,8, B=1"), "HumanEval")
    assert cells[:3] == [
        "100.0 (90.0 to 110.0)",
        "150.0 (140.0 to 160.0)",
        "1.50x (1.27x to 1.78x)",
    ]


def test_the_card_s_mean_is_over_the_same_suites_and_says_so() -> None:
    text = section(report(repeated()), "EAGLE3 3,4,8, B=1")
    [mean] = rows(text, "**Mean**")
    assert mean[5:8] == ["168.8", "216.9", "1.29x"], "171.1, 166.5 and 237.9, 196.0"
    assert "The card's mean here is over these of its 4 datasets only." in text
    assert "The card's mean" not in report(like_the_card())


def test_each_batch_says_which_tok_s_it_shows() -> None:
    measured = [one for batch in (1, 32) for one in passes("none", "humaneval", batch, [100])]
    text = report(result([BASELINE], measured))
    assert "`request_tok_s`" in section(text, "B=1")
    assert "`output_tok_s`" in section(text, "B=32")


def test_provenance_is_a_table() -> None:
    text = section(report(like_the_card()), "What was run")
    assert rows(text, "commit") == [["0123abc, with uncommitted changes"]]
    assert rows(text, "versions.sglang") == [["0.5.17"]]
    assert rows(text, "gpus") == [["4x NVIDIA H200, 143771 MiB, 580.1"]]
    clean: dict[str, Any] = {**PROVENANCE, "dirty": False, "gpus": []}
    text = report(result([BASELINE], passes("none", "smoke", 1, [1]), provenance=clean))
    assert rows(text, "commit") == [["0123abc, clean"]]
    assert rows(text, "gpus") == [["none"]]


def test_the_command_and_commit_to_regenerate_it_can_be_pasted() -> None:
    text = section(report(like_the_card()), "To regenerate")
    assert text == (
        "\n```sh\ngit checkout 0123abc\nsglang-qwen3next-eagle3 bench run --batches 1\n```\n"
    )
    unknown = result([BASELINE], passes("none", "smoke", 1, [1]), provenance={"commit": None})
    assert "To regenerate" not in report(unknown)


def test_acceptance_has_both_rates_and_the_share_by_position() -> None:
    text = section(report(repeated()), "Acceptance")
    assert rows(text, "1")[0] == [
        "EAGLE3 3,4,8",
        "HumanEval",
        "2.00",
        "1.98",
        "25.0%",
        "14.3%",
        "80.0%",
        "50.0%",
        "20.0%",
    ]
    assert len(rows(text, "1")) == 2, "no row of no speculation"


def test_latencies_are_in_milliseconds() -> None:
    [first, *_] = rows(section(report(like_the_card()), "Speed and latency"), "1")
    assert first[:2] == ["no speculation", "SWEBench-Verified"]
    assert first[2:5] == ["147.5", "163.9", "180.3"]
    assert first[5:] == ["50.0", "80.0", "99.1", "6.1", "12.2", "18.3"]


def test_equality_gives_the_share_and_where_answers_part() -> None:
    measured = [
        *passes("3,4,8", "humaneval", 1, [1], 2.0, equality=Equality(equal=10, of=10)),
        *passes(
            "3,4,8",
            "mt-bench",
            1,
            [1],
            2.0,
            equality=Equality(equal=7, of=10, first_divergence=(90, 12, 31)),
        ),
    ]
    text = section(report(result([WIDE], measured)), "Equality with no speculation")
    assert [cells[1:] for cells in rows(text, "1")] == [
        ["HumanEval", "10", "10", "100.0%", "-", "-"],
        ["MT-Bench", "7", "10", "70.0%", "12", "31"],
    ]
    assert "Equality" not in report(like_the_card()), "nothing was compared"


def test_a_failed_configuration_is_reported_with_the_end_of_its_log() -> None:
    broken = WIDE.model_copy(
        update={
            "status": "failed",
            "error": "its server died | exit 1",
            "log_tail": ("\x1b[31mCUDA out of memory\x1b[0m", "```"),
        }
    )
    text = report(result([BASELINE, broken], passes("none", "humaneval", 1, [100])))
    assert "Not measured: its server died | exit 1." in section(text, "EAGLE3 3,4,8, B=1")
    failed = section(text, "What failed or is missing")
    assert "**EAGLE3 3,4,8** failed: its server died | exit 1" in failed
    assert "````text\nCUDA out of memory\n```\n````" in failed
    assert rows(failed, "1") == [["EAGLE3 3,4,8", "HumanEval", "0", "1"]]


def test_an_interrupted_run_says_what_it_lacks_and_what_its_mean_is_over() -> None:
    made = result(
        [BASELINE, WIDE],
        [
            *passes("none", "humaneval", 1, [100]),
            *passes("none", "mt-bench", 1, [300]),
            *passes("3,4,8", "humaneval", 1, [150], 2.0),
        ],
    )
    text = report(made)
    table = section(text, "EAGLE3 3,4,8, B=1")
    assert rows(table, "MT-Bench")[0][:5] == ["300.0", "-", "-", "-", "-"]
    assert rows(table, "**Mean**")[0][:3] == ["100.0", "150.0", "1.50x"]
    assert "The mean is over what both have figures of: HumanEval." in table
    missing = rows(section(text, "What failed or is missing"), "1")
    assert missing == [["EAGLE3 3,4,8", "MT-Bench", "0", "1"]]


def test_without_a_baseline_the_report_says_why_there_is_no_speedup() -> None:
    text = report(result([WIDE], passes("3,4,8", "humaneval", 1, [150], 2.0)))
    [cells] = rows(section(text, "EAGLE3 3,4,8, B=1"), "HumanEval")
    assert cells[:3] == ["-", "150.0", "-"]
    assert "No speedup: configuration `none` was not measured at this batch size." in text


def test_requests_without_an_answer_are_counted() -> None:
    made = result([BASELINE], passes("none", "humaneval", 1, [100, 100], failed=2))
    text = section(report(made), "What failed or is missing")
    assert rows(text, "1") == [["no speculation", "HumanEval", "4"]]


def test_a_whole_run_lacks_nothing() -> None:
    assert "What failed or is missing" not in report(repeated())


def test_every_server_s_command_can_be_pasted() -> None:
    text = report(like_the_card())
    assert (
        "<details><summary>EAGLE3 3,4,8, ready after 120 s</summary>\n\n```sh\n"
        "SGLANG_NOTE='a b' python -m sglang.launch_server --model-path TARGET --tp 4 "
        "--speculative-algorithm EAGLE3 --trust-remote-code\n```"
    ) in text
    assert "ready after 90 s" in text


def test_notes_come_first_and_plots_are_shown() -> None:
    made = result([BASELINE], passes("none", "smoke", 1, [1]), notes=["The weights are dummies."])
    text = report(made, ["speedup.png"])
    assert text.startswith("# Benchmark of Qwen/Qwen3-Coder-Next\n\n- The weights are dummies.\n")
    assert "![speedup.png](speedup.png)" in text


def test_nested_settings_are_rows() -> None:
    settings = {
        "batches": [1, 8],
        "suites": {"smoke": {"sampling": {"temperature": 0.0}, "turns": [{"limit": 4}]}},
        "stream": True,
        "head": None,
    }
    text = report(result([BASELINE], passes("none", "smoke", 1, [1]), settings=settings))
    shown = section(text, "Settings")
    assert rows(shown, "batches") == [["1, 8"]]
    assert rows(shown, "suites.smoke.sampling.temperature") == [["0.0"]]
    assert rows(shown, "suites.smoke.turns.0.limit") == [["4"]]
    assert rows(shown, "stream") == [["yes"]]
    assert rows(shown, "head") == [["-"]]


def test_a_bar_in_a_cell_does_not_break_the_table() -> None:
    made = result([BASELINE], passes("none", "a|b", 1, [1]))
    assert "| a\\|b |" in report(made)


def test_the_readme_has_one_row_a_configuration_and_the_card_s_beneath() -> None:
    lines = readme_rows(like_the_card()).splitlines()
    assert lines[0].startswith("| B | Configuration | SWEBench-Verified | HumanEval |")
    assert lines[2].startswith("| 1 | no speculation | 163.9 | 171.1 |")
    ours, theirs = (line.split("|") for line in lines[3:5])
    assert ours[3:] == theirs[3:]
    assert ours[3].strip() == "249.7 (1.52x)"
    assert [cell.strip() for cell in ours[7:9]] == ["228.7 (1.37x)", "2.46"]
    assert theirs[2].strip() == "EAGLE3 3,4,8, the card's own"


def test_the_readme_marks_a_mean_over_fewer_suites() -> None:
    made = result(
        [BASELINE, WIDE],
        [
            *passes("none", "humaneval", 1, [100]),
            *passes("none", "mt-bench", 1, [300]),
            *passes("3,4,8", "humaneval", 1, [150], 2.0),
        ],
    )
    ours = readme_rows(made).splitlines()[3]
    assert "| 150.0 (1.50x) | - | 150.0 (1.50x) * | 2.00 |" in ours


def test_a_result_of_bench_speed_is_refused() -> None:
    made = result([WIDE], passes("3,4,8", "256", 1, [1], simulated=2.0), kind="speed")
    for function in (report, readme_rows):
        with pytest.raises(UserError, match="a result of kind 'speed'"):
            function(made)
