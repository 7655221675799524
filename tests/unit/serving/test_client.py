from collections.abc import Iterator

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.serving.client import Answer, Client
from tests.support.fake_chat import CALLS, LINES, LOGPROBS, FakeChat, serving


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
    assert found.tool_calls == tuple(CALLS)
    assert found.finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_part_of_the_answer(url: str, stream: bool) -> None:
    found = Client(url).chat("logprobs", logprobs=True, stream=stream)
    if not isinstance(found, Answer):
        assert len(list(found)) == 4
        assert found.answer is not None
        found = found.answer
    assert found.logprobs == tuple(LOGPROBS)


def test_an_event_ends_at_a_line_feed_and_at_nothing_else(url: str) -> None:
    assert next(Client(url).chat("lines", stream=True)) == LINES


@pytest.mark.parametrize("stream", [False, True])
def test_more_than_one_answer_at_once_is_refused(server: FakeChat, stream: bool) -> None:
    with pytest.raises(UserError, match="n=2: one answer is given at a time"):
        Client(server.url).chat("a", n=2, stream=stream)
    assert server.requests == []


@pytest.mark.parametrize("what", ["nonsense", "odd", "page"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_server_of_something_else_is_told_from_ours(url: str, what: str, stream: bool) -> None:
    with pytest.raises(UserError, match="does not answer as the OpenAI API does"):
        list(Client(url).chat(what, stream=True) if stream else [Client(url).chat(what).text])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("401", r"refused \(401\): status 401; it wants its key: --api-key, .*SGLANG_API_KEY$"),
        ("403", r"refused \(403\): status 403; it wants its key"),
        ("404", r"refused \(404\): status 404; is http://127.* the address of an SGLang server\?$"),
        ("page 404", r"refused \(404\): a page for a browser, not an API's answer; is"),
        ("429", r"refused \(429\): status 429; ask again later$"),
        ("500", r"refused \(500\): status 500$"),
        ("503", r"refused \(503\): status 503; ask again later$"),
        ("moved", r"sends us on to http://elsewhere/v1 \(307\): name .* --base-url$"),
    ],
)
def test_each_status_is_told_with_its_way_out(
    url: str, what: str, message: str, stream: bool
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Client(url).chat(what, stream=stream)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_not_the_one_is_told_from_none(url: str) -> None:
    with pytest.raises(UserError, match="wants another key") as caught:
        Client(url, api_key="topsecret").chat("401")
    assert "topsecret" not in str(caught.value)


def test_an_error_in_place_of_an_answer_is_told(url: str) -> None:
    with pytest.raises(UserError, match="the server failed: out of memory"):
        Client(url).chat("error")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": float("nan")}, "cannot be written as JSON"),
        ({"stop": {"a set"}}, "cannot be written as JSON"),
        ({"stop": "\udcff"}, "no UTF-8 text"),
        ({"timeout": 0}, "seconds above 0"),
        ({"timeout": float("nan")}, "seconds above 0"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_sent_is_no_fault_of_the_server(
    server: FakeChat, options: dict[str, object], message: str, stream: bool
) -> None:
    with pytest.raises(UserError, match=message):
        Client(server.url).chat("a", stream=stream, **options)
    assert server.requests == []
