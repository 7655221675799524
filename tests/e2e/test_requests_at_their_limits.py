"""No request ends the server, and none changes the next answer."""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.odd_requests import KNOWN_INTERNAL_ERRORS, Request, by_hand, every_field
from tests.support.server import PATIENCE, Server

GOOD = {"text": "def f(", "sampling_params": {"temperature": 0, "max_new_tokens": 12}}


SERVERS = ["tree_server", "plain_server"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    started: Server = request.getfixturevalue(request.param)
    return started


def good_answer(server: Server) -> list[int]:
    reply = httpx.post(f"{server.url}/generate", json=GOOD, timeout=PATIENCE)
    assert reply.status_code == 200, reply.text
    tokens: list[int] = reply.json()["output_ids"]
    return tokens


@pytest.fixture(autouse=True)
def still_serves(server: Server) -> Iterator[None]:
    expected = good_answer(server)
    yield
    assert server.process.poll() is None
    assert good_answer(server) == expected


def status(server: Server, request: Request) -> int:
    route, body = request
    # Not httpx's own JSON, which refuses to write NaN.
    content = json.dumps(body)
    headers = {"Content-Type": "application/json"}
    return httpx.post(
        f"{server.url}{route}", content=content, headers=headers, timeout=PATIENCE
    ).status_code


def unexpected(server: Server, requests: list[tuple[str, Request]]) -> list[object]:
    """What was answered by neither 2xx nor 4xx."""
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda named: status(server, named[1]), requests))
    return [
        (code, name, json.dumps(request[1])[:200])
        for code, (name, request) in zip(found, requests, strict=True)
        if code >= 500 and (request[0], name) not in KNOWN_INTERNAL_ERRORS
    ]


@pytest.mark.parametrize("server", SERVERS[:1], indirect=True)
def test_every_field_of_the_installed_release_at_its_limits(server: Server) -> None:
    requests = list(every_field())
    assert len(requests) > 600
    assert not unexpected(server, requests)


@pytest.mark.parametrize("order", [None, 1, 2], ids=str)
def test_bodies_that_ended_a_server_or_could(server: Server, order: int | None) -> None:
    """Also beside other neighbours in a batch than those that they stand with."""
    requests = list(by_hand())
    if order is not None:
        random.Random(order).shuffle(requests)
    assert not unexpected(server, requests)


REFUSED = {
    "an id beyond the vocabulary": ("/generate", {"input_ids": [4096]}, "token id 4096"),
    "a negative id": ("/generate", {"input_ids": [-1]}, "token id -1"),
    "embeddings": ("/generate", {"input_embeds": [[0.1] * 192]}, "Send input_ids"),
    "completions": ("/v1/completions", {"model": "d", "prompt": [200_000]}, "token id 200000"),
    "top_logprobs": (
        "/v1/chat/completions",
        {
            "model": "d",
            "messages": [{"role": "user", "content": "x"}],
            "logprobs": True,
            "top_logprobs": 5000,
        },
        "from 0 to 1024, got 5000",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_ended_the_server_is_a_400_that_says_why(
    server: Server, name: str, stream: bool
) -> None:
    route, body, reason = REFUSED[name]
    reply = httpx.post(f"{server.url}{route}", json={**body, "stream": stream}, timeout=PATIENCE)
    if route == "/generate" and stream:
        # SGLang has answered 200 by then; the error is the only event of the stream.
        assert '"code":400' in reply.text
    else:
        assert reply.status_code == 400, reply.text
    assert reason in reply.text
