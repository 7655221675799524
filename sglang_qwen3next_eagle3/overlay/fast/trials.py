"""What is written and was not found to be faster: off unless one environment variable names it.

Importing this loads neither torch nor sglang, so that a launcher can check a spelling.
"""

import os
from typing import Final, Literal, get_args

from sglang_qwen3next_eagle3.base.errors import UserError

TRY: Final = "SGLANG_QWEN3NEXT_EAGLE3_FAST_TRY"
"""Trials joined by commas; none without it. Read where kernels are launched into a graph."""
Trial = Literal["rows", "wide"]
TRIALS: Final[tuple[Trial, ...]] = get_args(Trial)
"""rows: `dense` and `moe` up to 64 rows instead of 32, with FP8 weights on one GPU. wide: of 17 to
32 rows, large fp8 weights go through shared memory (`wide_gemm`), which gives a row other bits."""


def parse(text: str | None) -> frozenset[Trial]:
    """What the variable asks for. Raises UserError: it names something that is no trial."""
    words = [word.strip() for word in (text or "").lower().split(",") if word.strip()]
    known = {trial: trial for trial in TRIALS}
    unknown = [word for word in words if word not in known]
    if unknown:
        raise UserError(f"{TRY}={text}: {unknown[0]!r} is not one of {', '.join(TRIALS)}")
    return frozenset(known[word] for word in words)  # type: ignore[index]


def spelled(wanted: frozenset[Trial]) -> str:
    """In one way, whatever was written: `off`, or the trials in their order."""
    return ",".join(trial for trial in TRIALS if trial in wanted) or "off"


def tries(trial: Trial) -> bool:
    """Whether this process is to try it. Raises UserError as `parse` does."""
    return trial in parse(os.environ.get(TRY))
