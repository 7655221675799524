"""A server whose scheduler and detokenizer have imported before, started as a GPU's are."""

import os
import signal
import sys
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.processes import child
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.overlay.environment import STANDBY
from tests.support.demo_server import captures
from tests.support.processes import gone, marked, wait_for
from tests.support.server import PATIENCE, Server, free_port, generate, running

SPAWNED = Path(__file__).parents[1] / "support" / "spawned"
TAKEN = "sglang-qwen3next-eagle3: {} was imported before"
MODULES = ("sglang.srt.managers.scheduler", "sglang.srt.managers.detokenizer_manager")


def children_of(pid: int) -> dict[int, str]:
    """With their command lines, or the titles that they have given themselves."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    words = {int(each): Path(f"/proc/{each}/cmdline").read_text() for each in pids}
    return {each: said.replace("\0", " ") for each, said in words.items()}


@pytest.mark.cold
def test_a_server_of_processes_that_imported_before(tmp_path: Path, tree_server: Server) -> None:
    port = free_port()
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--port", str(port)]
    path = [str(SPAWNED), *filter(None, [os.environ.get("PYTHONPATH")])]
    # One more than there are schedulers, which goes when all are started.
    told = {STANDBY: "2", "PYTHONPATH": os.pathsep.join(path)}
    with running(command, port, tmp_path / "log", told) as server:
        prompt = {"text": "Write a Python function to merge two sorted lists."}
        answer, ordinary = (generate(each, 48, **prompt) for each in (server, tree_server))
        assert answer["text"] == ordinary["text"]
        assert answer["meta_info"]["spec_verify_ct"] == ordinary["meta_info"]["spec_verify_ct"]
        said = server.printed()
        assert [said.count(TAKEN.format(module)) for module in MODULES] == [1, 1]
        assert "imports anew" not in said
        assert captures(server) == [f"output:3,7,11, source: {ENVIRONMENT_VARIABLE}"]
        begun = "overlay.standby"
        wait_for(lambda: begun not in " ".join(children_of(server.process.pid).values()))
        children = children_of(server.process.pid)
        # A zombie has no command line.
        assert all(children.values())
        for title in ("sglang::scheduler", "sglang::detokenizer"):
            assert sum(title in words for words in children.values()) == 1
        os.kill(server.process.pid, signal.SIGTERM)
        server.process.wait(PATIENCE)
        assert all(gone(pid) for pid in children)


@pytest.mark.cold
def test_processes_that_nobody_took_end_with_a_server_that_is_ended(tmp_path: Path) -> None:
    """While it imports, and they do."""
    mark = f"STANDBY_MARK={tmp_path}"
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo"]
    told = {STANDBY: "2", "STANDBY_MARK": str(tmp_path)}
    words = [sys.executable, *command, "--port", str(free_port())]
    with child(words, tmp_path / "log", environment=told) as started:
        begun = "overlay.standby"
        wait_for(lambda: [begun in words for words in marked(mark).values()].count(True) == 3)
        os.kill(started.process.pid, signal.SIGTERM)
        started.process.wait(PATIENCE)
        wait_for(lambda: not marked(mark), PATIENCE)
