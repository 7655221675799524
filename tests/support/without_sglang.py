"""What tests without SGLang share: how they run quickly on busy cores, and a stand-in for it."""

import fcntl
import functools
import os
import ssl
import tempfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import plugin
from sglang_qwen3next_eagle3.base import processes
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.serving import machine
from sglang_qwen3next_eagle3.serving.doctor import host
from tests.support import hosts

# Read when torch and numpy are first imported, here and in the processes that tests start: on
# tensors this small more threads only wait for one another, a hundredfold on busy cores.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


@pytest.fixture(autouse=True, scope="session")
def one_tls_context() -> Iterator[None]:
    """A file of certificates is read once: each HTTP client reads all the roots, for 25 ms."""
    with pytest.MonkeyPatch.context() as patch:
        cached = functools.cache(ssl.create_default_context)
        patch.setattr(ssl, "create_default_context", cached)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_waiting() -> Iterator[None]:
    """Nothing here has to survive a loss of power, and what is started is there at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        patch.setattr(processes, "POLL_SECONDS", 0.03)
        yield


_PORT = Path(tempfile.gettempdir()) / "sglang-qwen3next-eagle3-tests-port-30000"


@pytest.fixture
def demo_port() -> Iterator[None]:
    """The port of `demo` for one test at a time, in whichever worker."""
    try:
        taken = os.open(_PORT, os.O_RDONLY)  # Another user's, too.
    except FileNotFoundError:
        taken = os.open(_PORT, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(taken, fcntl.LOCK_EX)
        yield
    finally:
        os.close(taken)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a supported SGLang were there, with the plugin visible, on a machine with GPUs."""
    monkeypatch.setattr(host, "probe", lambda whole=True: hosts.h200())
    point = EntryPoint(plugin.NAME, f"{plugin.__name__}:register", machine.ENTRY_POINT_GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [point])
    monkeypatch.setattr(contract, "require", lambda parts: None)
    monkeypatch.delenv("SGLANG_PLUGINS", raising=False)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would have replaced this process."""
    seen: dict[str, Any] = {}

    def record(file: str, argv: list[str], environment: dict[str, str]) -> None:
        seen.update(file=file, argv=argv, environment=environment)

    monkeypatch.setattr("os.execvpe", record)
    return seen
