"""A folder that another process holds."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base import workfolder
from sglang_qwen3next_eagle3.base.errors import UserError


def hold(path: Path) -> "subprocess.Popen[str]":
    """Another process that holds the lock until it is ended."""
    code = (
        "import pathlib, sys, time\n"
        "from sglang_qwen3next_eagle3.base import workfolder\n"
        "with workfolder.lock(pathlib.Path(sys.argv[1]), 'busy'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("name", ["", "lock"], ids=["folder", "file"])
def test_another_process_keeps_it_until_it_is_gone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    process = hold(path)
    try:
        for shared in (False, True):
            with (
                pytest.raises(UserError, match="somebody is at it"),
                workfolder.lock(path, "somebody is at it", shared=shared),
            ):
                pass
    finally:
        process.kill()
        process.wait()
    with workfolder.lock(path, "somebody is at it"):
        pass


def test_one_that_is_about_to_let_go_is_waited_for(tmp_path: Path) -> None:
    process = hold(tmp_path)
    threading.Timer(0.5, process.kill).start()
    begun = time.monotonic()
    with workfolder.lock(tmp_path, "busy", wait_seconds=30):
        assert time.monotonic() - begun < 25
    process.wait()


def test_a_child_that_inherited_the_lock_keeps_it(tmp_path: Path) -> None:
    with workfolder.lock(tmp_path, "busy") as handle:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[handle])
    try:
        with pytest.raises(UserError, match="busy"), workfolder.lock(tmp_path, "busy"):
            pass
    finally:
        child.kill()
        child.wait()
    with workfolder.lock(tmp_path, "busy"):
        pass
