"""How long a cycle took: the cells that `bench speed` measured, before any law is fitted."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.results.records import NONE, Measurement, Result

Tree = tuple[int, int, int]
"""Steps, topk, draft tokens."""


class Cell(BaseModel):
    """A configuration at a batch size, as it was measured.

    cycle_ms: median over repetitions and the upper half of the simulated accept lengths. At low
        ones dummy weights make a cycle cheaper (MTP at B=32 by two fifths), probably because tokens
        that are all alike reach fewer experts than text does.
    low_ms, high_ms: extremes over all repetitions and accept lengths.
    fitted_ms: what the law says; None where it was not fitted to this algorithm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    configuration: str
    algorithm: Literal["eagle3", "nextn", "none"]
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
    """1000 x tokens of a cycle / a request's decode rate; without speculation a token a cycle.

    A request's first token is the prefill's: neither of the two counts it (the accept length, as
    SGLang defines it, does). All requests of a batch advance together, so this is the batch's cycle
    too. None where requests failed or figures are missing.
    """
    figures = measurement.figures
    plain = measurement.configuration == NONE
    if figures.failed or figures.decode_tok_s <= 0 or not (plain or figures.verify_steps):
        return None
    tokens = (figures.completion_tokens - figures.requests) / (figures.verify_steps or 1)
    return 1000 * (1.0 if plain else tokens) / figures.decode_tok_s


def measured(result: Result) -> list[Cell]:
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
    algorithm: Literal["eagle3", "nextn", "none"],
    tree: Tree | None,
    batch: int,
    seen: Sequence[tuple[float, float]],
) -> Cell:
    """seen: simulated accept length (0 without speculation) and cycle of every pass."""
    middle = statistics.median({length for length, _ in seen})
    cycles = [cycle for _, cycle in seen]
    return Cell(
        configuration=name,
        algorithm=algorithm,
        tree=tree,
        batch=batch,
        cycle_ms=statistics.median(cycle for length, cycle in seen if length >= middle),
        low_ms=min(cycles),
        high_ms=max(cycles),
    )
