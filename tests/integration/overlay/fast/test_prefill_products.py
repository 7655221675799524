"""The process that compiles what the first prefill needs, begun as a server begins it."""

import json
import subprocess
import sys
from pathlib import Path


def test_a_process_says_what_it_compiled_and_is_not_disturbed_by_what_compilers_print(
    tmp_path: Path,
) -> None:
    """A process as a server begins it, on a machine without a GPU: its answer is the only line."""
    job = {"shapes": [[128, 128]], "device": 0, "done": str(tmp_path / "done"), "begun": 0.0}
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\n"
        "from unittest.mock import MagicMock\n"
        "sys.modules['torch'] = MagicMock()\n"
        "from sglang_qwen3next_eagle3.overlay.fast import prefill_products\n"
        "prefill_products.multiply = lambda *shape: os.system('echo nvcc says something')\n"
        "prefill_products.main()\n"
    )
    command = [sys.executable, str(script), json.dumps(job)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    said, _ = process.communicate(timeout=120)
    assert said.startswith("2 of 2 compiled in ")
    assert said.count("\n") == 1
    assert (tmp_path / "done").exists()
