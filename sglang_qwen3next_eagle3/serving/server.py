"""The servers that a verb needs: started through our launcher, or one that already runs."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sglang_qwen3next_eagle3.base.errors import ServerFailed, UserError
from sglang_qwen3next_eagle3.base.processes import POLL_SECONDS, Child, child, free_port, healthy
from sglang_qwen3next_eagle3.base.redact import text_without_secrets
from sglang_qwen3next_eagle3.base.secrets import mask_log
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.serving.connection import authorization
from sglang_qwen3next_eagle3.serving.machine import check_address

LAUNCHER = "sglang_qwen3next_eagle3.launch"
FLUSH_SECONDS = 30.0
"""For how long a refusal to flush is asked again."""
REPLY_SECONDS = 30.0
GONE_SECONDS = 5.0
"""How long a process may take to be gone once it has broken a connection."""
_IN_USE = "address already in use"
_IN_USE_LINES = 400
"""How far from the end of a log it is looked for: the other processes' traces are long."""


@dataclass
class Server:
    """A server that answers. child: None if somebody else runs it."""

    url: str
    headers: dict[str, str]
    ready_seconds: float | None = None
    child: Child | None = None

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

    def check(self, seconds: float = 0.0) -> None:
        """Raises ServerFailed: its process has ended, or does so within these seconds.

        GONE_SECONDS after a broken connection, so that a crash is not told as one.
        """
        if self.child is not None:
            self.child.check(seconds)

    def log(self) -> list[str]:
        """What it has printed so far; nothing of somebody else's."""
        path = None if self.child is None else self.child.log
        if path is None or not path.is_file():
            return []
        return path.read_text(encoding="utf-8", errors="replace").splitlines()

    def log_tail(self) -> list[str]:
        return self.child.tail() if self.child is not None else []

    def _post(self, path: str) -> httpx.Response:
        url, limit = f"{self.url}{path}", REPLY_SECONDS
        try:
            return httpx.post(url, headers=self.headers, timeout=limit, trust_env=False)
        except httpx.TransportError as error:
            self.check(GONE_SECONDS)
            raise ServerFailed(
                f"{path}: {error or type(error).__name__}", self.log_tail()
            ) from None


class Starting:
    """A server of ours on its way: ask `poll` until it is up."""

    def __init__(
        self,
        start: Callable[[int], Child],
        port: int,
        headers: dict[str, str],
        seconds: float,
        elsewhere: bool,
    ) -> None:
        """start: it on a port. seconds: that it has until it is healthy. elsewhere: whether it is
        started once more, on another port, where somebody else took one that it wanted."""
        self._start, self._headers, self._seconds = start, headers, seconds
        self._elsewhere = elsewhere
        self._begin(port)

    def _begin(self, port: int) -> None:
        self._child, self._port = self._start(port), port
        self._url = f"http://127.0.0.1:{port}"
        self._begun = time.monotonic()

    def poll(self) -> Server | None:
        """The server once it is healthy. Raises ServerFailed: it has ended, or its time is over."""
        elapsed = time.monotonic() - self._begun
        try:
            self._child.check()
        except ServerFailed:
            if not (self._elsewhere and self._lost_a_port()):
                raise
            self._elsewhere = False
            self._begin(free_port())
            return None
        if self._healthy():
            return self._server(elapsed)
        if elapsed >= self._seconds:
            raise ServerFailed(f"{self._child.name} was not healthy in time", self._child.tail())
        return None

    def wait(self, waiting: Callable[[float], None] = lambda elapsed: None) -> Server:
        """The server, waited for; waiting: called with the seconds so far. Raises ServerFailed."""
        while (server := self.poll()) is None:
            waiting(time.monotonic() - self._begun)
            time.sleep(POLL_SECONDS)
        return server

    def _lost_a_port(self) -> bool:
        """Its own or one that SGLang chose for its ranks, which are free until they are used."""
        return any(_IN_USE in line.lower() for line in self._child.tail(_IN_USE_LINES))

    def _healthy(self) -> bool:
        return self._child.listens(self._port) and healthy(self._url, self._headers)

    def _server(self, seconds: float) -> Server:
        return Server(self._url, self._headers, ready_seconds=round(seconds, 1), child=self._child)


@contextlib.contextmanager
def starting(
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    start_seconds: float,
    api_key: str | None = None,
    *,
    port: int | None = None,
    elsewhere: bool = False,
) -> Iterator[Starting]:
    """`started`, not waited for: so that several can start at the same time.

    Raises:
        UserError: somebody listens on the port.
    """
    if port is None:
        port, elsewhere = free_port(), True
    else:
        check_address("127.0.0.1", port)
    command = [sys.executable, "-m", LAUNCHER]
    # Whoever exports the keys of another server has not told them to this one's caller.
    unset = {name + end: "" for name in variables.KEYS.values() for end in ("", variables.FILE)}
    try:
        with contextlib.ExitStack() as stack:

            def start(at: int) -> Child:
                stack.close()  # What is left of one before it.
                told = [word.replace("{port}", str(at)) for word in words]
                ours = child([*command, *told], log, environment={**unset, **environment})
                return stack.enter_context(ours)

            yield Starting(start, port, authorization(api_key), start_seconds, elsewhere)
    finally:
        mask_log(log)


@contextlib.contextmanager
def started(
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    start_seconds: float,
    api_key: str | None = None,
    *,
    port: int | None = None,
    elsewhere: bool = False,
    waiting: Callable[[float], None] = lambda elapsed: None,
) -> Iterator[Server]:
    """`python -m sglang_qwen3next_eagle3.launch WORDS`, healthy, on a port of this machine.

    words: with `{port}` where its number belongs; port: by default a free one. elsewhere: another
    will do, as where none is given: the server is started once more if one was taken. log: of all
    that it prints; once it has ended, the secrets in it are masked, since SGLang prints its
    arguments. waiting: called with the seconds so far while it starts. The server and its children
    are ended with the block.

    Raises:
        UserError: somebody listens on the port.
        ServerFailed: it ends or is not healthy after `start_seconds`; also where somebody else
            answers on the port, which is not taken for it.
    """
    with starting(
        words, log, environment, start_seconds, api_key, port=port, elsewhere=elsewhere
    ) as begun:
        yield begun.wait(waiting)


@contextlib.contextmanager
def running(url: str, api_key: str | None) -> Iterator[Server]:
    """A server that somebody else started.

    Raises:
        UserError: it does not answer, or does not take the key.
    """
    headers = authorization(api_key)
    url = url.rstrip("/").removesuffix("/v1")
    shown = text_without_secrets(url)
    try:
        reply = _get(f"{url}/v1/models", headers)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise UserError(
            f"no server answers at {shown} ({text_without_secrets(str(error))}): start one, or "
            "mend --base-url"
        ) from None
    if reply.status_code in (401, 403):
        raise UserError(f"{shown} wants a key: pass --api-key")
    if reply.status_code != 200:
        raise UserError(f"{shown}/v1/models: HTTP {reply.status_code}: is it an SGLang server?")
    yield Server(url, headers)


def _get(url: str, headers: Mapping[str, str]) -> httpx.Response:
    # A proxy has nothing to do with a server that is measured.
    return httpx.get(url, headers=headers, timeout=10, trust_env=False)
