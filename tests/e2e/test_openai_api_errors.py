"""Bad requests and clients that leave: each is answered or dropped, and the server serves on."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from sglang_qwen3next_eagle3.serving.client import Client
from tests.support.server import PATIENCE, Server

QUESTION = "Write a class for a shopping cart."  # the demo target answers at length
ROUTE = "/v1/chat/completions"
GOOD: dict[str, Any] = {
    "model": "default",
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 24,
    "temperature": 0,
}
LONG = [{"role": "user", "content": "word " * 9000}]
# Fits the context of 4096 and takes this server a minute.
LONG_ANSWER = 4000
GONE_SECONDS = 30.0
"""For a request that was left; by itself it would end later."""


def good_text(server: Server) -> str:
    reply = httpx.post(f"{server.url}{ROUTE}", json=GOOD, timeout=PATIENCE)
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


@pytest.fixture(scope="module")
def expected(tree_server: Server) -> str:
    text = good_text(tree_server)
    assert text
    return text


@pytest.fixture(autouse=True)
def still_serves(tree_server: Server, expected: str) -> Iterator[None]:
    """After each test the next good request has the same greedy text as before the first."""
    yield
    assert good_text(tree_server) == expected


def assert_refused(reply: httpx.Response, message: str) -> None:
    """Status 400 with the error object that the OpenAI SDK reads, at the top level of the body."""
    assert reply.status_code == 400, reply.text
    assert reply.headers["content-type"].startswith("application/json")
    error = reply.json()
    assert error["object"] == "error"
    assert error["code"] == 400
    assert error["type"]
    assert "param" in error
    assert message in error["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"messages": []}, "Messages cannot be empty", id="no messages"),
        pytest.param({"messages": "hello"}, "valid list", id="messages of a wrong type"),
        pytest.param({"max_tokens": "many"}, "valid integer", id="max_tokens of a wrong type"),
        pytest.param({"max_tokens": -1}, "must be at least 0", id="negative max_tokens"),
        pytest.param(
            {"max_tokens": 100_000},
            "the context of 4096 tokens",
            id="max_tokens beyond the context",
        ),
        pytest.param({"messages": LONG}, "it may have at most 4083", id="long prompt"),
        pytest.param(
            {"messages": [{"role": "wizard", "content": "x"}]}, "'role' must be", id="unknown role"
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": 5}]}, "valid string", id="content is a number"
        ),
        pytest.param({"temperature": -1}, "non-negative", id="negative temperature"),
        pytest.param({"top_p": 2}, "top_p must be in (0, 1]", id="top_p beyond 1"),
    ],
)
def test_a_bad_field_is_refused_with_its_reason(
    tree_server: Server, change: dict[str, Any], message: str, stream: bool
) -> None:
    body = {**GOOD, "stream": stream, **change}
    assert_refused(httpx.post(f"{tree_server.url}{ROUTE}", json=body, timeout=PATIENCE), message)


def test_missing_messages_are_named(tree_server: Server) -> None:
    body = {name: value for name, value in GOOD.items() if name != "messages"}
    reply = httpx.post(f"{tree_server.url}{ROUTE}", json=body, timeout=PATIENCE)
    assert_refused(reply, "('body', 'messages'), 'msg': 'Field required'")


def test_malformed_json_is_refused(tree_server: Server) -> None:
    reply = httpx.post(
        f"{tree_server.url}{ROUTE}",
        content=b'{"model": "default", "messages": [',
        headers={"Content-Type": "application/json"},
        timeout=PATIENCE,
    )
    assert_refused(reply, "JSON decode error")


def test_another_content_type_is_refused(tree_server: Server) -> None:
    reply = httpx.post(
        f"{tree_server.url}{ROUTE}",
        content=b"{}",
        headers={"Content-Type": "text/plain"},
        timeout=PATIENCE,
    )
    assert_refused(reply, "Only 'application/json' is allowed")


@pytest.mark.parametrize("n", [0, -1, 129])
def test_a_number_of_choices_that_cannot_be_is_refused(tree_server: Server, n: int) -> None:
    reply = httpx.post(f"{tree_server.url}{ROUTE}", json={**GOOD, "n": n}, timeout=PATIENCE)
    assert_refused(reply, f"n must be a whole number from 1 to 128, got {n}")


def test_a_list_as_the_body_is_an_internal_error_of_sglang(tree_server: Server) -> None:
    """SGLang 0.5.17 takes the body for a dict before it validates it."""
    reply = httpx.post(f"{tree_server.url}{ROUTE}", json=[1], timeout=PATIENCE)
    assert reply.status_code == 500
    assert reply.text == "Internal Server Error"


@pytest.mark.parametrize(
    ("method", "route", "status", "detail"),
    [
        ("POST", "/v1/chat/completion", 404, "Not Found"),
        ("GET", ROUTE, 405, "Method Not Allowed"),
    ],
)
def test_an_unknown_route_is_answered_in_fastapi_s_shape(
    tree_server: Server, method: str, route: str, status: int, detail: str
) -> None:
    reply = httpx.request(method, f"{tree_server.url}{route}", timeout=PATIENCE)
    assert reply.status_code == status
    assert reply.json() == {"detail": detail}


def until(server: Server, running: int, seconds: float = PATIENCE) -> dict[str, Any]:
    """The server's load once it says that so many requests run.

    The scheduler publishes its load every few dozen steps and when it becomes idle.
    """
    end = time.monotonic() + seconds
    while True:
        (load,) = httpx.get(f"{server.url}/v1/loads", timeout=PATIENCE).json()["loads"]
        if load["num_running_reqs"] == running and load["num_waiting_reqs"] == 0:
            return dict(load)
        assert time.monotonic() < end, f"not {running} running after {seconds} s: {load}"
        time.sleep(0.1)


def leave_by_closing_the_connection(server: Server) -> None:
    body = {**GOOD, "max_tokens": LONG_ANSWER, "stream": True}
    with httpx.stream("POST", f"{server.url}{ROUTE}", json=body, timeout=PATIENCE) as reply:
        lines = (line for line in reply.iter_lines() if line.startswith("data: {"))
        for _ in range(5):
            next(lines)
        assert until(server, running=1)["num_used_tokens"] < LONG_ANSWER / 2


def leave_by_our_client_s_close(server: Server) -> None:
    stream = Client(server.url, timeout=PATIENCE).chat(
        QUESTION, max_tokens=LONG_ANSWER, stream=True
    )
    for _ in range(5):
        next(stream)
    assert until(server, running=1)["num_used_tokens"] < LONG_ANSWER / 2
    stream.close()


@pytest.mark.parametrize(
    "leave", [leave_by_closing_the_connection, leave_by_our_client_s_close], ids=["http", "client"]
)
def test_a_client_that_leaves_a_stream_leaves_no_running_request(
    tree_server: Server, leave: Callable[[Server], None]
) -> None:
    until(tree_server, running=0)
    leave(tree_server)
    assert until(tree_server, 0, GONE_SECONDS)["num_used_tokens"] == 0
