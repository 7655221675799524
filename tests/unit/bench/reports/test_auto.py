"""What `bench auto` says of steps that follow load and acceptance."""

import pytest

from sglang_qwen3next_eagle3.bench.reports import auto
from sglang_qwen3next_eagle3.bench.reports.speed import speed_report, without_model
from sglang_qwen3next_eagle3.bench.results.records import (
    ADAPTIVE,
    CHANGING,
    Configuration,
    Measurement,
    Result,
)
from sglang_qwen3next_eagle3.bench.trees import cost
from tests.support.bench_results import BASELINE, PROVENANCE, figures

CHAINS = tuple(
    Configuration(name=f"{n},1,{n + 1}", algorithm="eagle3", tree=(n, 1, n + 1)) for n in (0, 2)
)
AUTO = Configuration(name="auto", algorithm=ADAPTIVE)
RATES = {
    ("none", None): {1: 100.0, 8: 400.0},
    ("0,1,1", 1.0): {1: 95.0, 8: 390.0},
    ("2,1,3", 1.0): {1: 80.0, 8: 300.0},
    ("2,1,3", 2.46): {1: 160.0, 8: 500.0},
    ("auto", 1.0): {1: 94.0, 8: 396.0},
    ("auto", 2.46): {1: 158.0, 8: 500.0},
}


def result(changes: tuple[tuple[int, float, float], ...] = ()) -> Result:
    """changes: (requests, accept length, tok/s) of passes that change."""
    rows = [
        Measurement(
            configuration=name,
            suite="synthetic",
            batch=batch,
            repetition=0,
            figures=figures(rate, length),
            simulated_accept_length=length,
        )
        for (name, length), rates in RATES.items()
        for batch, rate in rates.items()
    ]
    rows += [
        Measurement(
            configuration="auto",
            suite=CHANGING,
            batch=batch,
            repetition=place,
            figures=figures(rate, length),
            simulated_accept_length=length,
        )
        for place, (batch, length, rate) in enumerate(changes)
    ]
    return Result(
        kind="speed",
        provenance=PROVENANCE,
        settings={},
        configurations=(BASELINE, *CHAINS, AUTO),
        measurements=tuple(rows),
    )


def test_it_is_held_to_none_and_to_the_best_at_each_point() -> None:
    head, table, verdict = list(auto.section(result()))
    assert head == "## auto against none and the best number of steps"
    assert "| 1.00 | 0.94x, 0.94x of none | 0.99x, 0.99x of none |" in table
    assert "| 2.46 | 1.58x, 0.99x of 2,1,3 | 1.25x, 1.00x of 2,1,3 |" in table
    assert "Least over none 0.940 (accept length 1, B=1): 0.98 is not reached." in verdict
    assert "Least over the best 0.940 (accept length 1, B=1): 0.95 is not reached." in verdict


def test_changing_passes_are_summed_by_their_time() -> None:
    changes = ((1, 2.46, 100.0), (8, 1.0, 200.0))
    *_, head, table, said = list(auto.section(result(changes)))
    assert head == "## auto while load and acceptance change"
    assert table.count("\n") == 3
    # 1000 tokens at 90 and 180 a second, 9/10 of the rates; none takes 1000/90 and 1000/360.
    assert "take 0.83x the speed of no speculation" in said
    # The best: 2,1,3 at 144, and none at 360.
    assert "0.58x that of the best at each point" in said
    assert "0.64x that of 2,1,3, the best that never changes" in said


def test_a_result_without_such_a_configuration_says_nothing_of_it() -> None:
    plain = result().model_copy(update={"configurations": (BASELINE, *CHAINS)})
    assert list(auto.section(plain)) == []


def test_changing_passes_are_in_no_other_table() -> None:
    changed = result(((8, 1.0, 1.0),))
    without, beside = cost.fit(result()), cost.fit(changed)
    assert without.cells == beside.cells
    assert speed_report(changed, beside).count("auto while load") == 1


@pytest.mark.parametrize("ratio", [0.979, 0.98])
def test_what_is_reached(ratio: float) -> None:
    assert ("is reached" in auto._held(ratio, auto.OF_NONE)) == (ratio >= 0.98)


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("auto", "# Steps that follow load and acceptance, at simulated accept lengths\n"),
        ("speed", "# Speed of draft trees at simulated accept lengths\n"),
    ],
)
def test_a_report_has_the_title_of_its_benchmark(kind: str, title: str) -> None:
    measured = result().model_copy(update={"settings": {"kind": kind}})
    assert speed_report(measured, cost.fit(measured)).startswith(title)
    assert without_model(measured, "no baseline").startswith(title)
