"""From passes to figures: medians and spreads over repetitions, speedups against no speculation."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from sglang_qwen3next_eagle3.bench.results.records import (
    NONE,
    Configuration,
    Equality,
    Measurement,
    Result,
)

ALGORITHMS = {
    "eagle3": "EAGLE3",
    "nextn": "MTP",
    "none": "no speculation",
    "adaptive": "EAGLE3, steps by load and acceptance",
}


@dataclass(frozen=True)
class Spread:
    """The median over `count` repetitions, with the smallest and the largest."""

    median: float
    low: float
    high: float
    count: int = 1

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values), len(values))

    def over(self, other: "Spread") -> "Spread | None":
        """The ratio of the medians; from the worst that both spreads allow to the best.

        None where the other one is 0.
        """
        if other.low <= 0:
            return None
        count = min(self.count, other.count)
        median = self.median / other.median
        return Spread(median, self.low / other.high, self.high / other.low, count)


class CellKey(NamedTuple):
    """What is repeated. simulated_accept_length: of `bench speed` only."""

    configuration: str
    suite: str
    batch: int
    simulated_accept_length: float | None = None


@dataclass(frozen=True)
class Cell:
    """The repetitions of one key. Passes in which no request was answered give no figures."""

    key: CellKey
    passes: tuple[Measurement, ...]

    @property
    def answered(self) -> list[Measurement]:
        return [one for one in self.passes if one.figures.completion_tokens > 0]

    @property
    def failed(self) -> int:
        """Requests that were not answered, of all passes."""
        return sum(one.figures.failed for one in self.passes)

    def spread(self, figure: str) -> Spread | None:
        """Of a field of `Figures`, for example "output_tok_s" or "ttft.p50".

        None where no pass has it.
        """
        read: Callable[[object], float | None] = attrgetter(figure)
        values = [value for one in self.answered if (value := read(one.figures)) is not None]
        return Spread.of(values) if values else None

    def accept_by_position(self) -> tuple[float, ...]:
        """Median over repetitions of the share of steps that accepted at least 1, 2, ... drafts."""
        curves = [one.figures.accept_by_position for one in self.answered]
        positions = max(map(len, curves), default=0)
        padded = [curve + (0.0,) * (positions - len(curve)) for curve in curves if curve]
        return tuple(statistics.median(column) for column in zip(*padded, strict=True))

    def equality(self) -> Equality | None:
        """Of all passes that were compared with answers without speculation, together."""
        compared = [one.equality for one in self.passes if one.equality is not None]
        if not compared:
            return None
        return Equality(
            equal=sum(each.equal for each in compared),
            of=sum(each.of for each in compared),
            first_divergence=tuple(n for each in compared for n in each.first_divergence),
        )


def cells(result: Result) -> dict[CellKey, Cell]:
    """All that was measured, configurations in their order, then suites, then batches."""
    order = [configuration.name for configuration in result.configurations]
    passes: dict[CellKey, list[Measurement]] = {}
    for one in result.measurements:
        key = CellKey(one.configuration, one.suite, one.batch, one.simulated_accept_length)
        passes.setdefault(key, []).append(one)

    def place(key: CellKey) -> tuple[int, int, int, float]:
        suite = result.suites.index(key.suite)
        return order.index(key.configuration), suite, key.batch, key.simulated_accept_length or 0.0

    return {key: Cell(key, tuple(passes[key])) for key in sorted(passes, key=place)}


def algorithm_of(configuration: Configuration) -> str:
    """As readers know it."""
    return ALGORITHMS.get(configuration.algorithm, configuration.algorithm.upper())


def title(configuration: Configuration) -> str:
    """For a reader, for example "b1 (EAGLE3 3,4,8)"."""
    algorithm = algorithm_of(configuration)
    if configuration.tree is None:
        known = configuration.name in (NONE, configuration.algorithm)
        return algorithm if known else f"{configuration.name} ({algorithm})"
    tree = ",".join(map(str, configuration.tree))
    name = configuration.name.partition(":")[0]
    if configuration.name == tree or name == algorithm.lower():
        return f"{algorithm} {tree}"
    return f"{configuration.name} ({algorithm} {tree})"


def card_figure(batch: int) -> str:
    """The field of `Figures` that the card calls tok/s.

    At B=1 it is a request's own speed, above that the total of the server.
    """
    return "request_tok_s" if batch == 1 else "output_tok_s"


@dataclass(frozen=True)
class SuiteRow:
    """A row of the card's tables. baseline, own: tok/s. accept_rate: as the card has it.

    suites: which one, or all that a mean is over.
    """

    suites: tuple[str, ...]
    baseline: Spread | None
    own: Spread | None
    speedup: Spread | None
    accept_rate: Spread | None
    accept_length: Spread | None


def rows(result: Result, configuration: str, batch: int) -> list[SuiteRow]:
    """A row a suite that the configuration or the baseline has at this batch size.

    The baseline's own rows have no baseline.
    """
    measured = cells(result)
    found = []
    for suite in result.suites:
        own = measured.get(CellKey(configuration, suite, batch))
        base = None if configuration == NONE else measured.get(CellKey(NONE, suite, batch))
        if own is not None or base is not None:
            found.append(_row(suite, own, base, batch))
    return found


def mean_row(table: Iterable[SuiteRow]) -> SuiteRow | None:
    """The mean as the card has it: of the columns, and the speedup is the ratio of mean tok/s.

    Over the suites that have both the configuration's figures and the baseline's; over all that
    have the configuration's where there is no baseline. None where none has. The spread is the
    mean of the spreads' ends.
    """
    done = [row for row in table if row.own is not None]
    paired = [row for row in done if row.baseline is not None]
    over = paired or done
    if not over:
        return None
    own = _mean([row.own for row in over])
    baseline = _mean([row.baseline for row in over])
    return SuiteRow(
        suites=tuple(suite for row in over for suite in row.suites),
        baseline=baseline,
        own=own,
        speedup=_ratio(own, baseline),
        accept_rate=_mean([row.accept_rate for row in over]),
        accept_length=_mean([row.accept_length for row in over]),
    )


def missing(result: Result) -> list[tuple[CellKey, int, int]]:
    """What an interrupted or failed run lacks: key, repetitions there, those wanted.

    Wanted is what the settings ask for (`suites`, `batches`, `repeats`), and no less for one
    configuration than for another. Of several accept lengths the one measured least counts.
    """
    measured = cells(result)
    settings = result.settings
    suites = dict.fromkeys([*map(str, settings.get("suites", ())), *result.suites])
    batches = sorted({*settings.get("batches", ()), *result.batches})
    counts = [len(cell.passes) for cell in measured.values()]
    wanted = max([settings.get("repeats", 0), *counts])
    keys = [
        CellKey(configuration.name, suite, batch)
        for configuration in result.configurations
        for suite in suites
        for batch in batches
    ]
    fewest: dict[CellKey, int] = {}
    for key, cell in measured.items():
        alike = key._replace(simulated_accept_length=None)
        fewest[alike] = min(len(cell.passes), fewest.get(alike, wanted))
    there = [fewest.get(key, 0) for key in keys]
    return [(key, n, wanted) for key, n in zip(keys, there, strict=True) if n < wanted]


def _row(suite: str, own: Cell | None, base: Cell | None, batch: int) -> SuiteRow:
    tok_s = None if own is None else own.spread(card_figure(batch))
    baseline = None if base is None else base.spread(card_figure(batch))
    return SuiteRow(
        suites=(suite,),
        baseline=baseline,
        own=tok_s,
        speedup=_ratio(tok_s, baseline),
        accept_rate=None if own is None else own.spread("card_accept_rate"),
        accept_length=None if own is None else own.spread("accept_length"),
    )


def _ratio(one: Spread | None, other: Spread | None) -> Spread | None:
    return None if one is None or other is None else one.over(other)


def _mean(spreads: Sequence[Spread | None]) -> Spread | None:
    """None where one is missing: a mean over fewer suites would not belong to the others."""
    there = [spread for spread in spreads if spread is not None]
    if not there or len(there) < len(spreads):
        return None
    return Spread(
        statistics.fmean(spread.median for spread in there),
        statistics.fmean(spread.low for spread in there),
        statistics.fmean(spread.high for spread in there),
        min(spread.count for spread in there),
    )
