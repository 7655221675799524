"""Bodies that the server's OpenAPI document allows, for a bounded time, beside a good request.

FUZZ_SECONDS looks longer, and at other bodies each time.
"""

import contextlib
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.fuzz import requests
from tests.support.odd_requests import OWN_ERRORS, Request, is_own_error
from tests.support.server import PATIENCE, Server, generate

ASKED = float(os.environ.get("FUZZ_SECONDS", 0))
SECONDS, EXAMPLES, ROUNDS = ASKED or 25, 8, 10_000 if ASKED else 1
FIRST = int(time.time()) if ASKED else 1
GOOD_PROMPT = "def merge("


def test_whatever_the_document_allows_ends_nothing_and_changes_no_answer(
    tree_server: Server,
) -> None:
    expected = generate(tree_server, 12, text=GOOD_PROMPT)["output_ids"]
    document = httpx.get(f"{tree_server.url}/openapi.json", timeout=PATIENCE).json()
    end, over = time.monotonic() + SECONDS, threading.Event()

    def neighbour() -> int:
        """A good request, again and again, in the same batches."""
        asked = 0
        while not over.is_set():
            assert generate(tree_server, 12, text=GOOD_PROMPT)["output_ids"] == expected
            asked += 1
        return asked

    def ask(request: Request) -> str | None:
        """What was wrong with the answer."""
        if time.monotonic() > end:
            return None
        route, body = request
        content = json.dumps(body, default=str).encode("utf-8", "surrogatepass")
        headers = {"Content-Type": "application/json"}
        url = f"{tree_server.url}{route}"
        try:
            reply = httpx.post(url, content=content, headers=headers, timeout=PATIENCE)
            failed, said = reply.status_code >= 500, f"{reply.status_code} {reply.text[:300]}"
        except httpx.ReadTimeout:
            return f"{route} {content[:600]!r}: no answer within {PATIENCE} seconds"
        except httpx.RemoteProtocolError as error:
            failed, said = True, str(error)
        if not failed or is_own_error(request):
            return None
        return f"{route} {content[:600]!r}: {said}"

    with ThreadPoolExecutor(9) as pool:
        beside = pool.submit(neighbour)
        try:
            wrong = []
            for number in range(FIRST, FIRST + ROUNDS):
                bodies = requests(document, EXAMPLES, number)
                wrong += [found for found in pool.map(ask, bodies) if found is not None]
                if time.monotonic() > end:
                    break
        finally:
            over.set()
        assert beside.result() > 0
    assert not wrong, "\n".join(wrong)
    assert generate(tree_server, 12, text=GOOD_PROMPT)["output_ids"] == expected


@pytest.mark.parametrize("name", OWN_ERRORS)
def test_what_is_sglang_s_own(tree_server: Server, name: str) -> None:
    """One that is answered by another release is taken off the list."""
    route, body = OWN_ERRORS[name]
    with contextlib.suppress(httpx.RemoteProtocolError):
        reply = httpx.post(f"{tree_server.url}{route}", json=body, timeout=PATIENCE)
        assert reply.status_code >= 500, reply.text
