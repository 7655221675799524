"""The seams of a cycle give what the installed SGLang's own functions give."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.parts import needs

ROOT = Path(__file__).parents[2]


@needs("seams")
def test_seams_give_what_sglang_gives() -> None:
    command = [sys.executable, "-m", "tests.support.check_seams"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = dict(line.split(": ") for line in ended.stdout.splitlines() if ": " in line)
    assert lines["commit"] == "60 batches"
    assert lines["relay"] == "6 batches"
    assert lines["metadata"] == "8 batches"
    assert lines["chain"] == "24 batches"
    assert lines["slots"] == "18 batches"
    assert lines["requests"].startswith("600 turns, ")
