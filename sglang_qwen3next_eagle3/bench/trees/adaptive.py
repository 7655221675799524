"""From what cycles cost to the file of states that adaptive drafting chooses among.

Each state is graphs in the GPU's memory and seconds of a start, so there are as few as lose little
against all chains, whatever a head accepts.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench import markdown
from sglang_qwen3next_eagle3.bench.results.records import NONE, Result
from sglang_qwen3next_eagle3.bench.trees.cost import CostModel, Tree, spelled
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.adaptive.states import (
    DraftStates,
    chain_lengths,
    cycles_at_once,
    switches,
)
from sglang_qwen3next_eagle3.overlay.fast import stages
from sglang_qwen3next_eagle3.overlay.fast.stages import Wanted

SHARES: tuple[float, ...] = (0.62, 0.58, 0.55, 0.53, 0.51, 0.5, 0.5)
"""Of a head that nobody measured: drafts accepted at positions 1, 2, ..., of those whose
predecessors were."""
MOST_STATES = 6
LOSS = 0.04
"""That a choice of states may lose against all chains, at the acceptance that suits it least."""
_SAID = {"fast": "fast path", "seams": "seams", "tries": "tries"}
_SIMULATED = (1.6, 2.46, 3.0)
"""Accept lengths of `bench speed`, which simulates so many tokens and never more."""


@dataclass(frozen=True)
class PlannedStates:
    """loss: by the number of requests, the most that the chosen steps lose against all chains.
    fitted: (requests, steps) whose cycle is the law's. over_chain: by tree, what it has to accept
    more than the chain of its steps at the fewest requests."""

    states: DraftStates
    considered: tuple[int, ...]
    loss: Mapping[int, float]
    fitted: tuple[tuple[int, int], ...]
    over_chain: Mapping[str, float]
    requests: int

    def payload(self) -> dict[str, Any]:
        return {
            "states": self.states.payload(),
            "considered": list(self.considered),
            "loss": {str(batch): round(loss, 4) for batch, loss in self.loss.items()},
            "fitted": [list(pair) for pair in self.fitted],
            "tree_over_chain": dict(self.over_chain),
        }

    def text(self) -> str:
        """For a terminal."""
        steps = self.states.steps
        header = ["B", *(f"{n} steps, ms" for n in steps), "candidates", "loses at most"]
        lines = []
        for batch in sorted(self.states.cycle_ms):
            row = self.states.cycle_ms[batch]
            cells = [f"{row[n]:.2f}" if n in row else markdown.NOTHING for n in steps]
            candidates = ", ".join(map(str, self.states.candidates_at(batch)))
            lines.append([str(batch), *cells, candidates, markdown.percent(self.loss[batch])])
        out = [markdown.table(header, lines)]
        if self.fitted:
            places = ", ".join(f"{n} steps at B={batch}" for batch, n in self.fitted)
            out.append(f"By the law, not measured: {places}.")
        for tree, times in self.over_chain.items():
            out.append(
                f"At B={self.requests} the tree {tree} pays where it accepts "
                f"{markdown.times(times)} what the chain of its steps does. It is no state: "
                "SGLang's adaptive drafting is for chains."
            )
        return "\n\n".join(out)


def plan_states(
    model: CostModel,
    *,
    steps: Sequence[int] = (),
    shares: Sequence[float] = SHARES,
    measured: Mapping[str, Any] | None = None,
) -> PlannedStates:
    """The states of a cost model. steps: these in place of a choice; 0 is among them in any case.

    shares: of a head, as `DraftStates` has them; measured: where the costs come from.

    Raises:
        UserError: no chain was measured, or not those that are asked for.
    """
    costs, fitted = _costs(model)
    known = sorted({n for row in costs.values() for n in row if n})
    if not known:
        raise UserError("no chain was measured: `bench auto`, or `bench speed` with chains:1-5")
    if missing := sorted(set(steps) - {0, *known}):
        raise UserError(
            f"{missing[0]} steps were not measured, and the model does not reach them; "
            f"measured: {', '.join(map(str, known))}"
        )
    chosen = tuple(sorted({0, *steps})) if steps else _fewest(costs, known)
    if chosen == (0,):
        raise UserError("0 steps alone are no states: name a chain, too")
    shares = (*shares, *itertools.repeat(shares[-1], max(0, chosen[-1] - len(shares))))
    used = {batch: {n: ms for n, ms in row.items() if n in chosen} for batch, row in costs.items()}
    start = _start(used, shares)
    states = DraftStates(
        candidates=_slots(used, start),
        cycle_ms=used,
        shares=tuple(round(share, 4) for share in shares[: chosen[-1]]),
        start=start,
        measured=dict(measured or {}),
    )
    first = min(costs)
    return PlannedStates(
        states=states,
        considered=(0, *known),
        loss={b: _loss(row, states.candidates_at(b)) for b, row in costs.items()},
        fitted=tuple(pair for pair in fitted if pair[1] in chosen),
        over_chain=_over_chain(model, first),
        requests=first,
    )


def of_result(result: Result) -> dict[str, Any]:
    """Where costs come from: hardware, ranks, precision, our switches, commit, date."""
    settings, provenance = result.settings, result.provenance
    rows = [c for c in result.configurations if c.algorithm in ("none", "eagle3", "adaptive")]
    caller = provenance.get("environment") or {}
    on, defer = _switches(rows, caller), _defer(rows, caller)
    ranks = settings.get("tp") or next(iter(_ranks(rows)), 1)
    names = [str(gpu.get("name")) for gpu in provenance.get("gpus") or ()]
    if any(variables.CPU_ENGINE in row.environment for row in rows):
        names = []
    precision = settings.get("precision", "fp8")
    hardware = f"{ranks}x {names[0]}" if names else str(provenance.get("host", {}).get("cpu"))
    parts = [hardware, {"fp8": "FP8"}.get(precision, precision)]
    for key, said in _SAID.items():
        if on[key] != "off":
            parts.append(said if on[key] == "on" else f"{said} {on[key]}")
    # What cycles of other requests, or of other experts, do not take.
    if drawn := settings.get("sampling"):
        parts.append("sampled requests (" + ", ".join(f"{k} {v:g}" for k, v in drawn.items()) + ")")
    if routing := settings.get("routing"):
        parts.append(f"routing {routing}")
    if defer:
        parts.append(f"defer {defer}")
    of = {"tp": ranks, "precision": precision, **on}
    return {
        "on": ", ".join(parts),
        "date": str(provenance.get("date", ""))[:10],
        "commit": str(provenance.get("commit", ""))[:12],
        **(of if names else {}),
        **({"defer": defer} if defer else {}),
    }


def _switches(rows: Sequence[Any], caller: Mapping[str, str]) -> dict[str, str]:
    """What of ours was on while all of them were measured. caller: the environment that they were
    started in. Raises UserError: it was not the same."""
    found = [switches({**caller, **row.environment, **row.switched}) for row in rows]
    if not found:
        return switches(caller)
    # Of those that draft, if any do: the others have no head that could be ours.
    place = next((n for n, row in enumerate(rows) if row.algorithm != NONE), 0)
    first = found[place]
    for n, (row, one) in enumerate(zip(rows, found, strict=True)):
        same = _headless(one) == _headless(first) if row.algorithm == NONE else one == first
        if not same:
            told = [
                f"{rows[k].name} was measured with "
                + ", ".join(f"{key} {value}" for key, value in found[k].items())
                for k in sorted((n, place))
            ]
            raise UserError(
                f"{told[0]}, and {told[1].replace(' was measured', '', 1)}: costs of one file are "
                "of one kind of server"
            )
    return first


def _defer(rows: Sequence[Any], caller: Mapping[str, str]) -> int:
    """For how many cycles of 0 steps the head's cache was asked to be filled at once, where cycles
    of 0 steps were measured with a head. Raises UserError: it was not the same."""
    found = {
        row.name: cycles_at_once({**caller, **row.environment}.get(variables.DEFER))
        for row in rows
        if row.algorithm == "adaptive" or (row.tree is not None and row.tree[0] == 0)
    }
    if len(set(found.values())) > 1:
        told = ", ".join(f"{name} with {defer}" for name, defer in found.items())
        raise UserError(f"{variables.DEFER}: {told}: costs of one file are of one kind of server")
    return next(iter(found.values()), 0)


def _headless(found: Mapping[str, str]) -> dict[str, str]:
    fast = stages.parse(found["fast"])
    rest = None if fast is None else Wanted(fast.stages - stages.OF_HEAD)
    return {**found, "fast": "off" if rest is None else rest.spelled}


def _ranks(served: Sequence[Any]) -> Iterator[int]:
    for one in served:
        words = list(one.argv)
        for flag in ("--tp", "--tp-size", "--tensor-parallel-size"):
            if flag in words[:-1] and words[words.index(flag) + 1].isdecimal():
                yield int(words[words.index(flag) + 1])


def _costs(model: CostModel) -> tuple[dict[int, dict[int, float]], list[tuple[int, int]]]:
    """ms by requests and steps, of those whose chain was measured at any number of requests; and
    which of them are the law's."""
    chains = {cell.tree for cell in model.cells if cell.algorithm == "eagle3"}
    steps = sorted({tree[0] for tree in chains if tree is not None and tree[1] == 1 and tree[0]})
    found: dict[int, dict[int, float]] = {}
    fitted: list[tuple[int, int]] = []
    for batch in model.batches:
        plain = model.cycle(batch, (0, 1, 1)) if (0, 1, 1) in chains else None
        plain = plain or model.cycle(batch, None)
        if plain is None:
            continue
        row = {0: plain.ms}
        for n in steps:
            cycle = model.cycle(batch, (n, 1, n + 1))
            if cycle is not None:
                row[n] = cycle.ms
                if cycle.source == "fitted":
                    fitted.append((batch, n))
        if len(row) > 1:
            found[batch] = row
    return found, fitted


