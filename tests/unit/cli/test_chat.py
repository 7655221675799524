"""`chat` as it is typed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from tests.support.fake_chat import FakeChat, serving


@pytest.fixture
def server() -> Iterator[FakeChat]:
    with serving() as fake:
        yield fake


def test_chat_streams_and_ends_with_one_line_of_figures(
    server: FakeChat, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["hello", "--base-url", server.url, "--system", "be brief", "--max-tokens", "7"]
    assert main(["chat", *words]) == 0
    printed = capsys.readouterr()
    assert printed.out == "1 3 6 7 \n"
    assert printed.err.startswith("[7 tokens, ")
    assert printed.err.count("\n") == 1
    assert [m["role"] for m in server.requests[0]["messages"]] == ["system", "user"]
    assert server.requests[0]["max_tokens"] == 7


def test_chat_prints_json_for_scripts(server: FakeChat, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "hello", "--base-url", server.url, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["text"] == "def merge"
    assert data["accept_length"] == 2.5


def test_the_key_comes_from_the_environment_unless_it_is_given(
    server: FakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_API_KEY", "theirs")
    for words in ([], ["--api-key", "mine"]):
        assert main(["chat", "hello", "--base-url", server.url, *words]) == 0
    assert [request["key"] for request in server.requests] == ["Bearer theirs", "Bearer mine"]


@pytest.mark.parametrize("what", ["cut", "cut in a chunk", "error", "nonsense"])
def test_a_stream_that_breaks_is_one_line(
    server: FakeChat, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    assert main(["chat", what, "--base-url", server.url]) == 2
    printed = capsys.readouterr()
    assert printed.out == "1 3 "
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


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
