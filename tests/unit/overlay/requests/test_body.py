"""Bodies that are too large, in the ways that they come, in front of an application."""

import asyncio
import json
from typing import Any

import pytest

from sglang_qwen3next_eagle3.overlay.requests.body import LimitBody, Message, Receive, Send


async def reads_all(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with the size of what it read; like FastAPI, with 400 where reading fails."""
    size, more = 0, True
    try:
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message.get("more_body", False)
    except Exception:
        await answer(send, 400, b"cannot be parsed")
        return
    await answer(send, 200, str(size).encode())


async def fails(scope: Message, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body", False):
        pass


async def answers_first(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await fails(scope, receive, send)


async def answer(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(
    chunks: list[bytes], headers: dict[str, str], path: str = "/generate", app: Any = reads_all
) -> tuple[int, bytes, int]:
    """Status and body of the answer, and how many chunks were taken."""
    waiting = list(chunks)
    sent: list[Message] = []

    async def receive() -> Message:
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": raw}
    asyncio.run(LimitBody(app, most=10)(scope, receive, send))
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert len(starts) == 1, "one answer"
    return starts[0]["status"], sent[-1].get("body", b""), len(chunks) - len(waiting)


def test_what_is_allowed_is_read() -> None:
    assert ask([b"0123456789"], {"content-length": "10"}) == (200, b"10", 1)
    assert ask([b"01234", b"56789"], {}) == (200, b"10", 2)
    assert ask([b""], {"content-length": "0"}) == (200, b"0", 1)


def test_what_says_that_it_is_too_large_is_not_read() -> None:
    status, body, taken = ask([b"x" * 11], {"content-length": "11"})
    assert (status, taken) == (413, 0)
    assert json.loads(body) == {
        "object": "error",
        "message": "The body of the request is larger than 10 bytes, which is what this server "
        "takes.",
        "type": "Request Entity Too Large",
        "param": None,
        "code": 413,
    }


@pytest.mark.parametrize("app", [reads_all, fails], ids=["answers 400 itself", "lets it through"])
@pytest.mark.parametrize("headers", [{}, {"content-length": "5"}, {"content-length": "x"}])
def test_what_does_not_say_so_is_read_until_it_is(headers: dict[str, str], app: Any) -> None:
    status, _, taken = ask([b"01234", b"56789", b"x", b"y"], headers, app=app)
    assert (status, taken) == (413, 3)


def test_an_answer_that_has_begun_is_not_followed_by_another() -> None:
    with pytest.raises(Exception, match="^$"):
        ask([b"x" * 11], {}, app=answers_first)


@pytest.mark.parametrize(
    ("path", "keys"), [("/v1/responses", {"error"}), ("/v1/messages", {"type", "error"})]
)
def test_each_api_is_answered_in_its_own_words(path: str, keys: set[str]) -> None:
    _, body, _ = ask([b"x" * 11], {"content-length": "11"}, path)
    assert set(json.loads(body)) == keys


def test_weights_may_be_of_any_size() -> None:
    path = "/update_weights_from_tensor"
    assert ask([b"x" * 99], {"content-length": "99"}, path)[0] == 200


def test_what_is_no_request_is_handed_on() -> None:
    seen: list[str] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    asyncio.run(LimitBody(app, most=10)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
