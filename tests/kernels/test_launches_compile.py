"""Every kernel compiles for a GPU as it is launched: the interpreter accepts more than that."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def printed_by(module: str) -> Any:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    command = [sys.executable, "-m", f"tests.support.{module}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_kernel_that_is_launched_compiles_for_sm_90() -> None:
    assert set(printed_by("compile_fast")) == launched()


def test_what_only_compiles_for_the_replays_launches_nothing() -> None:
    """Its operands are of one element, and what its launches would read was never written."""
    found = printed_by("warm_share")
    assert found["launched"] == []
    assert {"_choose_row", "_gdn_nodes", "_gdn_verify", "_gdn_decode"} < set(found["compiled"])
