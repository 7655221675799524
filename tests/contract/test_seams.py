"""The seams of a cycle give what the installed SGLang's own functions give."""

import os
import subprocess
import sys
from pathlib import Path

from sglang_qwen3next_eagle3.overlay import contract
from tests.support.parts import needs

ROOT = Path(__file__).parents[2]
OWN = {"0.5.17": set[str](), "0.5.23": {"commit"}}
"""The seams of a release that are SGLang's own there."""
CHECKED = {
    "commit": "60 batches",
    "relay": "6 batches",
    "metadata": "8 batches",
    "chain": "24 batches",
    "slots": "18 batches",
}


@needs("seams")
def test_seams_give_what_sglang_gives() -> None:
    command = [sys.executable, "-m", "tests.support.check_seams"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = dict(line.split(": ") for line in ended.stdout.splitlines() if ": " in line)
    installed = contract.installed_sglang()
    assert installed is not None
    assert lines.pop("requests").startswith("600 turns, ")
    left = OWN[installed.release]
    assert lines == {name: said for name, said in CHECKED.items() if name not in left}