def _heads(steps: int) -> Iterator[list[float]]:
    """Tokens of a cycle of 0, 1, ... steps for all kinds of heads: the same share at every
    position, from nothing to nearly all, and what `bench speed` simulates."""
    for place in range(39):
        yield chain_lengths([place / 40] * steps)
    for length in _SIMULATED:
        whole = int(length)
        yield [
            (1 - length + whole) * min(whole, n + 1) + (length - whole) * min(whole + 1, n + 1)
            for n in range(steps + 1)
        ]


def _gains(row: Mapping[int, float], lengths: Sequence[float]) -> dict[int, float]:
    return {n: lengths[n] / ms for n, ms in row.items()}


def _loss(row: Mapping[int, float], steps: Sequence[int]) -> float:
    """What these steps lose against all of a row, at the acceptance that suits them least."""
    worst = 0.0
    for lengths in _heads(max(row)):
        gains = _gains(row, lengths)
        best = max(gain for n, gain in gains.items() if n in steps)
        worst = max(worst, 1 - best / max(gains.values()))
    return worst


def _fewest(costs: Mapping[int, Mapping[int, float]], known: Sequence[int]) -> tuple[int, ...]:
    best: tuple[int, ...] = (0, known[0])
    smallest = 1.0
    for size in range(1, MOST_STATES):
        for chosen in itertools.combinations(known, size):
            steps = (0, *chosen)
            loss = max(_loss(row, steps) for row in costs.values())
            if loss < smallest - 1e-9:
                best, smallest = steps, loss
        if smallest <= LOSS:
            break
    return best


