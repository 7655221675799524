"""The same answers where the KV pool runs out, prompts are prefilled in pieces, and at its end."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from sglang_qwen3next_eagle3.demo.pair import DemoPair
from tests.support.demo_server import cpu_environment, plain_command
from tests.support.request_answers import ask, differences
from tests.support.request_features import GENERATE, Feature
from tests.support.server import Server, free_port, running

POOL = 400
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
    """A pool of 400 tokens, prompts in pieces of 64, hidden states allowed; every 13 steps SGLang
    takes a request its place, as it does where the pool runs out."""
    port = free_port()
    command = plain_command(pair.target, pair.head, (3, 4, 8), port)
    command += ["--max-total-tokens", str(POOL), "--chunked-prefill-size", "64"]
    command += ["--enable-return-hidden-states"]
    retract = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "13"}
    with running(command, port, logs / "tight.log", cpu_environment() | retract) as server:
        yield server


def generate(server: Server, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{GENERATE}", json=body, timeout=300)


def test_answers_that_lose_their_place_in_the_pool_and_come_back_are_the_same(
    tight_server: Server, plain_server: Server
) -> None:
    jobs = [(feature, prompt) for prompt in PROMPTS for feature in FEATURES]
    with ThreadPoolExecutor(8) as pool:
        plain = list(pool.map(lambda job: ask(plain_server, *job, NEW_TOKENS), jobs))
        answers = list(pool.map(lambda job: ask(tight_server, *job, NEW_TOKENS), jobs))
    assert not differences(jobs, answers, plain)
    assert "Testing retraction. #retracted_reqs: 1" in tight_server.printed()


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
