from collections.abc import Iterator

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.serving.client import Answer, Client
from tests.support.fake_chat import FakeChat, serving


@pytest.fixture
def server() -> Iterator[FakeChat]:
    with serving() as fake:
        yield fake


@pytest.fixture
def url(server: FakeChat) -> str:
    return server.url


def test_an_answer_carries_the_server_s_figures(url: str) -> None:
    answer = Client(url).chat("Merge two lists.", max_tokens=10)
    assert answer.text == "def merge"
    assert answer.verify_steps == 4
    assert answer.accept_length == pytest.approx(2.5)
    assert answer.exact
    assert answer.tokens_per_second == pytest.approx(10 / answer.seconds)
    assert "10 tokens" in answer.figures()
    assert "accept length 2.50" in answer.figures()


def test_greedy_is_the_default_and_options_win(server: FakeChat) -> None:
    asking = Client(f"{server.url}/v1/", api_key="secret")
    asking.chat("a")
    asking.chat([{"role": "system", "content": "s"}], temperature=0.7, extra_body={"top_k": 3})
    first, second = server.requests
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


def test_a_stream_without_speculation_has_no_accept_length(server: FakeChat) -> None:
    server.counts = (1, 2, 3, 4)
    stream = Client(server.url).chat("a", stream=True)
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


def test_figures_of_an_empty_answer_divide_by_nothing() -> None:
    answer = Answer("", "stop", 3, 0, seconds=0.0, verify_steps=0)
    assert answer.accept_length is None
    assert answer.tokens_per_second == 0.0


def test_a_proxy_is_not_asked_about_this_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    assert Client(url).chat("a").text == "def merge"
    with pytest.raises(UserError, match=r"no server answers at http://10\.1\.2\.3"):
        # Of another machine it is, and this one is not there.
        Client("http://10.1.2.3:30000", timeout=5).chat("a")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("cut", "the answer broke off|the connection to .* broke"),
        ("cut in a chunk", "the connection to .* broke"),
        ("error", "the server failed in the middle of the answer: out of memory"),
        ("stall", "timed out: no byte of the answer came for 0.3 s"),
        ("nonsense", "does not answer as the OpenAI API does"),
    ],
)
def test_a_stream_that_breaks_is_one_line_after_what_came(
    url: str, prompt: str, words: str
) -> None:
    stream = Client(url, timeout=0.3).chat(prompt, stream=True)
    seen: list[str] = []
    with pytest.raises(UserError, match=words) as caught:
        seen.extend(stream)
    assert seen == ["1 ", "3 "]
    assert "\n" not in str(caught.value)
    assert stream.answer is None
    assert list(stream) == []


def test_a_request_is_sent_once_and_told_as_what_it_was(server: FakeChat) -> None:
    with pytest.raises(UserError, match=r"timed out: no byte of the answer came for 0\.3 s"):
        Client(server.url, timeout=0.3).chat("stall")
    with pytest.raises(UserError, match=r"refused \(503\): busy"):
        Client(server.url).chat("busy")
    with pytest.raises(UserError, match="the connection to .* broke"):
        Client(server.url).chat("cut")
    assert len(server.requests) == 3


def test_a_closed_stream_is_at_its_end(url: str) -> None:
    stream = Client(url).chat("a", stream=True)
    assert next(stream) == "1 "
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_are_part_of_the_answer(url: str, stream: bool) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    found = Client(url).chat("call", tools=tools, stream=stream)
    if not isinstance(found, Answer):
        assert list(found) == []
        assert found.answer is not None
        found = found.answer
    function = {"name": "add", "arguments": '{"a": 1}'}
    assert found.tool_calls == ({"id": "c1", "type": "function", "function": function},)
    assert found.finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_more_than_one_answer_at_once_is_refused(server: FakeChat, stream: bool) -> None:
    with pytest.raises(UserError, match="n=2: one answer is given at a time"):
        Client(server.url).chat("a", n=2, stream=stream)
    assert server.requests == []


@pytest.mark.parametrize("base_url", ["127.0.0.1:30000", "http://[::", "ftp://a"])
def test_what_is_no_address_is_said(base_url: str) -> None:
    with pytest.raises(UserError, match="is no address of a server"):
        Client(base_url).chat("a")


def test_a_server_of_something_else_is_told_from_ours(url: str) -> None:
    with pytest.raises(UserError, match="does not answer as the OpenAI API does"):
        Client(url).chat("nonsense")
