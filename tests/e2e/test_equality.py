"""The invariant: greedy text with speculation is greedy text without it, token for token."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support.demo_server import NEW_TOKENS, Oracle
from tests.support.server import Server, generate

TREES = {"tree_server": (3, 4, 8), "chain_server": (3, 1, 4), "narrow_server": (5, 1, 6)}


@pytest.fixture(params=TREES)
def server(request: pytest.FixtureRequest) -> Server:
    started: Server = request.getfixturevalue(request.param)
    return started


@pytest.mark.parametrize("at_once", [1, 8])
def test_greedy_text_equals_transformers_and_drafts_are_accepted(
    server: Server, oracle: Oracle, at_once: int
) -> None:
    with ThreadPoolExecutor(at_once) as pool:
        ask = partial(generate, server, NEW_TOKENS)
        replies = list(pool.map(lambda ids: ask(input_ids=ids), oracle.prompts))
    different = [
        (index, reply["output_ids"], oracle.answer(index))
        for index, reply in enumerate(replies)
        if reply["output_ids"] != oracle.answer(index)
    ]
    assert not different
    assert len(replies) >= 12
    assert all(len(reply["output_ids"]) == NEW_TOKENS for reply in replies)
    figures = [reply["meta_info"] for reply in replies]
    tokens = sum(meta["completion_tokens"] for meta in figures)
    steps = sum(meta["spec_verify_ct"] for meta in figures)
    assert tokens / steps > 2.0
    counted = (meta["spec_correct_drafts_histogram"] for meta in figures)
    histogram = [sum(counts) for counts in zip(*counted, strict=True)]
    assert histogram[3] > 0, "three drafts accepted in one step"
    assert histogram[0] > 0, "and none in another"
    print(f"accept length {tokens / steps:.2f}, accepted drafts a step {histogram}")


def test_seams_are_ours_where_they_were_asked_for(
    chain_server: Server, narrow_server: Server
) -> None:
    assert "seams on: requests, " in chain_server.printed()
    assert "seams on" not in narrow_server.printed()
