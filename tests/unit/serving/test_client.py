import argparse
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.serving import client
from sglang_qwen3next_eagle3.serving.client import Answer, Client


class FakeServer(BaseHTTPRequestHandler):
    """Answers as SGLang does, by what the prompt says."""

    requests: list[dict[str, Any]] = []  # noqa: RUF012
    # Token counts that the chunks of a stream report, the prefill's token first.
    counts = (1, 3, 6, 7)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append({**body, "path": self.path, "key": self.headers["Authorization"]})
        if body["messages"][-1]["content"] == "too long":
            self._send(400, {"object": "error", "message": "longer than\nthe context"})
        elif body.get("stream"):
            self._stream()
        else:
            self._send(200, self._completion(body))

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": 0, "finish_reason": "length",
            "message": {"role": "assistant", "content": "def merge"},
        }  # fmt: skip
        if body.get("return_meta_info"):
            choice["meta_info"] = {"spec_verify_ct": 4}
        usage = {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": "default"}
        return {**head, "choices": [choice], "usage": usage}

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "default"}
        for index, count in enumerate(self.counts):
            last = index == len(self.counts) - 1
            delta = {"content": f"{count} "}
            finish = "stop" if last else None
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            usage = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}
            self._event({**head, "choices": [choice], "usage": usage})
        self._event({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())

    def _send(self, status: int, data: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    FakeServer.requests.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    client.add_arguments(parser)
    return client.run(parser.parse_args(words))


def test_an_answer_carries_the_server_s_figures(url: str) -> None:
    answer = Client(url).chat("Merge two lists.", max_tokens=10)
    assert answer.text == "def merge"
    assert answer.verify_steps == 4
    assert answer.accept_length == pytest.approx(2.5)
    assert answer.exact
    assert answer.tokens_per_second == pytest.approx(10 / answer.seconds)
    assert "10 tokens" in answer.figures()
    assert "accept length 2.50" in answer.figures()


def test_greedy_is_the_default_and_options_win(url: str) -> None:
    asking = Client(f"{url}/v1/", api_key="secret")
    asking.chat("a")
    asking.chat([{"role": "system", "content": "s"}], temperature=0.7, extra_body={"top_k": 3})
    first, second = FakeServer.requests
    assert (first["temperature"], first["model"]) == (0, "default")
    assert first["messages"] == [{"role": "user", "content": "a"}]
    assert first["path"] == "/v1/chat/completions"
    assert first["key"] == "Bearer secret"
    assert (second["temperature"], second["top_k"]) == (0.7, 3)


def test_a_stream_yields_pieces_and_then_the_whole(url: str) -> None:
    stream = Client(url).chat("a", stream=True)
    assert stream.answer is None
    assert list(stream) == ["1 ", "3 ", "6 ", "7 "]
    answer = stream.answer
    assert answer is not None
    assert (answer.text, answer.finish_reason) == ("1 3 6 7 ", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 7)
    # 1 -> 3 -> 6 -> 7: three verify steps after the prefill's token.
    assert answer.verify_steps == 3
    assert not answer.exact
    assert "accept length about 2.33" in answer.figures()
    assert answer.first_token_seconds is not None


def test_a_stream_without_speculation_has_no_accept_length(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeServer, "counts", (1, 2, 3, 4))
    stream = Client(url).chat("a", stream=True)
    list(stream)
    assert stream.answer is not None
    assert stream.answer.accept_length is None
    assert "accept length" not in stream.answer.figures()


def test_a_refusal_of_the_server_is_one_line(url: str) -> None:
    for stream in (False, True):
        with pytest.raises(UserError, match=r"refused \(400\): longer than the context"):
            Client(url).chat("too long", stream=stream)


def test_an_absent_server_is_said_with_the_way_to_start_one() -> None:
    with pytest.raises(UserError, match="no server answers at http://127.0.0.1:9.*launch"):
        Client("http://127.0.0.1:9").chat("a")


def test_chat_streams_and_ends_with_one_line_of_figures(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("hello", "--base-url", url, "--system", "be brief", "--max-tokens", "7") == 0
    printed = capsys.readouterr()
    assert printed.out == "1 3 6 7 \n"
    assert printed.err.startswith("[7 tokens, ")
    assert printed.err.count("\n") == 1
    assert [m["role"] for m in FakeServer.requests[0]["messages"]] == ["system", "user"]
    assert FakeServer.requests[0]["max_tokens"] == 7


def test_chat_prints_json_for_scripts(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hello", "--base-url", url, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["text"] == "def merge"
    assert data["accept_length"] == 2.5


def test_figures_of_an_empty_answer_divide_by_nothing() -> None:
    answer = Answer("", "stop", 3, 0, seconds=0.0, verify_steps=0)
    assert answer.accept_length is None
    assert answer.tokens_per_second == 0.0