def _slots(costs: Mapping[int, Mapping[int, float]], start: int) -> dict[int, tuple[int, ...]]:
    """For each measured number of requests, up to the next one: what is best at any acceptance at
    one of both. start: among the first, for a server begins with a draft."""
    best = {batch: _envelope(row) for batch, row in costs.items()}
    best[min(best)].add(start)
    batches = sorted(best)
    slots: dict[int, tuple[int, ...]] = {}
    for place, batch in enumerate(batches):
        following = batches[min(place + 1, len(batches) - 1)]
        slots[1 if place == 0 else batch] = tuple(sorted(best[batch] | best[following]))
    return slots


def _envelope(row: Mapping[int, float]) -> set[int]:
    found = {0}
    for lengths in _heads(max(row)):
        gains = _gains(row, lengths)
        found.add(max(gains, key=gains.__getitem__))
    return found


def _start(costs: Mapping[int, Mapping[int, float]], shares: Sequence[float]) -> int:
    """For one request of a head that is not known; with a draft."""
    row = {n: ms for n, ms in costs[min(costs)].items() if n}
    gains = _gains(row, chain_lengths(shares))
    return max(gains, key=gains.__getitem__)


def _over_chain(model: CostModel, batch: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for tree in dict.fromkeys(cell.tree for cell in model.cells if cell.algorithm == "eagle3"):
        if tree is None or tree[1] == 1:
            continue
        wide, chain = model.cycle(batch, tree), model.cycle(batch, _chain(tree))
        if wide is not None and chain is not None:
            found[spelled(tree)] = round(wide.ms / chain.ms, 3)
    return found


def _chain(tree: Tree) -> Tree:
    return tree[0], 1, tree[0] + 1
