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
from sglang_qwen3next_eagle3.base.processes import Child, child, free_port, healthy
from sglang_qwen3next_eagle3.base.redact import text_without_secrets
from sglang_qwen3next_eagle3.base.secrets import mask_log
from sglang_qwen3next_eagle3.serving.connection import authorization
from sglang_qwen3next_eagle3.serving.machine import check_address

LAUNCHER = "sglang_qwen3next_eagle3.launch"
FLUSH_SECONDS = 30.0
"""For how long a refusal to flush is asked again."""
REPLY_SECONDS = 30.0
GONE_SECONDS = 5.0
"""How long a process may take to be gone once it has broken a connection."""


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


@contextlib.contextmanager
def started(
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    start_seconds: float,
    api_key: str | None = None,
    *,
    port: int | None = None,
    waiting: Callable[[float], None] = lambda elapsed: None,
) -> Iterator[Server]:
    """`python -m sglang_qwen3next_eagle3.launch WORDS`, healthy, on a port of this machine.

    words: with `{port}` where its number belongs; port: by default a free one. log: of all that it
    prints; once it has ended, the secrets in it are masked, since SGLang prints its arguments.
    waiting: called with the seconds so far while it starts. The server and its children are ended
    with the block.

    Raises:
        UserError: somebody listens on the port.
        ServerFailed: it ends or is not healthy after `start_seconds`; also where somebody else
            answers on the port, which is not taken for it.
    """
    if port is None:
        port = free_port()
    else:
        check_address("127.0.0.1", port)
    command = [sys.executable, "-m", LAUNCHER]
    command += [word.replace("{port}", str(port)) for word in words]
    url, headers = f"http://127.0.0.1:{port}", authorization(api_key)
    try:
        with child(command, log, environment=environment) as ours:
            seconds = ours.wait_until(
                lambda: ours.listens(port) and healthy(url, headers),
                start_seconds,
                waiting=waiting,
            )
            yield Server(url, headers, ready_seconds=round(seconds, 1), child=ours)
    finally:
        mask_log(log)


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
