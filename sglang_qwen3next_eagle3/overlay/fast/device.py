"""What the kernels of the fast path have to know about where they run.

Importing this imports triton, so that `TRITON_INTERPRET=1` must stand in the environment before.
"""

import os
from typing import Final

import triton
import triton.language as tl

from sglang_qwen3next_eagle3.overlay.fast import sizes

MAX_ROWS: Final = sizes.MAX_ROWS

MOST_ROWS: Final = 64
"""Rows that the dense layers and the experts have room for."""

INTERPRETED: Final[bool] = bool(triton.knobs.runtime.interpret)
"""Whether kernels run on the CPU in Triton's interpreter."""

DOT_DTYPE: Final = tl.float32 if INTERPRETED else tl.bfloat16
"""What bf16 operands of `tl.dot` are converted to: the interpreter multiplies bf16 as integers."""

BF16_RUN: Final = 4 if triton.__version__.startswith("3.6.") else 2
"""How many columns in sequence Triton gives a thread of a bf16 operand of `tl.dot`: with 3.6 (of
SGLang 0.5.17) four where it has loaded eight, with 3.8 (0.5.23) two. With the other number results
are right, too, but operands change threads on their way (tests/kernels/test_compiles.py)."""

PDL_ENVIRONMENT: Final = "SGLANG_QWEN3NEXT_EAGLE3_FAST_PDL"
"""`0` turns programmatic dependent launch off. The results must not depend on it."""


def dependent_launch() -> bool:
    """Whether a kernel starts before its predecessor in the stream has ended (PDL).

    The `PDL: tl.constexpr` of every kernel. With it a kernel executes `gdc_wait()` before it reads
    anything that an earlier kernel of the pass wrote, and before it writes anything at all; only
    weights may be read ahead of it. Every kernel waits, needed or not: otherwise its successor
    would not be ordered behind its predecessor.

    One exception: `_down` (kernels/experts.py) reads ahead of its wait which experts were chosen.
    So `_gate_up`, two launches before it or one, must not start its dependents before its own wait,
    behind which all that chose have ended.
    """
    return not INTERPRETED and os.environ.get(PDL_ENVIRONMENT, "1") != "0"


def launch_options() -> dict[str, bool]:
    """Keyword arguments for every launch, beside `num_warps` and the like."""
    return {"launch_pdl": True} if dependent_launch() else {}


_INTERPRETED: Final = tl.constexpr(INTERPRETED)


@triton.jit
def to_bfloat16(x):
    """fp32 -> bf16, to the nearest even as on the GPU: the interpreter cuts the low bits off."""
    if _INTERPRETED:
        bits = x.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)
    return x.to(tl.bfloat16)


@triton.jit
def to_e4m3(x):
    """fp32 -> e4m3, to the nearest even and saturating, in the interpreter as on the GPU.

    The interpreter carries a mantissa that rounds up into the wrong exponent, hence the rounding
    to three bits beforehand. Below 2**-6 codes are multiples of 2**-9, which a sum with
    1.5 * 2**14 rounds to.
    """
    if _INTERPRETED:
        x = tl.clamp(x, -448.0, 448.0)
        bits = x.to(tl.int32, bitcast=True)
        rounded = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -1048576).to(tl.float32, bitcast=True)
        x = tl.where(tl.abs(x) < 0.015625, (x + 24576.0) - 24576.0, rounded)
    return x.to(tl.float8e4nv)
