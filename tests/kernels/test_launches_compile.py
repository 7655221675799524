"""Every kernel compiles for a GPU as it is launched: the interpreter accepts more than that."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

from sglang_qwen3next_eagle3.overlay.fast import kernels

ROOT = Path(__file__).parents[2]


def launched() -> set[str]:
    """Names of the kernels that a launcher in kernels/ launches: `name[grid](...)`."""
    names = set()
    for path in Path(kernels.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Subscript(value=ast.Name(id=name))):
                    names.add(name)
    return names


def test_every_kernel_that_is_launched_compiles_for_sm_90() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    script = ROOT / "tests" / "support" / "compile_fast.py"
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(json.loads(done.stdout.splitlines()[-1])) == launched()
