"""What the report of `bench cycle` says of the wall."""

import pytest

from sglang_qwen3next_eagle3.bench.reports.cycle import cycle_report
from sglang_qwen3next_eagle3.bench.results.cycles import (
    CycleMeasurement,
    CycleResult,
    Milliseconds,
    PhaseTime,
    RankCycles,
    Stacks,
)
from sglang_qwen3next_eagle3.bench.results.records import Configuration


def ms(value: float) -> Milliseconds:
    return Milliseconds(mean=value, p50=value, p95=value)


def rank(name: str, waits: float, verify: float | None, stacks: Stacks | None = None) -> RankCycles:
    own = {"sampling": 6.0 - waits, "wait for the GPU": waits}
    return RankCycles(
        rank=name,
        cycles=100,
        full=False,
        recorder_ms=0.02,
        cycle=ms(6.0),
        phases=tuple(PhaseTime(name=key, calls=1, own=ms(value)) for key, value in own.items()),
        gpu={} if verify is None else {"verify graph": ms(verify), "draft graph": ms(0.25)},
        stacks=stacks,
    )


def report(*ranks: RankCycles) -> str:
    cell = CycleMeasurement(
        configuration="3,1,4",
        batch=1,
        simulated_accept_length=2.46,
        output_tok_s=300.0,
        verify_steps=400,
        ranks=ranks,
    )
    configuration = Configuration(name="3,1,4", algorithm="eagle3", tree=(3, 1, 4))
    return cycle_report(
        CycleResult(
            provenance={"command": "bench cycle"},
            settings={},
            configurations=(configuration,),
            cells=(cell,),
        )
    )


@pytest.mark.parametrize(
    ("waits", "verify", "said"),
    [
        (
            2.0,
            5.5,
            "the GPU is the wall, and most of it the verify graph: the GPU is in graphs for",
        ),
        (0.1, 3.0, "the host is the wall: the GPU is in graphs for 54.2% of a cycle"),
        # Also where the time of its graphs, which holds what the GPU waits for them, is long.
        (0.1, 5.5, "the host is the wall"),
        (1.0, 3.0, "neither is the wall alone"),
    ],
)
def test_it_says_what_a_cycle_waits_for(waits: float, verify: float, said: str) -> None:
    assert f"- 3,1,4, B=1: {said}" in report(rank("tp0", waits, verify))


def test_the_slowest_of_all_schedulers_counts() -> None:
    assert "the host is the wall" in report(rank("tp0", 2.0, 5.5), rank("tp1", 0.1, 5.5))


def test_without_graphs_nobody_knows() -> None:
    assert "the wall" not in report(rank("tp0", 0.0, None))


def test_functions_that_are_in_every_stack_are_left_out() -> None:
    stacks = Stacks(
        samples=10,
        phases={"sampling": 6, "loop": 4},
        functions=(("main (loop.py)", 10), ("eagle_sample (eagle_utils.py)", 6)),
        lines=(("eagle_sample (eagle_utils.py):7", 6),),
    )
    text = report(rank("tp0", 1.0, 3.0, stacks))
    assert "main (loop.py)" not in text
    assert "| eagle_sample (eagle_utils.py) | 60.0% |" in text
    assert "| sampling | 1 | 5.000 | 5.000 | 5.000 | 83.3% | 60.0% |" in text
