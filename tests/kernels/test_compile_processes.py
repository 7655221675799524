"""Kernels that other processes compile are those of a launch, to the bit, and are found by it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def begun(*words: str) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    command = [sys.executable, "-m", "tests.support.compile_by_processes", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def said_by(process: "subprocess.Popen[str]") -> Any:
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def test_processes_compile_what_a_launch_finds(tmp_path: Path) -> None:
    folders = [tmp_path / "processes", tmp_path / "here"]
    said, here = map(said_by, [begun(str(folders[0])), begun(str(folders[1]), "here")])
    # Those of the attention, of which one has a setting of the compiler, a norm and a tree's paths.
    assert said["in a setting"] == "_scores"
    there, compiled, in_server = said["ready"]
    assert (there, len(compiled), in_server, said["cached"]) == (0, 5, 0, [True] * 5)
    assert "_scores" in compiled
    assert min(said["seconds"]) > 0.05
    # This process has compiled nothing of it, nor do the launches.
    assert said["found"][:5] == [True] * 5
    assert said["found at launch"] == [True]
    # One whose module decided otherwise in the process that compiles, since that sees no GPU.
    assert said["decided"] == [["decided"], 0]
    # What another process cannot find is compiled by threads.
    assert (said["told"], said["untold ready"]) == ([False, False], [0, 0, 2])
    assert said["found"][5:] == [False] * 2
    assert len(said["in cache"]) == 8
    assert said["in cache"] == here["in cache"]
    # Nothing is compiled that is not what was asked for.
    assert said["unlike"] == [0, False, {}]
    assert said["of dead ones"] == [0, True]
    # Another server finds them all, those that no process can be told as well.
    again = said_by(begun(str(folders[0])))
    assert (again["ready"], again["untold ready"]) == ([5, [], 0], [2, 0, 0])


def test_they_end_with_the_process_that_began_them(tmp_path: Path) -> None:
    process = begun(str(tmp_path), "begin")
    assert process.stdout is not None
    ids = json.loads(process.stdout.readline())
    assert all(Path(f"/proc/{one}").exists() for one in ids)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 300
    while any(alive(one) for one in ids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(one) for one in ids)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
