"""However a server is ended, nothing of it is left."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.processes import child
from tests.support.server import START_SECONDS, free_port


def group(leader: int) -> dict[int, str]:
    """The processes of a group, with their command lines; those that have ended are left out."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader and fields[0] != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def wait_until_there_are(leader: int, count: int, seconds: float) -> dict[int, str]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = group(leader)
        if (len(found) >= count) if count else not found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{found}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_ended_while_it_loads_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:

    command = [sys.executable, "-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo"]
    with child([*command, "--port", str(free_port())], tmp_path / "log") as started:
        leader = started.process.pid
        # The server, the resource tracker of its processes, the scheduler and the detokenizer.
        wait_until_there_are(leader, 3, START_SECONDS)
        os.kill(leader, number)
        started.process.wait(60)
        wait_until_there_are(leader, 0, 60)
