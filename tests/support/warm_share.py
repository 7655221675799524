"""What a process of tests/gpu/check_kernels.py that only compiles would launch: nothing. Needs no
GPU: kernels are neither compiled nor launched here. Prints, as JSON, the names of those that are
asked to be compiled and of those that would be launched.

    python -m tests.support.warm_share
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import triton
from triton.runtime.jit import JITFunction

from sglang_qwen3next_eagle3.overlay.fast.kernels import experts
from tests.support.compile_fast import H100

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))


def main() -> None:
    names: dict[bool, set[str]] = {True: set(), False: set()}

    def noted(kernel: Any, *_: Any, grid: Any, warmup: bool, **options: Any) -> None:
        names[warmup].add(kernel.fn.__name__)

    triton.runtime.driver.set_active(H100())
    JITFunction.run = noted
    experts._multiprocessors = lambda device: 132
    importlib.import_module("check_kernels").compile_share(0, 1)
    print(json.dumps({"compiled": sorted(names[True]), "launched": sorted(names[False])}))


if __name__ == "__main__":
    main()
