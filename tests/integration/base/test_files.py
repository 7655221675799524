"""A write whose process is killed."""

import signal
import subprocess
import sys
from pathlib import Path

from sglang_qwen3next_eagle3.base import files


def test_a_write_that_is_killed_leaves_the_old_file_and_its_rest_counts_for_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": True})
    killed = (
        "import os, pathlib, sys\n"
        "from sglang_qwen3next_eagle3.base import files\n"
        "with files.replacing(pathlib.Path(sys.argv[1])) as beside:\n"
        "    beside.write_text('{\"half')\n"
        f"    os.kill(os.getpid(), {signal.SIGKILL})\n"
    )
    done = subprocess.run([sys.executable, "-c", killed, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert files.read_json(path, "") == {"old": True}
    (rest,) = set(tmp_path.iterdir()) - {path}
    assert files.is_unfinished(rest)
    assert not files.is_unfinished(path)
    assert list(tmp_path.glob("*.json")) == [path]
