"""A kernel of a module that decides by the GPU that it sees, as some of SGLang's do."""

import os
from typing import Any

import triton
import triton.language as tl


def jit(function: Any) -> Any:
    return triton.jit(function)


SEES_A_GPU = tl.constexpr(os.environ.get("CUDA_VISIBLE_DEVICES") != "")


@jit
def called(x, N: tl.constexpr):  # type: ignore[no-untyped-def]
    if SEES_A_GPU:
        tl.store(x + tl.arange(0, N), 1.0)
    else:
        tl.store(x + tl.arange(0, N), 2.0)


@jit
def decided(x, N: tl.constexpr):  # type: ignore[no-untyped-def]
    called(x, N)
