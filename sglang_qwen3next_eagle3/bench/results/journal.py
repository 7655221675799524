"""The folder of a benchmark: every finished pass is kept, so that a rerun goes on.

result.json, report.md, plots/   made from the rest, again after every run
request.json                     what is measured; another request does not go into this folder
configurations.json              the servers so far
passes/                          a file a pass, with every sample
servers/, logs/                  profiles and logs of the servers
"""

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sglang_qwen3next_eagle3.base import workfolder
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import read_json, slug, write_json
from sglang_qwen3next_eagle3.base.schema import validate
from sglang_qwen3next_eagle3.bench.results import metrics
from sglang_qwen3next_eagle3.bench.results.records import (
    NONE,
    Configuration,
    Equality,
    Measurement,
    Pass,
    RequestSample,
    Result,
)

_ANOTHER = "delete it, or choose another --out"
_ABOUT_SPEED = (
    "Acceptance is simulated: these figures say what a tree costs at a given accept length, not "
    "which accept length a head reaches.",
    "At one accept length a larger tree looks worse than it is: with one head it accepts more.",
)
"""Notes in every result of `bench speed`."""
_ABOUT_ROUTING = {
    "dummy": "All answers repeat one token, so expert routing is that of dummy weights, not of "
    "text.",
    "uniform": "Every row of a pass chooses its experts anew and evenly, so that a pass reaches "
    "more of them than with text.",
    "text": "Experts are chosen by a model of text (overlay/routing.py), not by a text.",
}
"""And one of these."""


@dataclass(frozen=True, order=True)
class PassKey:
    """Which pass."""

    configuration: str
    suite: str
    batch: int
    repetition: int
    simulated_accept_length: float | None = None

    @property
    def file(self) -> str:
        length = self.simulated_accept_length
        simulated = "" if length is None else f"-a{length:g}"
        name = f"{slug(self.configuration)}-{slug(self.suite)}-b{self.batch}"
        return f"{name}{simulated}-r{self.repetition}.json"


