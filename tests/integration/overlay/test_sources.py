"""The digests of what is proved, as a command."""

import shutil
import subprocess
import sys
from pathlib import Path

import sglang_qwen3next_eagle3
from sglang_qwen3next_eagle3.overlay import sources
from sglang_qwen3next_eagle3.overlay.fast import proved as of_fast
from sglang_qwen3next_eagle3.overlay.seams import proved as of_seams

PACKAGE = Path(sglang_qwen3next_eagle3.__file__).parent


def test_the_command_tells_the_digests_of_a_checkout(tmp_path: Path) -> None:
    """By a process, which has what is imported first to find: neither torch nor SGLang."""
    shutil.copytree(PACKAGE / "overlay" / "seams", tmp_path / "overlay" / "seams")
    (tmp_path / "overlay" / "seams" / "kernels.py").write_text("ROWS = 1\n")

    def told(*words: str) -> list[str]:
        command = [sys.executable, "-m", sources.__name__, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    here, there = told(), told(str(tmp_path))
    assert f"fast: {of_fast.code().told}" in here
    assert f"seams: {of_seams.code().told}" in here
    assert "fast: without its source" in there
    other = sources.digest(tmp_path / "overlay" / "seams", of_seams.APART)
    assert f"seams: {other}" in there
    assert other != of_seams.code().digest
