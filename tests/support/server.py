"""Start a real server for a test session and take it down again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 240


@dataclass(frozen=True)
class Server:
    """A running server. log: everything that it printed."""

    url: str
    log: Path
    process: "subprocess.Popen[bytes]"

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def generate(server: Server, new_tokens: int, **prompt: Any) -> dict[str, Any]:
    """A greedy answer of exactly `new_tokens` tokens; prompt: `input_ids` or `text`."""
    sampling = {"max_new_tokens": new_tokens, "temperature": 0, "ignore_eos": True}
    body = {**prompt, "sampling_params": sampling}
    reply = httpx.post(f"{server.url}/generate", json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    log: Path,
    environment: dict[str, str] | None = None,
    start_seconds: int = START_SECONDS,
) -> Iterator[Server]:
    """The command's server, healthy; it and its children are killed at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", log, process)
    try:
        _wait(server, start_seconds)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(server: Server, start_seconds: int) -> None:
    end = time.monotonic() + start_seconds
    while time.monotonic() < end:
        assert server.process.poll() is None, server.printed()[-4000:]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.3)
    raise AssertionError(f"not healthy after {start_seconds} s\n{server.printed()[-4000:]}")
