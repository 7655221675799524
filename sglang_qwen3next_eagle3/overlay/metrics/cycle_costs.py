"""What a cycle of the served tree was measured to take, as the launching process tells it.

The figures come from `bench speed`; a profile carries them in the variable of
`environment.CYCLE_COSTS`, spelled TREE REQUESTS:CYCLE/STEP ..., for example

    3,4,8 1:9.86/6.10 2:12.05/6.10 32:37.12/15.74

which says that with one request a cycle takes 9.86 ms and a step without speculation 6.10 ms.
With `fast` before the tree they are of the fast path; of SGLang's kernels otherwise. Both may be
told, with ; between.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.environment import CYCLE_COSTS

_TREE = re.compile(r"(\d+),(\d+),(\d+)")
_ENTRY = re.compile(r"(\d+):(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
HOW_TO_SPELL = (
    "write the tree and then requests:cycle/step in ms, for example 3,4,8 1:9.86/6.10 4:15.06/6.76 "
    "(of the fast path: fast before it)"
)
FAST = "fast"
"""Before the tree of costs of the fast path."""


@dataclass(frozen=True)
class CycleCosts:
    """tree: steps, topk and draft tokens that `cycle` is of. fast: measured with the fast path.

    cycle, step: seconds of a cycle with speculation and of a step without, by the requests that
    take part, in rising order. Both have the same requests.
    """

    tree: tuple[int, int, int]
    cycle: Mapping[int, float]
    step: Mapping[int, float]
    fast: bool = False

    def of(self, requests: int) -> tuple[float, float] | None:
        """Seconds of a cycle and of a step, linear between what was measured; None beyond it."""
        cycle, step = _between(self.cycle, requests), _between(self.step, requests)
        return None if cycle is None or step is None else (cycle, step)


def parse(text: str | None) -> tuple[CycleCosts, ...]:
    """The costs that the variable spells, of SGLang's kernels, of ours, or of both; none where it
    is unset or empty.

    Raises:
        UserError: it is spelled otherwise, or a figure of it is not possible.
    """
    parts = [part.split() for part in (text or "").split(";")]
    found = tuple(_costs(words, text) for words in parts if words)
    if len({costs.fast for costs in found}) < len(found):
        raise UserError(f"{CYCLE_COSTS}={text!r} tells costs of the same kernels twice")
    return found


def _costs(words: list[str], text: str | None) -> CycleCosts:
    fast = words[0] == FAST
    words = words[fast:]
    if not words:
        raise UserError(f"{CYCLE_COSTS}={text!r} cannot be read: {HOW_TO_SPELL}")
    tree = _TREE.fullmatch(words[0])
    entries = [_ENTRY.fullmatch(word) for word in words[1:]]
    if tree is None or not entries or None in entries:
        raise UserError(f"{CYCLE_COSTS}={text!r} cannot be read: {HOW_TO_SPELL}")
    figures = sorted((int(e[1]), float(e[2]) / 1000, float(e[3]) / 1000) for e in entries if e)
    if len({requests for requests, *_ in figures}) < len(figures):
        raise UserError(f"{CYCLE_COSTS}={text!r} tells a number of requests twice")
    if any(min(figure) <= 0 for figure in figures):
        raise UserError(f"{CYCLE_COSTS}={text!r}: requests and times are more than 0")
    return CycleCosts(
        tree=(int(tree[1]), int(tree[2]), int(tree[3])),
        cycle={requests: cycle for requests, cycle, _ in figures},
        step={requests: step for requests, _, step in figures},
        fast=fast,
    )


def _between(known: Mapping[int, float], wanted: int) -> float | None:
    below = max((n for n in known if n <= wanted), default=None)
    above = min((n for n in known if n >= wanted), default=None)
    if below is None or above is None:
        return None
    if below == above:
        return known[below]
    share = (wanted - below) / (above - below)
    return known[below] + share * (known[above] - known[below])
