"""Every kernel compiles for a GPU as it is launched: the interpreter accepts more than that."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import sglang_qwen3next_eagle3

ROOT = Path(__file__).parents[2]
SEAMS = Path(sglang_qwen3next_eagle3.__file__).parent / "overlay" / "seams"
HELPERS = {"_largest"}
"""Called by kernels only."""


def jitted() -> set[str]:
    return {
        node.name
        for name in ("kernels.py", "chain_kernels.py")
        for node in ast.parse((SEAMS / name).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    } - HELPERS


def test_every_kernel_compiles_for_sm_90() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    command = [sys.executable, "-m", "tests.support.compile_seams"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=400, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(json.loads(done.stdout.splitlines()[-1])) == jitted()
