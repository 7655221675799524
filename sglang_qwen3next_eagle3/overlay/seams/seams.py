"""Which seams of a cycle are ours, as one environment variable spells them.

Importing this loads neither torch nor sglang.
"""

from collections.abc import Callable
from typing import Final, Literal, get_args

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.environment import SEAMS
from sglang_qwen3next_eagle3.overlay.proofs import AUTO

Seam = Literal[
    "requests", "commit", "relay", "metadata", "chain", "slots", "extend", "cycle", "sampled"
]
ALL: Final[tuple[Seam, ...]] = get_args(Seam)
"""requests: ranks learn through shared memory that a turn has none. commit: which states a verify
commits. relay: what a cycle leaves for the next one. metadata: what the Triton backend's
kernels of a verify and a draft extend read besides the batch. chain: a tree that is none, and its
mask. slots: memory for a cycle's tokens. cycle: all that SGLang launches in a cycle of a plain
batch, recorded for each size of one. extend: in these, what a verify of a chain accepts and what is
around its draft extend. sampled: of plain batches with sampled requests, too. What is not taken is
SGLang's."""
WITHIN: Final[tuple[Seam, ...]] = ("extend", "sampled")
"""Those of recorded cycles."""
ON: Final[tuple[Seam, ...]] = tuple(seam for seam in ALL if seam != "sampled")
"""What `on` and `auto` stand for; what was never run on a GPU has to be named."""


_serving: Callable[[], frozenset[Seam]] = frozenset


def serve(ours: Callable[[], frozenset[Seam]]) -> None:
    """Say which of them serve in this process, which may be settled when that is asked."""
    global _serving
    _serving = ours


def serving() -> frozenset[Seam]:
    """Those that serve in this process, once its ranks are there; none of SGLang's own."""
    return _serving()


def spelled(wanted: frozenset[Seam]) -> str:
    """In one way, whatever was written: `off`, `on`, or the seams in their order."""
    rest = [seam for seam in ALL if seam in wanted]
    if wanted >= set(ON):
        return ",".join(["on", *(seam for seam in rest if seam not in ON)])
    return ",".join(rest) or "off"


def is_auto(text: str | None) -> bool:
    """Whether the variable asks only for what was proved (seams/proved.py)."""
    return (text or "").lower().strip(" ,").split(",")[0].strip() == AUTO


def parse(text: str | None, said: str = f"{SEAMS}=") -> frozenset[Seam]:
    """What the variable asks for; none for off and for nothing; of `auto`, what was proved
    somewhere or not.

    said: what stands before the text where it was said, for the message.

    Raises:
        UserError: it names something that is no seam.
    """
    words = [word.strip() for word in (text or "").lower().split(",") if word.strip()]
    if not words or words == ["off"]:
        return frozenset()
    known: dict[str, tuple[Seam, ...]] = {seam: (seam,) for seam in ALL}
    known["on"] = ON
    if words[0] == AUTO:
        known[AUTO] = ON
    unknown = [word for word in words if word not in known]
    if unknown:
        raise UserError(
            f"{said}{text}: {unknown[0]!r} is not one of on, off, {AUTO} and the seams "
            f"{', '.join(ALL)}"
        )
    found = frozenset(seam for word in words for seam in known[word])
    lost = [seam for seam in WITHIN if seam in found and "cycle" not in found]
    if lost:
        raise UserError(f"{said}{text}: {lost[0]} is of cycles that are recorded: name cycle, too")
    return found
