"""What `bench cycle` measures: the phases of a cycle in every scheduler, and its result file."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sglang_qwen3next_eagle3.base.errors import ServerFailed, UserError
from sglang_qwen3next_eagle3.base.files import read_json
from sglang_qwen3next_eagle3.base.schema import StrictRecord, validate
from sglang_qwen3next_eagle3.bench.results.records import Configuration
from sglang_qwen3next_eagle3.overlay.cycle import recording
from sglang_qwen3next_eagle3.overlay.cycle.phases import LOOP, NAMES
from sglang_qwen3next_eagle3.overlay.cycle.recording import MOST, RecordedCycle, Recording

FORMAT = 1
KIND = "cycle"
_FIRST = 8
"""Cycles of a batch that are left out: of its first ones something is made only once."""


class Milliseconds(StrictRecord):
    """Over cycles, or over the graphs of a phase."""

    mean: float
    p50: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """values: at least one."""
        ordered = sorted(values)
        last = len(ordered) - 1
        return cls(
            mean=round(statistics.fmean(ordered), 4),
            p50=round(statistics.median(ordered), 4),
            p95=round(ordered[round(0.95 * last)], 4),
        )


class PhaseTime(StrictRecord):
    """calls: a cycle. own: a cycle, without the phases within it."""

    name: str
    calls: float
    own: Milliseconds


class Stacks(StrictRecord):
    """samples: of a scheduler's stack while it decoded. phases: how many were in each; functions:
    in how many a function was anywhere; lines: in how many a line was what ran."""

    samples: int
    phases: dict[str, int]
    functions: tuple[tuple[str, int], ...]
    lines: tuple[tuple[str, int], ...]


class RankCycles(StrictRecord):
    """One scheduler.

    cycles: that were counted, of those with all requests in the batch. full: no more were recorded
    then. recorder_ms: of a cycle, what recording takes itself. gpu: of the replays of each phase's
    graphs.
    """

    rank: str
    cycles: int
    full: bool
    recorder_ms: float
    cycle: Milliseconds
    phases: tuple[PhaseTime, ...]
    gpu: dict[str, Milliseconds]
    stacks: Stacks | None = None

    @classmethod
    def of(cls, found: Recording, batch: int, stacks: Mapping[str, Any] | None = None) -> Self:
        """batch: the requests of the cycles that count. Raises ServerFailed: there are none."""
        wanted = min(batch, MOST)
        cycles = [one for one in recording.cycles(found.times) if one.batch == wanted][_FIRST:]
        if not cycles:
            raise ServerFailed(f"{found.rank}: no cycle of {batch} requests was recorded", [])
        total = Counter[str]()
        for one in cycles:
            total.update(one.calls)
        names = [name for name in (*NAMES, LOOP) if any(name in one.own for one in cycles)]
        return cls(
            rank=found.rank,
            cycles=len(cycles),
            full=found.about["full"],
            recorder_ms=round(total.total() / len(cycles) * found.about["call_ns"] / 1e6, 4),
            cycle=Milliseconds.of([one.nanoseconds / 1e6 for one in cycles]),
            phases=tuple(_phase(name, cycles, total[name] / len(cycles)) for name in names),
            gpu={name: Milliseconds.of(values) for name, values in found.about["graphs"].items()},
            stacks=None if stacks is None else Stacks.model_validate(stacks),
        )

    def own(self, name: str) -> float:
        """Milliseconds a cycle of a phase; 0 where it does not occur."""
        return next((phase.own.mean for phase in self.phases if phase.name == name), 0.0)


def _phase(name: str, cycles: Sequence[RecordedCycle], calls: float) -> PhaseTime:
    own = Milliseconds.of([one.own.get(name, 0) / 1e6 for one in cycles])
    return PhaseTime(name=name, calls=round(calls, 2), own=own)


class CycleMeasurement(StrictRecord):
    """A configuration at one batch size. output_tok_s, verify_steps: while times were recorded,
    prefill included; verify_steps of all requests, None without speculation."""

    configuration: str
    batch: int
    simulated_accept_length: float | None
    output_tok_s: float
    verify_steps: int | None
    ranks: tuple[RankCycles, ...]


class CycleResult(StrictRecord):
    """A whole `bench cycle`. provenance, settings: as of other benchmarks."""

    format: int = FORMAT
    kind: str = KIND
    provenance: dict[str, Any]
    settings: dict[str, Any]
    configurations: tuple[Configuration, ...]
    cells: tuple[CycleMeasurement, ...]

    @classmethod
    def load(cls, path: Path) -> "CycleResult":
        """A result file, or the `result.json` of a folder. Raises UserError."""
        path = path / "result.json" if path.is_dir() else path
        data = read_json(path, "give a result of `bench cycle`")
        if (data.get("kind"), data.get("format")) != (KIND, FORMAT):
            raise UserError(f"{path} is no result of `bench cycle` in format {FORMAT}")
        return validate(cls, data, f"{path} is damaged")
