"""The file of states: which numbers of steps may be drafted at how many requests, and what a cycle
of each takes. `bench plan --adaptive` writes it; the launcher and every scheduler read it.

It is SGLang's own file for `--speculative-adaptive-config` (0.5.17,
speculative/adaptive_spec_params.py), an entry with `candidate_steps` for each number of requests,
with one key more that SGLang passes over. A server without the overlay takes it, too, and chooses
among the same states by SGLang's rule. Importing this loads neither torch nor sglang.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import expanded, parse_json
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.fast import stages, trials
from sglang_qwen3next_eagle3.overlay.seams import seams

KEY = "qwen3next_eagle3"
FORMAT = 1
HOW_TO_MAKE = "`bench plan --adaptive` writes one from a result of `bench speed` or `bench auto`"
_EXPECTED = (
    'expected candidates for batch sizes, for example {"1": {"candidate_steps": [0, 1, 3]}}; '
    f"{HOW_TO_MAKE}"
)
MOST_STEPS = 15
"""A chain of more was never measured, and each one is graphs in the GPU's memory."""
MOST_CYCLES = 64
"""Of 0 steps for which the head's cache may be filled at once (deferral.py)."""


@dataclass(frozen=True)
class DraftStates:
    """candidates: the steps that may be drafted, rising, from so many requests on. cycle_ms: of a
    cycle of so many requests, by its steps; 0 is no drafting. shares: of a head that is not known
    yet, the share of drafts that are accepted at positions 1, 2, ... where all before them were.
    start: the steps that a server begins with. measured: where the costs come from.
    """

    candidates: Mapping[int, tuple[int, ...]]
    cycle_ms: Mapping[int, Mapping[int, float]]
    shares: tuple[float, ...]
    start: int
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[int, ...]:
        """All that are a candidate anywhere."""
        return tuple(sorted(set(itertools.chain.from_iterable(self.candidates.values()))))

    def candidates_at(self, requests: int) -> tuple[int, ...]:
        below = [known for known in self.candidates if known <= requests]
        return self.candidates[max(below, default=min(self.candidates))]

    def cost(self, requests: int, steps: int) -> float:
        """Milliseconds, linear between what was measured; beyond it what is nearest."""
        known = [n for n in sorted(self.cycle_ms) if steps in self.cycle_ms[n]]
        below = max((n for n in known if n <= requests), default=known[0])
        above = min((n for n in known if n >= requests), default=known[-1])
        low, high = self.cycle_ms[below][steps], self.cycle_ms[above][steps]
        if above <= below:
            return low if requests >= below else high
        return low + (high - low) * (requests - below) / (above - below)

    @property
    def defer(self) -> int:
        """For how many cycles of 0 steps the head's cache was filled at once while they were
        measured; 0: in every one."""
        return int(self.measured.get("defer", 0))

    def where(self) -> str:
        """Where the costs come from, in a few words."""
        said = [str(self.measured[key]) for key in ("on", "date") if self.measured.get(key)]
        return ", ".join(said) or "an unnamed machine"

    def payload(self) -> dict[str, Any]:
        """What a file holds. `read` gives it back."""
        ours = {
            "format": FORMAT,
            "measured": dict(self.measured),
            "start": self.start,
            "shares": list(self.shares),
            "cycle_ms": {str(n): _spelled(self.cycle_ms[n]) for n in sorted(self.cycle_ms)},
        }
        slots = {
            str(n): {"candidate_steps": list(self.candidates[n])} for n in sorted(self.candidates)
        }
        return {KEY: ours, **slots}

    def text(self) -> str:
        """The file, a line for each number of requests."""
        data = self.payload()
        ours = dict(data.pop(KEY))
        costs = ours.pop("cycle_ms")
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in ours.items()]
        lines += ['  "cycle_ms": {']
        lines += [",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in costs.items())]
        lines += ["  }"]
        slots = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in data.items()]
        return "\n".join(["{", f' "{KEY}": {{', *lines, " },", ",\n".join(slots), "}", ""])


def switches(environment: Mapping[str, str]) -> dict[str, str]:
    """What of ours a server with this environment has on, spelled in one way; `off` for none.

    Raises:
        UserError: a variable names something that is none.
    """
    fast = stages.parse(environment.get(variables.FAST))
    tried = trials.parse(environment.get(trials.TRY))
    return {
        "fast": "off" if fast is None else fast.spelled,
        "seams": seams.spelled(seams.parse(environment.get(variables.SEAMS))),
        # Of the fast path's kernels: without it there are none.
        "tries": "off" if fast is None else trials.spelled(tried),
    }


