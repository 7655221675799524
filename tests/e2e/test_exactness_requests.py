"""Answers with speculation equal those without, whatever a request asks for."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.request_answers import Answer, ask, differences, post
from tests.support.request_features import FEATURES, Feature
from tests.support.server import Server

PROMPTS = (
    "Write a class for a shopping cart.",
    "def fibonacci(n):",
)
EQUAL = [feature for feature in FEATURES if feature.verdict == "equal"]
REFUSED = [f for f in FEATURES if f.verdict == "refused" and not f.needs]


@pytest.fixture(params=["chain_server", "tree_server"])
def server(request: pytest.FixtureRequest) -> Server:
    started: Server = request.getfixturevalue(request.param)
    return started


JOBS = [(feature, prompt) for prompt in PROMPTS for feature in EQUAL]


@pytest.fixture(scope="module")
def baseline(plain_server: Server) -> list[Answer]:
    """The answers without speculation."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda job: ask(plain_server, *job), JOBS))


def test_eight_at_once_and_mixed(server: Server, baseline: list[Answer]) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: ask(server, *job), JOBS))
    assert not differences(JOBS, answers, baseline)


def test_alone(server: Server, baseline: list[Answer]) -> None:
    # Every third feature, since one at a time takes long.
    chosen = range(0, len(EQUAL), 3)
    jobs = [JOBS[i] for i in chosen]
    answers = [ask(server, *job) for job in jobs]
    assert not differences(jobs, answers, [baseline[i] for i in chosen])


@pytest.mark.parametrize("feature", REFUSED, ids=lambda feature: feature.name)
def test_what_cannot_be_equal_is_refused_with_its_reason(server: Server, feature: Feature) -> None:
    new_tokens = feature.body.get("max_new_tokens", 4)
    reply = post(server, feature, PROMPTS[0], new_tokens)
    assert reply.status_code == 400, reply.text
    assert feature.says in reply.text


def test_an_answer_ends_by_itself_at_every_distance_from_max_tokens(
    server: Server, plain_server: Server
) -> None:
    """The issue's row: 29 tokens, and stock says "length" for max_tokens 30, 31 and 32."""
    chat = next(feature for feature in EQUAL if feature.name == "chat")
    jobs = [(chat, "Write a binary search.", most) for most in range(24, 38)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: ask(server, *job), jobs))
        plain = list(pool.map(lambda job: ask(plain_server, *job), jobs))
    assert answers == plain
    reasons = [answer["said"][0][0][2] for answer in plain]
    assert {"stop", "length"} == set(reasons)


def test_min_tokens_are_tokens_not_steps(server: Server, plain_server: Server) -> None:
    """Stock counts the steps that verify drafts, and these answers go on as others."""
    long = Feature("min_tokens", "/v1/chat/completions", {"min_tokens": 40})
    jobs = [(long, "Write a binary search.", 60), (long, "Give me a recipe for pancakes.", 60)]
    answers = [ask(server, *job) for job in jobs]
    assert answers == [ask(plain_server, *job) for job in jobs]
    assert all(answer["said"][0][-1]["completion_tokens"] >= 40 for answer in answers)


def test_a_stop_string_wherever_a_step_ends(server: Server, plain_server: Server) -> None:
    """Stop strings of some tokens at every place of an answer, so that steps end inside of them."""
    whole = ask(plain_server, EQUAL[1], PROMPTS[0], 40)["said"][0][1]
    pieces = [whole[at : at + 7] for at in range(8, len(whole) - 7, 4)][:16]
    jobs = [
        (Feature(piece, body={"stop": [piece], **EQUAL[1].body}), PROMPTS[0]) for piece in pieces
    ]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: ask(server, *job, 40), jobs))
        plain = list(pool.map(lambda job: ask(plain_server, *job, 40), jobs))
    assert not differences(jobs, answers, plain)
    assert len(pieces) > 8
    assert all(answer["said"][0][2]["type"] == "stop" for answer in plain)