class Journal:
    """What has been measured in a folder. stamp: what the passes of this process are made with."""

    def __init__(self, folder: Path, stamp: Mapping[str, Any] | None = None) -> None:
        self.folder, self._stamp = folder, dict(stamp or {})
        self.alone: AbstractContextManager[Any] = nullcontext()
        """Around what is read and written again, where several processes measure."""

    def passes(self) -> dict[PassKey, Pass]:
        """Raises UserError: a file that is not a pass."""
        found = {}
        for path in self.files():
            try:
                data = read_json(path, _ANOTHER)
                samples = [RequestSample.model_validate(sample) for sample in data["samples"]]
                failures = [(prompt, why) for prompt, why in data["failures"]]
                found[PassKey(**data["key"])] = Pass(samples, failures, data["seconds"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path} is damaged ({error}): delete it, and it is measured again"
                ) from None
        return found

    def has(self, key: PassKey) -> bool:
        return (self.folder / "passes" / key.file).is_file()

    def stamps(self) -> list[dict[str, Any]]:
        """What the passes were made with: one entry for each that differs, the oldest first."""
        found: list[dict[str, Any]] = []
        for path in sorted(self.files(), key=lambda path: path.stat().st_mtime_ns):
            stamp = read_json(path, _ANOTHER).get("made_with") or {}
            if stamp not in found:
                found.append(stamp)
        return found

    def take(self, other: "Journal") -> int:
        """Every pass of another journal that is not here, as it is; how many were here already.

        Raises:
            UserError: a file of it is damaged, or its servers are others by the same names.
        """
        here = self.configurations()
        for name, row in other.configurations().items():
            self.admit(row)
            if name not in here or here[name].status != "ok":
                self.note(row)
        keys = other.passes()
        new = [key for key in keys if not self.has(key)]
        (self.folder / "passes").mkdir(parents=True, exist_ok=True)
        for key in new:
            # With its time, by which `stamps` sorts.
            shutil.copy2(other.folder / "passes" / key.file, self.folder / "passes" / key.file)
        return len(keys) - len(new)

    def files(self) -> list[Path]:
        return sorted((self.folder / "passes").glob("*.json"))

    def add(self, key: PassKey, measured: Pass) -> None:
        # The text of simulated acceptance is one token, over and over.
        left_out = {"output_ids"} if key.simulated_accept_length is not None else None
        data = {
            "key": asdict(key),
            "made_with": self._stamp,
            "seconds": measured.seconds,
            "failures": measured.failures,
            "samples": [sample.model_dump(exclude=left_out) for sample in measured.samples],
        }
        write_json(self.folder / "passes" / key.file, data, indent=None)

    def configurations(self) -> dict[str, Configuration]:
        """Raises UserError: the file that keeps them is damaged."""
        path = self.folder / "configurations.json"
        if not path.is_file():
            return {}
        return {
            name: validate(
                Configuration, entry, f"{path} is damaged: {name}", way_out=f": {_ANOTHER}"
            )
            for name, entry in read_json(path, _ANOTHER).items()
        }

    def admit(self, configuration: Configuration) -> None:
        """Raises UserError: passes under this name, or in its files, are of another server."""
        for name, there in self.configurations().items():
            same = (there.argv, there.environment, there.algorithm, there.tree) == (
                configuration.argv, configuration.environment, configuration.algorithm,
                configuration.tree,
            )  # fmt: skip
            if name != configuration.name and slug(name) != slug(configuration.name):
                continue
            if not same or name != configuration.name:
                raise UserError(
                    f"{self.folder} holds passes of another server that goes by {name}: "
                    "choose another --out, or the same options to go on"
                )

    def note(self, configuration: Configuration) -> None:
        """Keep what is known of a server."""
        with self.alone:
            known = {**self.configurations(), configuration.name: configuration}
            data = {name: entry.model_dump() for name, entry in known.items()}
            write_json(self.folder / "configurations.json", data, indent=None)

    def result(
        self,
        kind: Literal["suites", "speed"],
        provenance: Mapping[str, Any],
        settings: Mapping[str, Any],
        configurations: Sequence[Configuration],
        greedy: Collection[str] = (),
    ) -> Result:
        """All that was measured, as figures.

        configurations: all that were asked for, in their order; what the journal knows wins.
        greedy: the suites whose answers can be compared.
        """
        known = self.configurations()
        rows = {
            c.name: known.get(c.name, c.model_copy(update={"status": "not run"}))
            for c in configurations
        }
        rows |= {name: row for name, row in known.items() if name not in rows}
        passes = self.passes()
        places = {name: place for place, name in enumerate(rows)}
        keys = sorted(
            (key for key in passes if key.configuration in rows),
            key=lambda k: (k.repetition, places[k.configuration], k.suite, k.batch, _length(k)),
        )
        measured = [_measurement(key, passes, rows[key.configuration], greedy) for key in keys]
        failed = sum(measurement.figures.failed for measurement in measured)
        lost = [f"{failed} requests failed and are not in the figures."] if failed else []
        return Result(
            kind=kind,
            provenance=dict(provenance),
            settings=dict(settings),
            configurations=tuple(rows.values()),
            measurements=tuple(measured),
            notes=(
                *(_about_speed(settings) if kind == "speed" else ()),
                *lost,
                *_capped(rows.values(), measured),
                *_short(measured),
                *of_several_machines(self.stamps()),
            ),
        )


