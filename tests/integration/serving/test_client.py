"""What a client waits for: streams that stall, and addresses where nobody is."""

from collections.abc import Iterator

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.serving.client import Client
from tests.support.fake_chat import FakeChat, serving


@pytest.fixture
def server() -> Iterator[FakeChat]:
    with serving() as fake:
        yield fake


@pytest.fixture
def url(server: FakeChat) -> str:
    return server.url


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
        ("stall", "timed out: no byte of the answer came for 6 s"),
        ("nonsense", "does not answer as the OpenAI API does"),
        ("odd", "does not answer as the OpenAI API does"),
    ],
)
def test_a_stream_that_breaks_is_one_line_after_what_came(
    url: str, prompt: str, words: str
) -> None:
    # Of what does not stall every byte comes, however late.
    stream = Client(url, timeout=6 if prompt == "stall" else 120).chat(prompt, stream=True)
    seen: list[str] = []
    with pytest.raises(UserError, match=words) as caught:
        seen.extend(stream)
    assert seen == ["1 ", "3 "]
    assert "\n" not in str(caught.value)
    assert stream.answer is None
    assert list(stream) == []


def test_a_request_is_sent_once_and_told_as_what_it_was(server: FakeChat) -> None:
    with pytest.raises(UserError, match=r"timed out: no byte of the answer came for 2 s"):
        Client(server.url, timeout=2).chat("stall")
    with pytest.raises(UserError, match=r"refused \(503\): busy"):
        Client(server.url).chat("busy")
    with pytest.raises(UserError, match="the connection to .* broke"):
        Client(server.url).chat("cut")
    assert len(server.requests) == 3
