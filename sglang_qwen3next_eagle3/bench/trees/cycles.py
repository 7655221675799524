"""How long a cycle took: the cells that `bench speed` measured, before any law is fitted."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.schema import StrictRecord
from sglang_qwen3next_eagle3.bench.results.records import NONE, Measurement, Result

Tree = tuple[int, int, int]
"""Steps, topk, draft tokens."""


class CycleCell(StrictRecord):
    """A configuration at a batch size, as it was measured.

    cycle_ms: median over repetitions and the upper half of the simulated accept lengths. At low
        ones dummy weights make a cycle cheaper (MTP at B=32 by two fifths), probably because tokens
        that are all alike reach fewer experts than text does.
    low_ms, high_ms: extremes over all repetitions and accept lengths.
    fitted_ms: what the law says; None where it was not fitted to this algorithm.
    """

    configuration: str
    algorithm: str
    tree: Tree | None
    batch: int
    cycle_ms: float
    low_ms: float
    high_ms: float
    fitted_ms: float | None = None

    @property
    def error(self) -> float | None:
        """The law's relative error here."""
        return None if self.fitted_ms is None else self.fitted_ms / self.cycle_ms - 1


def cycle_ms(measurement: Measurement) -> float | None:
    """How long a cycle of the batch took: its requests advance together, so it is a request's.

    Of results of older versions, which lack it: 1000 x tokens per cycle, over all requests, over
    the median decode rate, exact where all requests accept alike. None where requests failed or
    figures are missing.
    """
    figures = measurement.figures
    if figures.failed or figures.cycle_ms is not None:
        return None if figures.failed else figures.cycle_ms
    tokens = 1.0 if measurement.configuration == NONE else figures.per_cycle
    return 1000 * tokens / figures.decode_tok_s if tokens and figures.decode_tok_s > 0 else None


def measured(result: Result) -> list[CycleCell]:
    """By configuration and batch. Raises UserError: the result contradicts itself."""
    configurations = {c.name: c for c in result.configurations}
    seen: Mapping[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for measurement in result.measurements:
        if measurement.configuration not in configurations:
            raise UserError(
                f"the result is damaged: it measures {measurement.configuration!r}, which is not "
                "among its configurations"
            )
        cycle = cycle_ms(measurement)
        if cycle is not None:
            length = measurement.simulated_accept_length or 0.0
            seen[measurement.configuration, measurement.batch].append((length, cycle))
    return [
        _cell(name, configurations[name].algorithm, configurations[name].tree, batch, cycles)
        for (name, batch), cycles in seen.items()
    ]


def _cell(
    name: str,
    algorithm: str,
    tree: Tree | None,
    batch: int,
    seen: Sequence[tuple[float, float]],
) -> CycleCell:
    """seen: simulated accept length (0 without speculation) and cycle of every pass."""
    middle = statistics.median({length for length, _ in seen})
    cycles = [cycle for _, cycle in seen]
    return CycleCell(
        configuration=name,
        algorithm=algorithm,
        tree=tree,
        batch=batch,
        cycle_ms=statistics.median(cycle for length, cycle in seen if length >= middle),
        low_ms=min(cycles),
        high_ms=max(cycles),
    )
