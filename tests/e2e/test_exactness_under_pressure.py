"""The same answers where KV pool and GDN slots run out, prompts are prefilled in pieces or come
from the prefix cache, and neighbours go away."""

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from sglang_qwen3next_eagle3.demo.pair import DemoPair
from tests.support.demo_server import (
    PIECE,
    POOL,
    RETRACT,
    cpu_environment,
    plain_command,
    scarce,
)
from tests.support.request_answers import Answer, ask, differences
from tests.support.request_features import GENERATE, Feature
from tests.support.server import PATIENCE, Server, free_port, running

LONG = "Explain, step by step and with an example, how a hash table resolves collisions. " * 2
PROMPTS = (LONG, "Write a class for a shopping cart.", "Sort a dictionary by its values.")
NEW_TOKENS = 70
FEATURES = tuple(
    Feature(name, GENERATE, {"ignore_eos": True, **body})
    for name, body in {
        "plain": {},
        "presence": {"presence_penalty": 1.2},
        "frequency": {"frequency_penalty": 0.9},
        "repetition": {"repetition_penalty": 1.2},
        "minimum": {"min_new_tokens": 60, "ignore_eos": False},
        "regex": {"regex": "[a-z ]{60,200}", "ignore_eos": False},
    }.items()
)


@pytest.fixture(scope="module")
def tight_server(pair: DemoPair, logs: Path) -> Iterator[Server]:
    """Wide tree (3, 4, 8) where everything is scarce, hidden states allowed."""
    port = free_port()
    command = scarce(plain_command(pair.target, pair.head, (3, 4, 8), port))
    command += ["--enable-return-hidden-states"]
    with running(command, port, logs / "tight.log", cpu_environment() | RETRACT) as server:
        yield server


@pytest.fixture(params=["tight_server", "narrow_server"], ids=["tree", "chain"])
def scarce_server(request: pytest.FixtureRequest) -> Server:
    started: Server = request.getfixturevalue(request.param)
    return started


def generate(server: Server, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{GENERATE}", json=body, timeout=PATIENCE)


JOBS = [(feature, prompt) for prompt in PROMPTS for feature in FEATURES]


@pytest.fixture(scope="module")
def baseline(plain_server: Server) -> list[Answer]:
    """The answers without speculation, with room for all."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda job: ask(plain_server, *job, NEW_TOKENS), JOBS))


def test_answers_are_the_same_where_everything_is_scarce(
    scarce_server: Server, baseline: list[Answer]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: ask(scarce_server, *job, NEW_TOKENS), JOBS))
    assert not differences(JOBS, answers, baseline)
    printed = scarce_server.printed()
    assert "Testing retraction. #retracted_reqs: 1" in printed
    assert re.search(rf"#new-token: {PIECE}, ", printed), "no prompt came in pieces"
    assert re.search(r"#cached-token: [1-9]", printed), "no prompt came from the prefix cache"
    assert re.search(r"#queue-req: [1-9]", printed), "nobody waited for GDN slots"


def test_answers_are_the_same_beside_neighbours_that_go_away(
    scarce_server: Server, baseline: list[Answer]
) -> None:
    """Some hang up, some are aborted, running or waiting; their slots are taken by others."""
    sampling = {"temperature": 0, "max_new_tokens": 200, "ignore_eos": True}

    def go_away(number: int) -> None:
        name = f"doomed-{number}"
        body = {"text": PROMPTS[number % 3], "sampling_params": sampling, "rid": name}
        url = f"{scarce_server.url}{GENERATE}"
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("POST", url, json=body | {"stream": True}, timeout=PATIENCE) as reply,
        ):
            for _ in reply.iter_lines():
                if number % 2:
                    break
                httpx.post(
                    f"{scarce_server.url}/abort_request", json={"rid": name}, timeout=PATIENCE
                )

    jobs, expected = JOBS[::3], baseline[::3]
    with ThreadPoolExecutor(12) as pool:
        gone = [pool.submit(go_away, number) for number in range(12)]
        answers = list(pool.map(lambda job: ask(scarce_server, *job, NEW_TOKENS), jobs))
        for one in gone:
            one.result()
    assert not differences(jobs, answers, expected)


def test_a_conversation_that_goes_on_comes_from_the_cache_and_the_same_prompt_does_not(
    tight_server: Server,
) -> None:
    """With no_buffer SGLang keeps the GDN state where a prompt and where an answer ended. Of the
    same prompt again it computes the last token at least, and before that no state was kept."""
    sampling = {"temperature": 0, "max_new_tokens": 20, "ignore_eos": True}
    prompt = [700 + i for i in range(30)]

    def ask_for(ids: list[int]) -> tuple[list[int], int]:
        reply = generate(tight_server, input_ids=ids, sampling_params=sampling)
        assert reply.status_code == 200, reply.text
        return reply.json()["output_ids"], reply.json()["meta_info"]["cached_tokens"]

    answer, cached = ask_for(prompt)
    assert cached == 0
    assert ask_for(prompt) == (answer, 0)
    _, cached = ask_for([*prompt, *answer, 900, 901])
    assert cached in range(len(prompt) + 1, len(prompt) + len(answer))


def test_an_answer_longer_than_the_pool_ends_with_length_and_its_text(
    tight_server: Server,
) -> None:
    """Stock SGLang answers 500 and the text is lost."""
    sampling = {"temperature": 0, "max_new_tokens": 1500, "ignore_eos": True}
    prompt = [300 + i for i in range(250)]
    reply = generate(tight_server, input_ids=prompt, sampling_params=sampling)
    assert reply.status_code == 200, reply.text
    meta = reply.json()["meta_info"]
    assert meta["finish_reason"]["type"] == "length"
    assert meta["completion_tokens"] == POOL - len(prompt) - 2 * 12 - 1


def test_hidden_states_are_refused_since_they_would_be_the_draft_head_s(
    tight_server: Server,
) -> None:
    sampling = {"temperature": 0, "max_new_tokens": 2}
    body = {"text": "x", "sampling_params": sampling, "return_hidden_states": True}
    reply = generate(tight_server, **body)
    assert reply.status_code == 400
    assert "return_hidden_states does not work with EAGLE3" in reply.text
