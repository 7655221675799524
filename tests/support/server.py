"""Start a real server for a test session and take it down again."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sglang_qwen3next_eagle3.base.errors import ServerFailed
from sglang_qwen3next_eagle3.base.processes import Child, ending, free_port, healthy

__all__ = ["PATIENCE", "Server", "free_port", "generate", "running"]

START_SECONDS = 600
"""Half a minute on an idle machine, ten times that on a busy one."""
PATIENCE = 600
"""Seconds for an answer: what takes longer hangs, however busy the machine is."""


@dataclass(frozen=True)
class Server:
    """A running server. log: everything that it printed."""

    url: str
    log: Path
    process: "subprocess.Popen[bytes]"

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def last_words(self, lines: int = 80) -> str | None:
        """How it ended and the end of its log, the answered requests aside; None while it runs."""
        try:
            # A server that broke a connection a moment ago may still be about to end.
            status = self.process.wait(8)
        except subprocess.TimeoutExpired:
            return None
        said = [line for line in self.printed().splitlines() if "HTTP/1.1" not in line]
        return "\n".join([f"The server ended: {ending(status)}. Its log:", *said[-lines:]])


def generate(server: Server, new_tokens: int, **prompt: Any) -> dict[str, Any]:
    """A greedy answer of exactly `new_tokens` tokens; prompt: `input_ids` or `text`."""
    sampling = {"max_new_tokens": new_tokens, "temperature": 0, "ignore_eos": True}
    body = {**prompt, "sampling_params": sampling}
    reply = httpx.post(f"{server.url}/generate", json=body, timeout=PATIENCE)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    log: Path,
    environment: dict[str, str] | None = None,
    start_seconds: int = START_SECONDS,
) -> Iterator[Server]:
    """The command's server, healthy; it and its children are killed with the block.

    How a server ends by itself has tests of its own; SGLang takes up to five seconds, and longer
    while it thinks that requests are running.
    """
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        started = Child.start([sys.executable, *command], log, environment=environment)
        stack.callback(started.stop, 0.0)
        server = Server(url, log, started.process)
        try:
            started.wait_until(lambda: started.listens(port) and healthy(url), start_seconds)
        except ServerFailed as error:
            raise AssertionError(f"{error}\n{server.printed()[-4000:]}") from None
        yield server
