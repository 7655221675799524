"""`chat` in a process of its own, which Ctrl-C ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.fake_chat import FakeChat, serving


@pytest.fixture
def server() -> Iterator[FakeChat]:
    with serving() as fake:
        yield fake


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_ctrl_c_ends_it_without_a_traceback(server: FakeChat, options: list[str]) -> None:
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3", "chat", "stall", *options]
    started = subprocess.Popen(
        [*command, "--base-url", server.url],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started:
        while not server.requests:
            assert started.poll() is None
        started.send_signal(signal.SIGINT)
        assert started.stderr is not None
        error = started.stderr.read()
    assert started.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
