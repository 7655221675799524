"""What a cycle costs: one verification by the target with the drafting before it, in ms.

Measured by `bench speed` for trees and batches, and fitted by a law of few terms for those
between them. From it follows the accept length that a tree needs (plan.py). A cell is what was
measured of a configuration at a batch size.
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import read_json, write_json
from sglang_qwen3next_eagle3.base.schema import StrictRecord, validate
from sglang_qwen3next_eagle3.bench.results.records import ALONE, CHANGING, NONE, Measurement, Result

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
    """By configuration and batch, but for servers that `bench auto` asked what their state is
    asked, too: that tree would count twice. Raises UserError: the result contradicts itself."""
    configurations = {c.name: c for c in result.configurations}
    seen: Mapping[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for measurement in result.measurements:
        if measurement.suite == CHANGING or measurement.configuration.endswith(ALONE):
            continue
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


Array = NDArray[np.float64]

EXPERTS = (10, 512)
"""Experts a token and experts in all: num_experts_per_tok and num_experts of Qwen3-Next."""

TERMS = {
    "fixed": "a pass of the target, whatever it verifies",
    "experts": "reading all experts; times the share that B x draft tokens reach",
    "token": "a verified token, of B x draft tokens",
    "sequence": "a sequence, of B",
    "speculation": "speculating at all",
    "step": "a draft step",
    "branch": "a drafted branch, of B x topk x steps",
    "branching": "a tree that branches (topk > 1)",
}
"""The law's coefficients, all in ms and none negative."""
_FEWEST_CELLS = len(TERMS) + 1
_ZERO = 1e-9
"""A coefficient so much smaller than the largest may be nothing but rounding."""


class Cycle(StrictRecord):
    """ms: how long a cycle takes in which all of the batch advance."""

    ms: float
    source: Literal["measured", "fitted"]


class Residuals(StrictRecord):
    """Absolute relative errors of the law.

    median, largest: on the cells that it was fitted to. held_out_*: on each cell by a law that
        was fitted to all others.
    """

    cells: int
    median: float
    largest: float
    held_out_median: float
    held_out_largest: float


class CostModel(StrictRecord):
    """Measured cells, and the law between them.

    coefficients: ms by the names of `TERMS`; None where too few cells were measured.
    experts: a token's and all, see `EXPERTS`. provenance: of the result that it was made from.
    """

    kind: Literal["cost-model"] = "cost-model"
    format: Literal[1] = 1
    cells: tuple[CycleCell, ...]
    coefficients: dict[str, float] | None = None
    residuals: Residuals | None = None
    experts: tuple[int, int] = EXPERTS
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def batches(self) -> tuple[int, ...]:
        return tuple(sorted({cell.batch for cell in self.cells}))

    @property
    def configurations(self) -> dict[str, Tree | None]:
        """Name to tree, in the order of measurement; the baseline first."""
        named = {cell.configuration: cell.tree for cell in self.cells}
        return {NONE: None, **named}

    def cell(self, configuration: str, batch: int) -> CycleCell | None:
        found = (c for c in self.cells if (c.configuration, c.batch) == (configuration, batch))
        return next(found, None)

    def measured(self, configuration: str, batch: int) -> float | None:
        """ms of a measured cell."""
        cell = self.cell(configuration, batch)
        return None if cell is None else cell.cycle_ms

    def cycle(self, batch: int, tree: Tree | None) -> Cycle | None:
        """A cycle of EAGLE3 with a tree, or with None a step without speculation.

        None where it was not measured and lies outside of what the law was fitted to: more
        requests, steps, branches or draft tokens than any that were measured.
        """
        algorithm = NONE if tree is None else "eagle3"
        name = NONE if tree is None else spelled(tree)
        same = [c for c in self.cells if (c.algorithm, c.tree, c.batch) == (algorithm, tree, batch)]
        if same:
            cell = next((c for c in same if c.configuration == name), same[0])
            return Cycle(ms=cell.cycle_ms, source="measured")
        ms = self.fitted(batch, tree)
        return None if ms is None else Cycle(ms=ms, source="fitted")

    def for_server(self, tree: Tree, batches: Sequence[int] = ()) -> str:
        """What a server of this tree is told for its metrics (overlay/metrics/cycle_costs.py).

        batches: all that were measured if empty.

        Raises:
            UserError: a cycle or a step at one of them was neither measured nor is in reach.
        """
        words = [spelled(tree)]
        for batch in batches or self.batches:
            cycle, step = self.cycle(batch, tree), self.cycle(batch, None)
            if cycle is None or step is None:
                raise UserError(
                    f"tree {spelled(tree)} with {batch} requests was not measured, and the model "
                    f"does not reach it; measured: {'; '.join(self.configurations)}"
                )
            words.append(f"{batch}:{cycle.ms:.2f}/{step.ms:.2f}")
        return " ".join(words)

    def fitted(self, batch: int, tree: Tree | None) -> float | None:
        """ms by the law, measured or not; None outside of what it was fitted to."""
        if self.coefficients is None or not self._within(batch, tree):
            return None
        amounts = terms(batch, tree, self.experts)
        return sum(self.coefficients[term] * amount for term, amount in amounts.items())

    def _within(self, batch: int, tree: Tree | None) -> bool:
        fitted = [cell for cell in self.cells if cell.fitted_ms is not None]
        trees = [cell.tree for cell in fitted if cell.tree is not None]
        ranges = [([cell.batch for cell in fitted], batch)]
        if tree is not None:
            ranges += [([t[axis] for t in trees], tree[axis]) for axis in range(3)]
        return all(seen and min(seen) <= wanted <= max(seen) for seen, wanted in ranges)

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        write_json(path, self.model_dump(mode="json"), indent=1)

    @classmethod
    def load(cls, path: Path) -> "CostModel":
        """Raises UserError: not there, not JSON, or no cost model of this format."""
        if not path.exists():
            raise UserError(f"there is no cost model {path}")
        data = read_json(path, "give a cost model of `bench speed`")
        return validate(cls, data, f"{path} is no cost model of `bench speed`")


