"""What `bench run` and `bench speed` do alike: sessions of servers, a folder that goes on, a result
with its report."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.bench import reports
from sglang_qwen3next_eagle3.bench.options import BenchOptions
from sglang_qwen3next_eagle3.bench.results.journal import Journal, PassKey
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Result
from sglang_qwen3next_eagle3.bench.sessions import Runner, Session, Start, Work


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark has of its own.

    label: of its progress. rows: the configurations with what starts their servers. keys: the
    passes of a configuration in a repetition. work: what a pass asks, called when its server is up;
    requests: how many those are. settings: for the result. greedy: the suites whose answers can be
    compared. side_by_side: the servers are up at the same time. restart: each repetition has a
    start of its own.
    """

    kind: Literal["suites", "speed"]
    label: str
    rows: Sequence[tuple[Configuration, Start]]
    keys: Callable[[Configuration, int], Sequence[PassKey]]
    work: Callable[[PassKey], Work]
    requests: Callable[[PassKey], int]
    settings: Mapping[str, Any]
    greedy: Collection[str] = ()
    side_by_side: bool = False
    restart: bool = True


@dataclass(frozen=True)
class Outcome:
    """complete: all that was asked for is measured. interrupted: it goes on when started again."""

    result: Result
    report: str
    complete: bool = True
    interrupted: bool = False


def measure(
    benchmark: Benchmark, journal: Journal, options: BenchOptions, described: Mapping[str, Any]
) -> Outcome:
    """Measure what is missing; write the result, the report and the plots of all that is there.

    described: the provenance. An interrupt ends the measuring, not the writing.

    Raises:
        UserError: the journal holds passes of other servers by the same names.
    """
    groups = _sessions(benchmark, options.repeats)
    keys = [key for group in groups for session in group for key in session.keys]
    interrupted = _run(benchmark, journal, groups, keys, options.stall_seconds)
    result = journal.result(
        benchmark.kind,
        described,
        benchmark.settings,
        [configuration for configuration, _ in benchmark.rows],
        benchmark.greedy,
    )
    result.save(options.out / "result.json")
    report = reports.write(result, options.out, plots=options.plots)
    complete = all(journal.has(key) for key in keys)
    return Outcome(result, report, complete, interrupted)


def _sessions(benchmark: Benchmark, repeats: int) -> list[list[Session]]:
    """Groups for the runner.

    With a start a repetition, every other one is in reverse order, so that what drifts with time
    (clocks, temperature, neighbours) does not favour one configuration.
    """
    rows, every = benchmark.rows, range(repeats)
    if benchmark.restart and not benchmark.side_by_side:
        return [
            [Session(row, start, tuple(benchmark.keys(row, repetition)))]
            for repetition in every
            for row, start in (rows[::-1] if repetition % 2 else rows)
        ]
    whole = [
        Session(row, start, tuple(key for n in every for key in benchmark.keys(row, n)))
        for row, start in rows
    ]
    return [whole] if benchmark.side_by_side else [[session] for session in whole]


def _run(
    benchmark: Benchmark,
    journal: Journal,
    groups: Sequence[Sequence[Session]],
    keys: Sequence[PassKey],
    stall_seconds: float,
) -> bool:
    """Whether it was interrupted."""
    requests = benchmark.requests
    done = sum(requests(key) for key in keys if journal.has(key))
    total = sum(map(requests, keys))
    with Progress(benchmark.label, total, done=done, unit="requests") as progress:
        runner = Runner(
            journal,
            benchmark.work,
            stall_seconds=stall_seconds,
            say=progress.say,
            advance=progress.advance,
        )
        try:
            runner.run(groups)
        except KeyboardInterrupt:
            return True
    return False
