"""Temperature above 0: the same distribution with drafts as without, seeds, and choices."""

import math
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.support.server import PATIENCE, Server

PROMPT = "def fibonacci(n):"
CHOICES = 128


@pytest.fixture(params=["tree_server", "plain_server"])
def server(request: pytest.FixtureRequest) -> Server:
    started: Server = request.getfixturevalue(request.param)
    return started


def sample(server: Server, n: int = 1, new_tokens: int = 8, **sampling: Any) -> list[list[int]]:
    """The tokens of n choices."""
    asked = {"temperature": 1.0, "max_new_tokens": new_tokens, "n": n, "ignore_eos": True}
    body = {"text": PROMPT, "sampling_params": {**asked, **sampling}}
    reply = httpx.post(f"{server.url}/generate", json=body, timeout=PATIENCE)
    assert reply.status_code == 200, reply.text
    answers = reply.json()
    answers = answers if isinstance(answers, list) else [answers]
    return [answer["output_ids"] for answer in answers]


def test_a_seed_gives_the_same_choices_again_and_different_ones_to_one_another(
    server: Server,
) -> None:
    """Stock gives the same greedy answer four times."""
    first = sample(server, n=4, sampling_seed=3)
    assert sample(server, n=4, sampling_seed=3) == first
    assert len({tuple(tokens) for tokens in first}) == 4
    assert sample(server, sampling_seed=3) == first[:1]
    assert sample(server, sampling_seed=4) != first[:1]


def test_without_a_seed_answers_differ(server: Server) -> None:
    # So many that the same ones twice are not to be had by chance.
    assert sample(server, n=4, new_tokens=16) != sample(server, n=4, new_tokens=16)


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
def test_what_leaves_one_token_is_greedy(server: Server, narrow: dict[str, float]) -> None:
    greedy = sample(server, temperature=0.0)
    assert sample(server, sampling_seed=1, **narrow) == greedy


SETTINGS = {
    "top_k": {"top_k": 3, "temperature": 1.3},
    "top_p": {"top_p": 0.5, "temperature": 0.9},
    "min_p": {"min_p": 0.2, "temperature": 1.2},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_tokens_are_distributed_as_without_speculation(
    tree_server: Server, plain_server: Server, setting: str
) -> None:
    """Chi-square of homogeneity over the third token's classes, with fixed seeds; the third is
    said by the verification of drafts, and its classes are few by the cut."""
    counts = []
    for one, seed in ((tree_server, 1000), (plain_server, 900_000)):
        choices = sample(one, CHOICES, 3, sampling_seed=seed, **SETTINGS[setting])
        counts.append(Counter(tuple(tokens[1:]) for tokens in choices))
    both = counts[0] + counts[1]
    common = [key for key, total in both.items() if total >= 12]
    table = [[count[key] for key in common] for count in counts]
    for row in table:
        row.append(CHOICES - sum(row))
    columns = [pair for pair in zip(*table, strict=True) if sum(pair) > 0]
    assert len(columns) > 2, "too few classes to tell anything"
    statistic = sum((a - b) ** 2 / (a + b) for a, b in columns)
    freedom = len(columns) - 1
    # Wilson and Hilferty's bound, beyond which equal distributions fall once in 10,000 times.
    bound = freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < bound, (statistic, bound, table)
