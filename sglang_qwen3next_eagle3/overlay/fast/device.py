"""What the kernels of the fast path have to know about where they run.

Importing this imports triton, so that `TRITON_INTERPRET=1` must stand in the environment before.
"""

import os
from typing import Final

import triton
import triton.language as tl

MAX_ROWS: Final = 32
"""Rows (requests times draft tokens) up to which a pass may take the fast path."""

INTERPRETED: Final[bool] = bool(triton.knobs.runtime.interpret)
"""Whether kernels run on the CPU in Triton's interpreter."""

DOT_DTYPE: Final = tl.float32 if INTERPRETED else tl.bfloat16
"""What bf16 operands of `tl.dot` are converted to: the interpreter multiplies bf16 as integers."""

PDL_ENVIRONMENT: Final = "SGLANG_QWEN3NEXT_EAGLE3_FAST_PDL"
"""`0` turns programmatic dependent launch off. The results must not depend on it."""


def dependent_launch() -> bool:
    """Whether a kernel starts before its predecessor in the stream has ended (PDL).

    The `PDL: tl.constexpr` of every kernel. With it a kernel executes `gdc_wait()` before it reads
    anything that an earlier kernel of the pass wrote, and before it writes anything at all; only
    weights may be read ahead of it. Every kernel waits, needed or not: otherwise its successor
    would not be ordered behind its predecessor.
    """
    return not INTERPRETED and os.environ.get(PDL_ENVIRONMENT, "1") != "0"


def launch_options() -> dict[str, bool]:
    """Keyword arguments for every launch, beside `num_warps` and the like."""
    return {"launch_pdl": True} if dependent_launch() else {}