def _about_speed(settings: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = ", ".join(map(str, settings.get("prefill_graphs", ())))
    drawn = ", ".join(f"{name} {of:g}" for name, of in settings.get("sampling", {}).items())
    prefills = f"Every server has CUDA graphs of prefills, of {sizes} tokens; others launch kernel "
    return (
        *_ABOUT_SPEED,
        _ABOUT_ROUTING[settings.get("routing", "dummy")],
        *([f"{prefills}by kernel."] if sizes else []),
        *([f"Every request is sampled: {drawn}."] if drawn else []),
    )


@contextmanager
def claim(
    folder: Path, request: Mapping[str, Any], stamp: Mapping[str, Any] | None = None
) -> Iterator[Journal]:
    """The folder for this process alone.

    request: JSON that says what is measured; until a pass is there, another one may take its place.
    stamp: what the passes are made with.

    Raises:
        UserError: another process is at it, or it holds another benchmark, or something else.
    """
    busy = f"another benchmark writes to {folder}: choose another --out"
    passes = folder / "passes"
    with workfolder.claim(folder, request, busy=busy, bound=passes.is_dir):
        yield Journal(folder, stamp)


@contextmanager
def reading(folder: Path) -> Iterator[Journal]:
    """A folder as it is, and nothing is written to it.

    Raises:
        UserError: it is being measured, or is not there.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    busy = f"{folder} is being measured: wait until it is done"
    with workfolder.lock(folder, busy, shared=True):
        yield Journal(folder)


def request_of(folder: Path) -> dict[str, Any]:
    """What is measured in a folder. Raises UserError: it is none of `claim`."""
    path = folder / workfolder.REQUEST
    if not path.is_file():
        raise UserError(f"{folder} is no folder of `bench run` or `bench speed`: no {path.name}")
    return read_json(path, _ANOTHER)


def _capped(rows: Iterable[Configuration], measured: Sequence[Measurement]) -> list[str]:
    """Where fewer requests ran at once than were sent."""
    largest = max((m.batch for m in measured), default=0)
    return [
        f"{row.name}: the server runs at most {row.max_running_requests} requests at once; the "
        "others of a larger batch waited."
        for row in rows
        if row.max_running_requests is not None and row.max_running_requests < largest
    ]


def _short(measured: Sequence[Measurement]) -> list[str]:
    """Where a suite had fewer requests than were to be in flight."""
    short = {(m.suite, m.batch) for m in measured if m.figures.requests < m.batch}
    return [
        f"{suite} at B={batch}: fewer requests than that, so fewer were in flight."
        for suite, batch in sorted(short)
    ]


def of_several_machines(stamps: Sequence[Mapping[str, Any]], what: str = "passes") -> list[str]:
    """Where passes, or what else, were made with different software, hardware or commits."""
    if len(stamps) < 2:
        return []
    said = "; ".join(", ".join(f"{k} {v}" for k, v in stamp.items()) for stamp in stamps)
    return [f"Not all {what} were made alike: {said}."]


def _measurement(
    key: PassKey, passes: Mapping[PassKey, Pass], row: Configuration, greedy: Collection[str]
) -> Measurement:
    measured = passes[key]
    draft_tokens = row.tree[2] if row.tree else None
    return Measurement(
        configuration=key.configuration,
        suite=key.suite,
        batch=key.batch,
        repetition=key.repetition,
        figures=metrics.figures(
            measured.samples,
            measured.seconds,
            failed=len(measured.failures),
            draft_tokens=draft_tokens,
        ),
        equality=_equality(key, passes) if key.suite in greedy else None,
        simulated_accept_length=key.simulated_accept_length,
    )


def _equality(key: PassKey, passes: Mapping[PassKey, Pass]) -> Equality | None:
    """Against the run without speculation of the same batch and repetition, else its first.

    The baseline itself is compared with its own first repetition: what differs there is the noise
    of the arithmetic, not of speculation.
    """
    same = [
        other
        for other in sorted(passes)
        if other.configuration == NONE and (other.suite, other.batch) == (key.suite, key.batch)
    ]
    same = [other for other in same if other != key]
    if key.configuration == NONE:
        same = [other for other in same if other.repetition < key.repetition]
    else:
        same.sort(key=lambda other: other.repetition != key.repetition)
    if not same:
        return None
    return metrics.equality(passes[key].samples, passes[same[0]].samples)


def _length(key: PassKey) -> float:
    return key.simulated_accept_length or 0.0
