"""Which parts of a pass the fast path takes over, as one environment variable spells them.

Importing this loads neither torch nor sglang, so that a launcher can check a spelling.
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.environment import FAST
from sglang_qwen3next_eagle3.overlay.proofs import AUTO

Stage = Literal["dense", "moe", "gdn", "attention", "lm_head", "head", "head_w8", "allreduce"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
"""dense: norms, quantization and the projections. moe: router and experts. gdn: the Gated DeltaNet
between its projections, and the commit of accepted drafts. attention: full attention between its
projections. lm_head: the logits. head: the EAGLE3 head, whole. head_w8: the head with its weights
in 8 bits; it includes `head`. allreduce: of several ranks, the sum of their parts in one launch
with the norm behind it, where `moe` and `dense` are ours. What is not taken is stock's."""
OF_HEAD: Final[frozenset[Stage]] = frozenset({"head", "head_w8"})
NAMED: Final[frozenset[Stage]] = OF_HEAD | {"allreduce"}
"""What only some servers can have: those with an EAGLE3 head, those with several ranks."""
OF_TARGET: Final[tuple[Stage, ...]] = tuple(stage for stage in STAGES if stage not in NAMED)
"""Those that `on`, `require` and `auto` stand for; the others have to be named."""
RANKS: Final = (1, 2, 4)
"""Ranks of tensor parallelism over which the published shapes divide: experts of 512 in FP8 blocks
of 128; two key and value heads, which four ranks have twice."""
PATH: Final = "_qwen3next_eagle3_fast"
"""Under this name every decoder layer of a prepared target, its backend and its lm_head find the
`FastPath`; the draft's layers of the same class have none."""
PREFILLS: Final = "_qwen3next_eagle3_prefills"
"""Under this name a `ModelRunner` has the process that compiles for its prefills."""
COMPILERS: Final = "_qwen3next_eagle3_compilers"
"""And under this one those that compile kernels for its check and its captures."""
HEAD: Final = "_qwen3next_eagle3_fast_head"
"""Under this name a prepared head finds its `FastHead`."""


@dataclass(frozen=True)
class Wanted:
    """stages: what to take over. required: refuse to serve where one of them cannot be, but for
    those that would not serve with so many draft tokens. auto: nobody asked for them, so they are
    taken over where that was proved (fast/proved.py)."""

    stages: frozenset[Stage]
    required: bool = False
    auto: bool = False

    @property
    def spelled(self) -> str:
        """In one way, whatever was written: `on`, and the stages in their order. Of `auto`, where
        all of them are proved."""
        rest: list[str] = [stage for stage in STAGES if stage in self.stages]
        if "head_w8" in rest and "head" in rest:
            rest.remove("head")
        if self.stages >= set(OF_TARGET):
            rest = ["on", *(stage for stage in rest if stage not in OF_TARGET)]
        return ",".join(rest)


def parse(text: str | None, said: str = f"{FAST}=") -> Wanted | None:
    """What the variable asks for; None for off and for nothing.

    said: what stands before the text where it was said, for the message.

    Raises:
        UserError: it names something that is no stage.
    """
    words = [word.strip() for word in (text or "").lower().split(",") if word.strip()]
    if not words or words == ["off"]:
        return None
    known: dict[str, tuple[Stage, ...]] = {stage: (stage,) for stage in STAGES}
    known["head_w8"] = ("head", "head_w8")
    if words[0] in ("on", "require", AUTO):
        known[words[0]] = OF_TARGET
    unknown = [word for word in words if word not in known]
    if unknown:
        raise UserError(
            f"{said}{text}: {unknown[0]!r} is not one of on, off, auto, require and the stages "
            f"{', '.join(STAGES)}"
        )
    stages = frozenset(stage for word in words for stage in known[word])
    return Wanted(stages, required=words[0] == "require", auto=words[0] == AUTO)


def without_head(text: str) -> str:
    """What was asked for, as a server without a head takes it."""
    words = [word.strip().lower() for word in text.split(",")]
    return ",".join(word for word in words if word not in OF_HEAD) or "off"
