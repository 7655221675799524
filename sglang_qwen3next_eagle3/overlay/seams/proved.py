"""Where seams are ours without being asked for: a line for each kind of server that was proved
(docs/fast-path.md says how).

Importing this loads neither torch nor sglang.
"""

from typing import Final

from sglang_qwen3next_eagle3.overlay import sources
from sglang_qwen3next_eagle3.overlay.proofs import Proof
from sglang_qwen3next_eagle3.overlay.seams.seams import ON

PROVED: Final[tuple[Proof, ...]] = (
    Proof(
        "0.5.17",
        (9, 0),
        1,
        ON,
        ("NVIDIA H200",),
        (
            "h200x2-auto/said.txt",
            "h200x2-auto/text-fast.json",
            "h200x2-auto/recorded.txt",
            "h200x2-auto/soak.json",
        ),
        code="08d779684170",
    ),
)
APART: Final = frozenset({"proved", "seams", "sizes"})
"""The modules that a proof is not of: they say which are on, where, and what
they take."""


def code() -> sources.Code:
    """What is launched and recorded, as it is installed."""
    return sources.installed("seams", APART)
