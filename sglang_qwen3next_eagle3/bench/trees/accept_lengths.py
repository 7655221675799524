"""Accept lengths as a user states them, for `bench plan`."""

import re
from collections.abc import Iterator

from pydantic import Field

from sglang_qwen3next_eagle3.base.accept_length import of_chain
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.schema import StrictRecord
from sglang_qwen3next_eagle3.bench.trees.cost import spelled, tree_of
from sglang_qwen3next_eagle3.bench.trees.cycles import Tree

HOW_TO_WRITE = (
    "write one for all (2.46), one a tree (3,4,8=2.46,5,1,6=2.3), or the shares of steps that "
    "accept at least 1, 2, ... drafts of a chain (0.7,0.5,0.35); with ; between, the last two"
)
EQUAL_ACCEPTANCE = (
    "One accept length for all compares trees at equal acceptance: of the same head, a tree with "
    "more steps or draft tokens accepts more."
)
PER_CYCLE = (
    "Accept lengths are per cycle, as the reports of `bench run` give them beside SGLang's, which "
    "counts each request's first token too."
)
_NAMED = re.compile(r"(\d+,\d+,\d+|[A-Za-z][\w.:/-]*(?:,\d+,\d+)?)=([^,=]+)(?:,|$)")


class AcceptLengths(StrictRecord):
    """Tokens a cycle brings, the target's own among them: `per_cycle` of base/accept_length.py.

    everywhere: the same for all trees that can reach it. A tree with more draft tokens accepts
        more of the same head, so this compares trees at equal acceptance, not with a head.
    by_name: of a configuration or tree. by_position: share of steps that accept at least
        1, 2, ... drafts of a chain, from which any EAGLE3 chain of so many steps has its length.
    """

    everywhere: float | None = None
    by_name: dict[str, float] = Field(default_factory=dict)
    by_position: tuple[float, ...] = ()

    def of(self, name: str, tree: Tree, eagle3: bool = True) -> float | None:
        """Of a configuration; None where nothing is said of it or it cannot accept so many."""
        steps, topk, _ = tree
        for known in (name, spelled(tree)) if eagle3 else (name,):
            if known in self.by_name:
                return self.by_name[known]
        if eagle3 and topk == 1 and steps <= len(self.by_position):
            return of_chain(self.by_position[:steps])
        if self.everywhere is not None and self.everywhere <= steps + 1:
            return self.everywhere
        return None


def parse_accept_lengths(text: str) -> AcceptLengths:
    """Of `--accept-lengths`; names are checked against a model by `plan`.

    Raises:
        UserError: not of the form, not a number, a tree's length outside of 1 to steps + 1,
            shares that are none or that grow, or the same twice.
    """
    by_name: dict[str, float] = {}
    loose: list[float] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        if "=" not in part:
            if loose:
                raise UserError(f"--accept-lengths {text}: {HOW_TO_WRITE}")
            loose = [_number(each, text) for each in part.split(",")]
            continue
        for name, value in _named(part, text):
            if name in by_name:
                raise UserError(f"--accept-lengths: {name} is given twice")
            by_name[name] = _number(value, text)
            if tree := tree_of(name):
                check(name, by_name[name], tree[0])
    if not by_name and not loose:
        raise UserError(f"--accept-lengths is empty: {HOW_TO_WRITE}")
    if len(loose) == 1 and loose[0] >= 1:
        return AcceptLengths(everywhere=loose[0], by_name=by_name)
    if any(not 0 <= share <= 1 for share in loose) or sorted(loose, reverse=True) != loose:
        raise UserError(
            f"--accept-lengths {text}: shares of steps that accept at least 1, 2, ... drafts lie "
            "between 0 and 1 and do not grow; one accept length for all is 1 or more"
        )
    return AcceptLengths(by_name=by_name, by_position=tuple(loose))


def check(name: str, length: float, steps: int) -> None:
    """Raises UserError where a tree of so many steps cannot have this accept length."""
    if not 1 <= length <= steps + 1:
        raise UserError(
            f"--accept-lengths: {name} has {steps} steps, so its accept length lies between 1 and "
            f"{steps + 1}, not at {length:g}"
        )


def _named(part: str, text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(part):
        match = _NAMED.match(part, position)
        if match is None:
            raise UserError(f"--accept-lengths {text}: {HOW_TO_WRITE}")
        yield match[1], match[2]
        position = match.end()


def _number(word: str, text: str) -> float:
    try:
        number = float(word)
    except ValueError:
        raise UserError(f"--accept-lengths {text}: {word.strip()!r} is not a number") from None
    if not 0 <= number < float("inf"):
        raise UserError(f"--accept-lengths {text}: {word.strip()} is not an accept length")
    return number
