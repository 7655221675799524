"""However a server is ended, nothing of it is left."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.processes import child
from tests.support.processes import marked, wait_for
from tests.support.server import PATIENCE, START_SECONDS, free_port

pytestmark = pytest.mark.cold


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
        started.process.wait(PATIENCE)
        wait_until_there_are(leader, 0, PATIENCE)


def test_a_demo_whose_scheduler_dies_ends_and_its_server_told_nobody_its_key(
    tmp_path: Path,
) -> None:
    """A server without its scheduler ends itself, with the status of SIGKILL, which a supervisor
    takes for a failure."""
    mark, key = f"ENDS_MARK={tmp_path}", "cAnArY9"
    command = ["-m", "sglang_qwen3next_eagle3", "demo", "--serve", "--", f"--api-key={key}"]
    environment = {"ENDS_MARK": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with child([sys.executable, *command], tmp_path / "log", environment=environment) as started:
        wait_for(
            lambda: (
                "Ctrl-C stops it." in (tmp_path / "log").read_text() or started.ended() is not None
            ),
            START_SECONDS,
        )
        running = marked(mark)
        assert not any(key in words for words in running.values())
        assert any("--api-key=*******" in words for words in running.values())
        (server,) = [pid for pid, words in running.items() if "sglang.launch_server" in words]
        (scheduler,) = [pid for pid, words in group(server).items() if "sglang::sched" in words]
        os.kill(scheduler, signal.SIGKILL)
        assert started.process.wait(PATIENCE) == 2
        wait_for(lambda: not marked(mark) and not group(server), PATIENCE)
    said = (tmp_path / "log").read_text()
    assert "the server ended: SIGKILL" in said
    assert "crashed with exit code -9" in said
    assert key not in said
    (folder,) = tmp_path.glob("sglang-qwen3next-eagle3-*")
    assert key not in (folder / "server.log").read_text()
