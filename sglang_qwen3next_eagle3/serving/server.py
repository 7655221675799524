"""The servers of a benchmark: started through our launcher, or one that already runs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.processes import end_with_parent

LAUNCHER = "sglang_qwen3next_eagle3.launch"
STOP_SECONDS = 30
FLUSH_SECONDS = 30
LOG_TAIL = 25


class ServerFailed(Exception):
    """A server that did not start, died or stalled. log_tail: the end of what it printed."""

    def __init__(self, message: str, log_tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.log_tail = tuple(log_tail)


@dataclass
class Server:
    """A server that answers. process: None if somebody else runs it."""

    url: str
    headers: dict[str, str]
    ready_seconds: float | None = None
    process: "subprocess.Popen[bytes] | None" = None
    log: Path | None = None

    def flush(self) -> None:
        """Empty its prefix cache. Raises ServerFailed."""
        end = time.monotonic() + FLUSH_SECONDS
        while True:
            reply = self._post("/flush_cache")
            # It refuses while a request is running, and the last one may just be ending.
            if reply.status_code == 200:
                return
            if time.monotonic() > end:
                raise ServerFailed(f"/flush_cache: HTTP {reply.status_code}", self.log_tail())
            time.sleep(0.2)

    def info(self) -> dict[str, Any]:
        """What SGLang says of itself at /server_info; empty if it does not."""
        with contextlib.suppress(httpx.HTTPError, ValueError):
            reply = _get(f"{self.url}/server_info", self.headers)
            found = reply.json() if reply.status_code == 200 else None
            return found if isinstance(found, dict) else {}
        return {}

    def check(self) -> None:
        """Raises ServerFailed: its process has ended."""
        if self.process is not None and (status := self.process.poll()) is not None:
            raise ServerFailed(f"the server ended: {_ending(status)}", self.log_tail())

    def log_tail(self) -> list[str]:
        return tail(self.log) if self.log is not None else []

    def _post(self, path: str) -> httpx.Response:
        try:
            return httpx.post(
                f"{self.url}{path}",
                headers=self.headers,
                timeout=FLUSH_SECONDS,
                trust_env=False,
            )
        except httpx.TransportError as error:
            self.check()
            raise ServerFailed(
                f"{path}: {error or type(error).__name__}", self.log_tail()
            ) from None


def tail(log: Path, lines: int = LOG_TAIL) -> list[str]:
    with log.open(encoding="utf-8", errors="replace") as stream:
        return [line.rstrip()[:400] for line in deque(stream, maxlen=lines)]


@contextlib.contextmanager
def started(
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    start_seconds: float,
    api_key: str | None = None,
) -> Iterator[Server]:
    """`python -m sglang_qwen3next_eagle3.launch WORDS`, healthy, on a free port of this machine.

    words: with `{port}` where its number belongs. It and its children are ended with the block.

    Raises:
        ServerFailed: it ends or is not healthy after `start_seconds`.
    """
    port = free_port()
    command = [sys.executable, "-m", LAUNCHER]
    command += [word.replace("{port}", str(port)) for word in words]
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    process: subprocess.Popen[bytes] | None = None
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C is for the benchmark, which then ends the server.
                preexec_fn=end_with_parent(),
            )
        headers = authorization(api_key)
        server = Server(f"http://127.0.0.1:{port}", headers, process=process, log=log)
        _wait(server, begun + start_seconds)
        server.ready_seconds = round(time.monotonic() - begun, 1)
        yield server
    finally:
        if process is not None:
            with _undisturbed():
                _stop(process)


@contextlib.contextmanager
def running(url: str, api_key: str | None) -> Iterator[Server]:
    """A server that somebody else started.

    Raises:
        UserError: it does not answer, or does not take the key.
    """
    headers = authorization(api_key)
    try:
        reply = _get(f"{url}/v1/models", headers)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise UserError(
            f"no server answers at {url} ({error}): start one, or mend --base-url"
        ) from None
    if reply.status_code in (401, 403):
        raise UserError(f"{url} wants a key: pass --api-key")
    if reply.status_code != 200:
        raise UserError(f"{url}/v1/models: HTTP {reply.status_code}: is it an SGLang server?")
    yield Server(url.rstrip("/"), headers)


def authorization(api_key: str | None) -> dict[str, str]:
    """Raises UserError: no header can hold it."""
    if not api_key:
        return {}
    if not api_key.isascii():
        raise UserError("the API key has letters that no HTTP header can hold")
    return {"Authorization": f"Bearer {api_key}"}


def _get(url: str, headers: Mapping[str, str]) -> httpx.Response:
    # A proxy has nothing to do with a server that is measured.
    return httpx.get(url, headers=headers, timeout=10, trust_env=False)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not keep a server from being ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _wait(server: Server, end: float) -> None:
    while time.monotonic() < end:
        server.check()
        with contextlib.suppress(httpx.TransportError):
            if _get(f"{server.url}/health", server.headers).status_code == 200:
                return
        time.sleep(0.3)
    raise ServerFailed("the server was not healthy in time", server.log_tail())


def _stop(process: "subprocess.Popen[bytes]") -> None:
    # The whole group: SGLang's schedulers outlive a parent that was killed.
    for sent, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            if sent == signal.SIGKILL or not _group_lives(process.pid):
                return


def _group_lives(group: int) -> bool:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        time.sleep(0.1)
    return True


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}, out of memory?" if name == "SIGKILL" else name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
