"""The process that compiles what the first prefill needs, begun as a server begins it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import os, sys
from unittest.mock import MagicMock
sys.modules['torch'] = MagicMock()
sys.modules['deep_gemm'] = MagicMock()
from sglang_qwen3next_eagle3.overlay.fast import prefill_products
prefill_products.multiply = lambda *shape: os.system('echo nvcc says something')
prefill_products.main()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "run.py").write_text(SCRIPT)
    return tmp_path / "run.py"


def run(script: Path, **other: Any) -> "subprocess.Popen[str]":
    job = {"shape": [128, 128], "device": 0, "begun": 0.0, "parent": os.getpid(), **other}
    return subprocess.Popen(
        [sys.executable, str(script), json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def test_its_answer_is_not_disturbed_by_what_compilers_print(script: Path) -> None:
    process = run(script)
    said, _ = process.communicate(timeout=120)
    assert json.loads(said)["compiled"] == 2
    assert process.returncode == 0


def test_it_does_not_outlive_who_asked_for_it(script: Path) -> None:
    """Its parent was gone before it could ask to end with it."""
    process = run(script, parent=os.getppid())
    said, _ = process.communicate(timeout=120)
    assert (said, process.returncode) == ("", 1)
