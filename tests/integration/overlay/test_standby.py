"""Processes that have imported before are what multiprocessing would have started: real ones, each
compared to a fresh one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.processes import child
from tests.support.processes import gone, wait_for

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "tests.support.standby_server", "launch"]
BEFORE, ANEW = "was imported before", "imports anew"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are none elsewhere")


def served(tmp_path: Path, **spec: Any) -> tuple[dict[str, Any], str]:
    """What the server printed, and what else was."""
    spec = {"begun": 1, "starts": [["tell", "x"]], **spec}
    done = subprocess.run(
        [*COMMAND, json.dumps(spec)], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_it_is_what_a_fresh_one_is(tmp_path: Path) -> None:
    environment = {"SGLANG_LATER": "1", "NCCL_LATER": "\u00e4", "CUDA_MODULE_LOADING": "AUTO"}
    told, said = served(
        tmp_path, starts=[["tell", [1, "x"]], ["tell", [1, "x"]]], environment=environment,
        umask=0o027,
    )  # fmt: skip
    taken, fresh = told["started"]
    assert [taken["pid"]] == told["begun"]
    assert said.count(BEFORE) == 1
    assert ANEW not in said
    first, second = taken["told"][0], fresh["told"][0]
    assert first == second
    assert first["given"] == [1, "x"]
    assert first["parent"] == [told["pid"], told["pid"]]
    assert first["environment"].items() >= environment.items()
    assert first["environment"]["SET_AT_IMPORT"] == "here"
    assert first["umask"] == 0o027
    assert first["main"] == "__mp_main__"
    assert first["tracked"]
    assert taken["status"] == fresh["status"] == 0
    assert taken["heard"]


def test_each_is_taken_once_and_then_fresh_ones_are_started(tmp_path: Path) -> None:
    told, said = served(tmp_path, begun=2, starts=[["tell", n] for n in range(3)])
    assert [one["pid"] for one in told["started"]][:2] == told["begun"]
    assert [one["told"][0]["given"] for one in told["started"]] == [0, 1, 2]
    assert said.count(BEFORE) == 2


@pytest.mark.parametrize(("slow", "sleeps"), [(3.0, 0.0), (0.0, 5.0)])
def test_it_is_taken_while_it_still_imports_or_long_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: float, sleeps: float
) -> None:
    monkeypatch.setenv("SLOW_TO_IMPORT", str(slow))
    told, said = served(tmp_path, sleeps=sleeps)
    assert BEFORE in said
    waited = told["started"][0]["told"][1]
    assert waited > 0.5 if sleeps else waited < 0.5


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD_NOT", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SGLANG_READ_AT_IMPORT"]
)
def test_it_imports_anew_where_a_variable_was_read_before(tmp_path: Path, name: str) -> None:
    told, said = served(tmp_path, environment={name: "7"}, starts=[["tell", 1], ["tell", 1]])
    first, second = (one["told"][0] for one in told["started"])
    assert f"{ANEW}, for what has imported is not taken: {name}" in said
    assert BEFORE not in said
    assert first == second
    assert first["environment"][name] == "7"
    assert told["started"][0]["pid"] == told["begun"][0], "in its place"
    assert told["started"][0]["status"] == 0


def test_another_executable_is_what_runs(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    told, said = served(tmp_path, executable=str(script))
    assert f"what has imported is not taken: it is to be run by {script}" in said
    assert told["started"][0]["pid"] not in told["begun"]
    assert told["started"][0]["status"] == 0


def test_where_it_has_ended_a_fresh_one_is_started(tmp_path: Path) -> None:
    told, said = served(tmp_path, kills=True)
    assert "what has imported is not taken: it has ended" in said
    assert told["started"][0]["told"][0]["given"] == "x"


@pytest.mark.parametrize(("function", "given", "status"), [("end", 3, 3), ("fail", "why", 1)])
def test_its_status_is_its_own(tmp_path: Path, function: str, given: Any, status: int) -> None:
    told, said = served(tmp_path, starts=[[function, given]])
    (one,) = told["started"]
    assert [one["pid"], one["status"], one["heard"]] == [told["begun"][0], status, True]
    assert ("ValueError: why" in said) == (function == "fail")


def test_it_is_ended_by_its_server(tmp_path: Path) -> None:
    told, _ = served(tmp_path, starts=[["wait", 600.0]])
    assert told["started"][0]["status"] == -15


def test_those_that_nobody_takes_end_with_the_server(tmp_path: Path) -> None:
    told, said = served(tmp_path, begun=2, ends=True)
    assert len(told["begun"]) == 2
    assert all(gone(pid) for pid in told["begun"])
    assert said == ""


def test_whoever_asks_when_it_has_given_up_is_told_so() -> None:
    """And starts a fresh one. It would wait for a quarter of an hour."""
    code = "from sglang_qwen3next_eagle3.overlay.standby import process; {}; process.main()"
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull) as number:
        fds = theirs.fileno(), number.fileno()
        words = [sys.executable, "-c", code.format("process._WAIT_SECONDS = 0.1")]
        ended = subprocess.run([*words, *map(str, fds), "json"], pass_fds=fds, cwd=ROOT, timeout=60)
        assert ended.returncode == 0
        with pytest.raises(BrokenPipeError):
            ours.send(b".")


def test_they_end_with_a_server_that_is_killed(tmp_path: Path) -> None:
    spec = json.dumps({"begun": 2, "starts": [["tell", 1]], "sleeps": 600.0})
    with child([*COMMAND, spec], tmp_path / "log") as started:
        children = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children")
        wait_for(lambda: len(children.read_text().split()) == 2)
        pids = list(map(int, children.read_text().split()))
        started.process.kill()
        started.process.wait()
        assert all(gone(pid) for pid in pids)