def spelled(tree: Tree) -> str:
    return ",".join(map(str, tree))


def tree_of(name: str) -> Tree | None:
    """The tree that a name spells, if it does."""
    match = re.fullmatch(r"(\d+),(\d+),(\d+)", name)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def terms(batch: int, tree: Tree | None, experts: tuple[int, int] = EXPERTS) -> dict[str, float]:
    """How much of each of `TERMS` a cycle holds.

    The share of the experts that n tokens reach is 1 - (1 - k/E)^n, for uniform routing of each
    to k of E.
    """
    steps, topk, draft = tree or (0, 0, 1)
    reached = 1 - (1 - experts[0] / experts[1]) ** (batch * draft)
    return {
        "fixed": 1.0,
        "experts": reached,
        "token": float(batch * draft),
        "sequence": float(batch),
        "speculation": float(tree is not None),
        "step": float(steps),
        "branch": float(batch * topk * steps),
        "branching": float(topk > 1),
    }


def fit(result: Result, experts: tuple[int, int] = EXPERTS) -> CostModel:
    """The cost model of a result of `bench speed`.

    The law is fitted to the EAGLE3 configurations and the baseline, by least squares of relative
    errors; MTP, which drafts with another model, and what changes its steps stay with what was
    measured.

    Raises:
        UserError: a result of another kind, or no baseline in it.
    """
    if result.kind != "speed":
        raise UserError("this result is of `bench run`: a cost model needs one of `bench speed`")
    cells = measured(result)
    if not any(cell.configuration == NONE for cell in cells):
        raise UserError(
            f"the result has no baseline: measure the configuration {NONE!r} too, which all "
            "others are compared with"
        )
    provenance = result.provenance
    fitted = [i for i, cell in enumerate(cells) if cell.algorithm in ("eagle3", NONE)]
    if len(fitted) < _FEWEST_CELLS:
        return CostModel(cells=tuple(cells), experts=experts, provenance=provenance)
    rows = [list(terms(cells[i].batch, cells[i].tree, experts).values()) for i in fitted]
    cycles = np.array([cells[i].cycle_ms for i in fitted])
    # Divided by what was measured, so that errors are relative and large batches do not rule.
    relative = np.array(rows) / cycles[:, None]
    coefficients = non_negative(relative, np.ones(len(cycles)))
    for index, ms in zip(fitted, np.array(rows) @ coefficients, strict=True):
        cells[index] = cells[index].model_copy(update={"fitted_ms": float(ms)})
    inside = np.abs(relative @ coefficients - 1)
    outside = np.abs(held_out(relative, np.ones(len(cycles))) - 1)
    return CostModel(
        cells=tuple(cells),
        coefficients=dict(zip(TERMS, map(float, coefficients), strict=True)),
        residuals=Residuals(
            cells=len(fitted),
            median=float(np.median(inside)),
            largest=float(inside.max()),
            held_out_median=float(np.median(outside)),
            held_out_largest=float(outside.max()),
        ),
        experts=experts,
        provenance=provenance,
    )


def non_negative(rows: Array, values: Array) -> Array:
    """Least squares without negative coefficients, for a handful of them: (terms,).

    They have the smallest sum of squares of rows @ c - values.

    rows (cells, terms); values (cells,). The optimum is an unconstrained solution on some subset
    of the terms, so all subsets are tried: 2^terms small solutions. Subsets whose terms the cells
    do not tell apart are left out; of equally good ones the smallest is taken.
    """
    terms = rows.shape[1]
    whole, _, rank, _ = np.linalg.lstsq(rows, values, rcond=None)
    if rank == terms and whole.min() > _ZERO * whole.max():
        return np.asarray(whole)  # Where no bound is met, it is the optimum itself.
    best, smallest = np.zeros(terms), float(values @ values)
    for size in range(1, terms + 1):
        for chosen in map(list, combinations(range(terms), size)):
            solution, _, rank, _ = np.linalg.lstsq(rows[:, chosen], values, rcond=None)
            if rank < size or (solution < 0).any():
                continue
            rest = rows[:, chosen] @ solution - values
            squares = float(rest @ rest)
            if squares < smallest * (1 - 1e-9) - 1e-18:
                best, smallest = np.zeros(terms), squares
                best[chosen] = solution
    return best


def held_out(rows: Array, values: Array) -> Array:
    """Each value (cells,) as predicted from all others."""
    keep = ~np.eye(len(values), dtype=bool)
    return np.array(
        [row @ non_negative(rows[k], values[k]) for row, k in zip(rows, keep, strict=True)]
    )
