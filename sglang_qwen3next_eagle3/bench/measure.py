"""What `bench run` and `bench speed` do alike: measure what a folder lacks, write its result and
report."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.bench import reports
from sglang_qwen3next_eagle3.bench.options import BenchOptions
from sglang_qwen3next_eagle3.bench.results.journal import Journal, PassKey
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Result
from sglang_qwen3next_eagle3.bench.servers import (
    Loop,
    ServedConfiguration,
    Work,
    in_order,
    tell_unused,
)


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark has of its own.

    label: of its progress. keys: the passes of a configuration in a repetition. work: what a pass
    asks, called when its server is up; requests: how many those are. settings: for the result.
    greedy: the suites whose answers can be compared. side_by_side: the servers are up at the same
    time. restart: each repetition has a start of its own.
    """

    kind: Literal["suites", "speed"]
    label: str
    compared: Sequence[ServedConfiguration]
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
    groups = in_order(
        benchmark.compared,
        benchmark.keys,
        options.repeats,
        restart=benchmark.restart,
        side_by_side=benchmark.side_by_side,
    )
    keys = [key for group in groups for session in group for key in session.keys]
    done = sum(benchmark.requests(key) for key in keys if journal.has(key))
    total = sum(map(benchmark.requests, keys))
    interrupted = False
    with Progress(benchmark.label, total, done=done, unit="requests") as progress:
        tell_unused(benchmark.compared, progress.say)
        try:
            Loop(journal, benchmark.work, options.stall_seconds, progress).run(groups)
        except KeyboardInterrupt:
            interrupted = True
    result = journal.result(
        benchmark.kind,
        described,
        benchmark.settings,
        [one.configuration for one in benchmark.compared],
        benchmark.greedy,
    )
    result.save(options.out / "result.json")
    report = reports.write(result, options.out, plots=options.plots)
    complete = all(journal.has(key) for key in keys)
    return Outcome(result, report, complete, interrupted)
