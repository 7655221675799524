"""The process of one SGLang rank: how it is started, and what it says when it ends."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from sglang_qwen3next_eagle3.overlay.cpu_engine import ENVIRONMENT, SHIM_DIR
from sglang_qwen3next_eagle3.overlay.prefill import rank as prefill_rank
from sglang_qwen3next_eagle3.overlay.prefill.wire import Channel


def start(log: Path, cpu_engine: bool) -> tuple[subprocess.Popen[bytes], Channel]:
    """A process that runs `prefill_rank.main`, and our end of its socket. log: of its output."""
    ours, theirs = socket.socketpair()
    environment = dict(os.environ)
    if cpu_engine:
        path = [str(SHIM_DIR), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment |= {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path)}
        # Threads of models this small wait for each other.
        environment.setdefault("OMP_NUM_THREADS", "1")
    # Not -m: its classes would be those of a module __main__, which messages cannot name.
    code = f"from {prefill_rank.__name__} import main; main()"
    command = [sys.executable, "-c", code, str(theirs.fileno())]
    with theirs, log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the caller, who then hangs up.
        )
    return process, Channel(ours)


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    """For people, once its socket is closed."""
    try:
        status = process.wait(10)
    except subprocess.TimeoutExpired:
        return "it hung up"
    if status >= 0:
        return f"it ended with status {status}"
    name = signal.Signals(-status).name
    return f"{name}, out of memory?" if name == "SIGKILL" else name


def last_line(log: Path) -> str:
    """The last thing in a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def temporary_log() -> Path:
    """A new empty file."""
    handle, name = tempfile.mkstemp(prefix="sglang-prefill-", suffix=".log")
    os.close(handle)
    return Path(name)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