def cycles_at_once(text: str | None) -> int:
    """Of 0 steps whose extends are put off at most, as the variable says it; 0: none.

    Raises:
        UserError: that is no such number.
    """
    text = (text or "").strip() or "0"
    if not _is_cycles(int(text) if text.isdecimal() and len(text) < 9 else None):
        said = f"{variables.DEFER}={text}: "
        raise UserError(f"{said}say a number of cycles from 0 to {MOST_CYCLES}")
    return int(text)


def _is_cycles(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_CYCLES


def _spelled(costs: Mapping[int, float]) -> dict[str, float]:
    return {str(steps): round(costs[steps], 3) for steps in sorted(costs)}


def read(path: str | Path) -> DraftStates | None:
    """The states of a file; None where it is SGLang's alone, without costs.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    return read_all(path)[1]


def read_all(path: str | Path) -> tuple[Mapping[int, tuple[int, ...]], DraftStates | None]:
    """The candidates of a file, which SGLang reads, and the states, where it says costs.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    path = expanded(path)
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"states {path} cannot be read ({why})") from None
    except ValueError as error:
        raise UserError(f"states {path}: no JSON ({error}); {_EXPECTED}") from None
    if not isinstance(data, dict):
        raise UserError(f"states {path}: {_EXPECTED}")
    try:
        candidates = _candidates(data)
        ours = data.get(KEY)
        return candidates, None if ours is None else _checked(candidates, ours)
    except UserError as error:
        raise UserError(f"states {path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        name = f"{type(error).__name__}: {error}"
        raise UserError(f"states {path} cannot be read ({name}); {HOW_TO_MAKE}") from None


def _candidates(data: Mapping[str, Any]) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for key, entry in data.items():
        if not key.isdecimal():
            continue
        steps = entry.get("candidate_steps") if isinstance(entry, dict) else None
        if not isinstance(steps, list) or not steps or not all(map(_is_steps, steps)):
            raise UserError(f'"{key}": {_EXPECTED}')
        found[int(key)] = tuple(sorted(set(steps)))
    if not found:
        raise UserError(_EXPECTED)
    return found


def _is_steps(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_STEPS


def _checked(candidates: Mapping[int, tuple[int, ...]], ours: Mapping[str, Any]) -> DraftStates:
    if ours.get("format") != FORMAT:
        raise UserError(f"format {ours.get('format')!r} is not {FORMAT}; {HOW_TO_MAKE}")
    states = DraftStates(
        candidates=candidates,
        cycle_ms={
            int(requests): {int(steps): float(ms) for steps, ms in costs.items()}
            for requests, costs in ours["cycle_ms"].items()
        },
        shares=tuple(map(float, ours["shares"])),
        start=ours["start"],
        measured=ours.get("measured", {}),
    )
    if not _is_cycles(told := states.measured.get("defer", 0)):
        raise UserError(f"defer {told!r}: a number of cycles from 0 to {MOST_CYCLES} is expected")
    costs = [ms for row in states.cycle_ms.values() for ms in row.values()]
    if not costs or not all(0 < ms < math.inf for ms in costs):
        raise UserError("cycles take more than 0 ms")
    for steps in states.steps:
        if not any(steps in row for row in states.cycle_ms.values()):
            raise UserError(f"{steps} steps are a candidate, and no cycle of them was measured")
    if states.start not in states.steps:
        raise UserError(f"it starts with {states.start} steps, which are no candidate")
    if states.start < 1:
        raise UserError("it starts with 0 steps: a server begins with a draft")
    if len(states.shares) < max(states.steps) or not all(0 <= x <= 1 for x in states.shares):
        raise UserError(f"shares: {max(states.steps)} numbers from 0 to 1 are expected")
    return states


def conditional(reached: Sequence[float]) -> tuple[float, ...]:
    """Shares of drafts whose predecessors were accepted, from the shares of cycles that accept at
    least 1, 2, ... drafts."""
    before = (1.0, *reached)
    return tuple(now / then if then else 0.0 for then, now in zip(before, reached, strict=False))


def chain_lengths(shares: Sequence[float]) -> list[float]:
    """Tokens that a cycle of 0, 1, 2, ... steps brings with these shares: 1, 1 + a, 1 + a + ab."""
    lengths, reached = [1.0], 1.0
    for share in shares:
        reached *= share
        lengths.append(lengths[-1] + reached)
    return lengths
