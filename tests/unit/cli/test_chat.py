"""`chat` as it is typed."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

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


def test_a_key_in_a_file_is_none_of_the_command_line(
    server: FakeChat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_API_KEY", "theirs")
    (tmp_path / "key").write_text("filed\n")
    words = ["hello", "--base-url", server.url, "--api-key-file", str(tmp_path / "key")]
    assert main(["chat", *words]) == 0
    assert [request["key"] for request in server.requests] == ["Bearer filed"]


@pytest.mark.parametrize("question", ["", " ", "\n"])
def test_an_empty_question_is_not_asked(
    server: FakeChat, capsys: pytest.CaptureFixture[str], question: str
) -> None:
    for words in (["chat", question, "--base-url", server.url], ["demo", "--question", question]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: nothing to ask: ")
        assert error.count("\n") == 1
    assert server.requests == []


@pytest.mark.parametrize("words", [[], ["-"]])
def test_without_a_terminal_the_question_comes_from_standard_input(
    server: FakeChat,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("def f():\n    pass\n"))
    assert main(["chat", *words, "--base-url", server.url, "--json"]) == 0
    assert server.requests[0]["messages"] == [{"role": "user", "content": "def f():\n    pass\n"}]
    assert json.loads(capsys.readouterr().out)["text"] == "def merge"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b" \n", "nothing to ask"), (None, "nothing to ask"), (b"\xff\xfe", "no UTF-8 text")],
)
def test_standard_input_without_a_question_is_one_line(
    server: FakeChat,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    message: str,
) -> None:
    stdin = None if content is None else io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["chat", "--base-url", server.url]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert server.requests == []


def test_sampling_is_passed_on_as_far_as_it_is_given(server: FakeChat) -> None:
    words = "--temperature 0.8 --top-p 0.9 --top-k 20 --seed 7 --timeout 60".split()
    assert main(["chat", "hello", "--base-url", server.url, *words]) == 0
    assert main(["chat", "hello", "--base-url", server.url]) == 0
    first, second = server.requests
    asked = {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 7}
    assert {name: first[name] for name in asked} == asked
    assert second["temperature"] == 0
    assert not {"top_p", "top_k", "seed"} & set(second)


@pytest.mark.parametrize("words", ["--temperature nan", "--top-p inf", "--timeout 0"])
def test_numbers_that_are_none_are_refused(words: str) -> None:
    assert main(["chat", "hello", *words.split()]) == 2


@pytest.mark.parametrize("what", ["401", "404", "429", "503", "page 404", "moved", "page", "odd"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_refusal_is_one_line(
    server: FakeChat, capsys: pytest.CaptureFixture[str], what: str, options: list[str]
) -> None:
    assert main(["chat", what, "--base-url", server.url, *options]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1


def test_a_question_of_no_text_is_told_as_one(
    server: FakeChat, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "caf\udce9", "--base-url", server.url]) == 2
    assert "no UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["cut", "cut in a chunk", "error", "nonsense"])
def test_a_stream_that_breaks_is_one_line(
    server: FakeChat, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    assert main(["chat", what, "--base-url", server.url]) == 2
    printed = capsys.readouterr()
    assert printed.out == "1 3 "
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
