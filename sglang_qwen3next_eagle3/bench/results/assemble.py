"""From the journal of a benchmark to its result."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Literal

from sglang_qwen3next_eagle3.bench.load.load import Pass
from sglang_qwen3next_eagle3.bench.results import metrics
from sglang_qwen3next_eagle3.bench.results.journal import Journal, Key
from sglang_qwen3next_eagle3.bench.results.records import (
    NONE,
    Configuration,
    Equality,
    Measurement,
    Result,
)


def result(
    journal: Journal,
    kind: Literal["suites", "speed"],
    provenance: Mapping[str, Any],
    settings: Mapping[str, Any],
    configurations: Sequence[Configuration],
    notes: Sequence[str] = (),
    greedy: Container[str] = (),
) -> Result:
    """configurations: all that were asked for, in their order; what the journal knows wins.

    greedy: the suites whose answers can be compared.
    """
    known = journal.configurations()
    rows = {
        c.name: known.get(c.name, c.model_copy(update={"status": "not run"}))
        for c in configurations
    }
    rows |= {name: row for name, row in known.items() if name not in rows}
    passes = journal.passes()
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
            *notes,
            *lost,
            *_capped(rows.values(), measured),
            *_short(measured),
            *_of_several_machines(journal),
        ),
    )


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


def _of_several_machines(journal: Journal) -> list[str]:
    """Where passes were made with different software, hardware or commits."""
    stamps = journal.stamps()
    if len(stamps) < 2:
        return []
    said = "; ".join(", ".join(f"{k} {v}" for k, v in stamp.items()) for stamp in stamps)
    return [f"Not all passes were made alike: {said}."]


def _measurement(
    key: Key, passes: Mapping[Key, Pass], row: Configuration, greedy: Container[str]
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


def _equality(key: Key, passes: Mapping[Key, Pass]) -> Equality | None:
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


def _length(key: Key) -> float:
    return key.simulated_accept_length or 0.0
