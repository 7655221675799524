"""A launcher and a server for the tests of overlay/standby, without SGLang.

    python -m tests.support.standby_server launch SPEC

SPEC is JSON: `begun`, how many processes import beside; `starts`, what is started then, each as
[function of standby_work, its argument]; `environment`, what is set before that; `ends`, whether
the server ends before it starts anything; `executable`, by which Python is to run it; `kills`,
whether what waits is killed before; `umask`. The server prints JSON.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import spawn
from multiprocessing.connection import wait
from typing import Any

from sglang_qwen3next_eagle3.overlay.standby import begin, launcher, take
from tests.support import standby_work

MODULE = standby_work.__name__


def launch(spec: dict[str, Any]) -> None:
    words = [sys.executable, "-m", "tests.support.standby_server", "serve", json.dumps(spec)]
    told = begin(sys.executable, [[MODULE]] * spec["begun"], os.environ)
    os.execve(words[0], words, {**os.environ, **told})


def serve(spec: dict[str, Any]) -> None:
    launcher.raise_limits()  # as SGLang does, and:
    told = json.loads(os.environ.get(launcher.PROCESSES, "{}")).get("processes", [])
    begun = [pid for pid, _, _ in told]
    if spec.get("ends"):
        print(json.dumps({"begun": begun}), flush=True)
        os._exit(0)
    take()
    # So that it has imported when it is asked.
    time.sleep(spec.get("sleeps", 0.0))
    if spec.get("kills"):
        for pid in begun:
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.environ.update(launcher.EXPECTED | spec.get("environment", {}))
    os.umask(spec.get("umask", 0o022))
    multiprocessing.set_start_method("spawn", force=True)
    if "executable" in spec:
        spawn.set_executable(spec["executable"])
    ended = [start(*one) for one in spec["starts"]]
    print(json.dumps({"begun": begun, "pid": os.getpid(), "started": ended}), flush=True)


def start(function: str, given: Any) -> dict[str, Any]:
    reader, writer = multiprocessing.Pipe(duplex=False)
    target = getattr(standby_work, function)
    process = multiprocessing.Process(target=target, args=(writer, given))
    process.start()
    writer.close()
    told: list[Any] = []
    with contextlib.suppress(EOFError):
        while function != "wait" or not told:
            told.append(reader.recv())
    if function == "wait":
        assert process.is_alive()
        process.terminate()
    heard = bool(wait([process.sentinel], 30))
    process.join(30)
    return {"pid": process.pid, "told": told, "heard": heard, "status": process.exitcode}


if __name__ == "__main__":
    {"launch": launch, "serve": serve}[sys.argv[1]](json.loads(sys.argv[2]))
