"""What a cycle of the served tree was measured to take, as the launching process tells it.

The figures come from `bench speed`; a profile carries them in the variable of
`environment.CYCLE_COSTS`, spelled TREE REQUESTS:CYCLE/STEP ..., for example

    3,4,8 1:9.86/6.10 2:12.05/6.10 32:37.12/15.74

which says that with one request a cycle takes 9.86 ms and a step without speculation 6.10 ms.
Words before the tree say what they are of, and for other servers they are not used:

    gpu=H200 tp=1 weights=fp8 fast=on,head seams=on 3,4,8 1:5.44/2.29

fast and seams are spelled as the variables for them are. `fast` alone is all of the fast path, and
the head where there is one. Without either they are of SGLang's kernels. Several may be told, with
; between.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.environment import CYCLE_COSTS
from sglang_qwen3next_eagle3.overlay.fast import stages
from sglang_qwen3next_eagle3.overlay.seams import seams

_TREE = re.compile(r"(\d+),(\d+),(\d+)")
_ENTRY = re.compile(r"(\d+):(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
HOW_TO_SPELL = (
    "write the tree and then requests:cycle/step in ms, for example 3,4,8 1:9.86/6.10 4:15.06/6.76 "
    "(of the fast path: fast before it)"
)
FAST = "fast"
"""Before the tree of costs of the fast path."""
KINDS = ("gpu", "tp", "weights", FAST, "seams")
"""What a word before the tree may say, with = behind it."""


@dataclass(frozen=True)
class Served:
    """What a server came to serve with. tree: steps, topk and draft tokens; fast, seams: what of
    them is ours; gpu: its name; eagle3: whether an EAGLE3 head drafts."""

    tree: tuple[int, ...]
    fast: frozenset[str] = frozenset()
    seams: frozenset[str] = frozenset()
    ranks: int = 1
    gpu: str = ""
    weights: str = ""
    eagle3: bool = True


@dataclass(frozen=True)
class CycleCosts:
    """tree: steps, topk and draft tokens that `cycle` is of. fast: measured with the fast path.
    kind: what they are of, by `KINDS`; of what is not in it they say nothing.

    cycle, step: seconds of a cycle with speculation and of a step without, by the requests that
    take part, in rising order. Both have the same requests.
    """

    tree: tuple[int, int, int]
    cycle: Mapping[int, float]
    step: Mapping[int, float]
    fast: bool = False
    kind: Mapping[str, str] = field(default_factory=dict)

    def why_not(self, served: Served) -> str | None:
        """Why they are not of a server, or None."""
        if self.tree != served.tree:
            return f"they are of the tree {self.tree}, and {served.tree} is served"
        if self.fast and not served.fast:
            return "they are of the fast path, and it is off"
        if served.fast and not self.fast:
            return "they are of SGLang's kernels, and the fast path is on"
        if self.fast and FAST not in self.kind:
            whole = {*stages.OF_TARGET, *(["head"] if served.eagle3 else [])}
            if missing := sorted(whole - served.fast):
                return f"they are of the whole fast path, and {', '.join(missing)} is SGLang's"
        for name, said in self.kind.items():
            known = _KNOWN[name](served)
            if not _is_of(name, said, known):
                return f"they are of {name}={said}, and {known or 'off'} is served"
        return None

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
    if len({(costs.fast, *sorted(costs.kind.items())) for costs in found}) < len(found):
        raise UserError(f"{CYCLE_COSTS}={text!r} tells costs of the same kernels twice")
    return found


def _costs(words: list[str], text: str | None) -> CycleCosts:
    kind: dict[str, str] = {}
    fast = False
    while words and (words[0] == FAST or words[0].partition("=")[0] in KINDS):
        name, _, value = words[0].partition("=")
        if name in kind or (name == FAST and fast):
            raise UserError(f"{CYCLE_COSTS}={text!r} says {name} twice")
        if name == FAST:
            wanted = stages.parse(value, f"{CYCLE_COSTS}: {name}=") if value else None
            fast = wanted is not None or "=" not in words[0]
        elif name == "seams":
            seams.parse(value, f"{CYCLE_COSTS}: {name}=")
        if value:
            kind[name] = value
        words = words[1:]
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
        kind=kind,
    )


def of_gpu(name: str) -> str:
    """A GPU's name as a word."""
    return "_".join(word for word in name.split() if word != "NVIDIA")


_KNOWN: Mapping[str, Callable[[Served], str]] = {
    "gpu": lambda served: of_gpu(served.gpu),
    "tp": lambda served: str(served.ranks),
    "weights": lambda served: served.weights,
    FAST: lambda served: ",".join(sorted(served.fast)),
    "seams": lambda served: ",".join(sorted(served.seams)),
}


def _is_of(name: str, said: str, known: str) -> bool:
    """Of kernels and seams the same set, however it is spelled; the same word of all else."""
    if name not in (FAST, "seams"):
        return said == known
    wanted: frozenset[str] = frozenset()
    if name == "seams":
        wanted = frozenset(seams.parse(said))
    elif (parsed := stages.parse(said)) is not None:
        wanted = frozenset(parsed.stages)
    return wanted == frozenset(known.split(",") if known else [])


def _between(known: Mapping[int, float], wanted: int) -> float | None:
    below = max((n for n in known if n <= wanted), default=None)
    above = min((n for n in known if n >= wanted), default=None)
    if below is None or above is None:
        return None
    if below == above:
        return known[below]
    share = (wanted - below) / (above - below)
    return known[below] + share * (known[above] - known[below])
