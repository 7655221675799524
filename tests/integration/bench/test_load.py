"""Streams, requests in flight, and servers that fail, against a server that pretends."""

from collections.abc import Sequence

import pytest

from sglang_qwen3next_eagle3.bench import load
from sglang_qwen3next_eagle3.bench.load import Dialogue
from sglang_qwen3next_eagle3.bench.results.records import Pass
from tests.support.fake_sglang import Fake, answer, serving

SAMPLING = {"temperature": 0, "max_new_tokens": 9}


def prompts(count: int) -> list[Dialogue]:
    def one(place: int) -> Dialogue:
        return Dialogue(f"p{place}", lambda answers: None if answers else [place, 7])

    return [one(place) for place in range(count)]


def run(
    fake: Fake, conversations: Sequence[Dialogue], batch: int = 2, stall_seconds: float = 300
) -> Pass:
    return load.run(fake.url, conversations, batch, SAMPLING, stall_seconds=stall_seconds)


def test_every_chunk_s_tokens_and_time_are_kept() -> None:
    with serving(per_chunk=3, chunk_seconds=0.02) as fake:
        (found,) = run(fake, prompts(1)).samples
    assert [count for _, count in found.chunks] == [1, 4, 7, 9]
    times = [seconds for seconds, _ in found.chunks]
    assert times == sorted(times)
    assert found.first_token_seconds == times[0] <= found.seconds
    assert found.output_ids == tuple(answer([0, 7], 9))
    assert (found.prompt_tokens, found.completion_tokens, found.verify_steps) == (2, 9, 3)
    assert (found.accepted_drafts, found.proposed_drafts, found.histogram) == (5, 21, (0, 3))
    assert found.finish_reason == "length"


def test_exactly_so_many_requests_are_in_flight() -> None:
    with serving(chunk_seconds=0.05) as fake:
        found = run(fake, prompts(9), batch=3)
        assert fake.most_at_once == 3
    assert [sample.prompt for sample in found.samples] == [f"p{n}" for n in range(9)]
    assert found.seconds > 0


def test_a_second_turn_is_asked_with_the_first_answer() -> None:
    def turns(answers: Sequence[tuple[int, ...]]) -> list[int] | None:
        return [5, *answers[0]] if len(answers) == 1 else ([5] if not answers else None)

    with serving() as fake:
        found = run(fake, [Dialogue("q", turns)])
        assert [body["input_ids"] for body in fake.bodies] == [[5], [5, *answer([5], 9)]]
    assert [sample.prompt for sample in found.samples] == ["q", "q#2"]


def test_a_request_with_http_500_is_counted_and_the_rest_goes_on() -> None:
    with serving(fail_at=(2, 3)) as fake:
        found = run(fake, prompts(5), batch=1)
    assert [sample.prompt for sample in found.samples] == ["p0", "p3", "p4"]
    assert found.failures == [("p1", "HTTP 500: out of luck"), ("p2", "HTTP 500: out of luck")]
    assert found.broken is None


def test_an_aborted_answer_is_a_failure() -> None:
    with serving(abort_at=1) as fake:
        found = run(fake, prompts(2), batch=1)
    assert found.failures == [("p0", "aborted: out of memory")]
    assert len(found.samples) == 1


def test_a_stalled_server_ends_the_pass() -> None:
    with serving(stall_at=2) as fake:
        found = run(fake, prompts(50), batch=1, stall_seconds=10)
        assert len(fake.bodies) == 2, "nothing is asked after the stall"
    assert found.broken == "stalled: nothing came for 10 s"
    assert [sample.prompt for sample in found.samples] == ["p0"]


def test_a_server_that_is_not_there_ends_the_pass() -> None:
    with serving() as fake:
        pass
    found = run(fake, prompts(3))
    assert found.broken is not None
    assert "connection broke" in found.broken
    assert found.samples == []


@pytest.mark.parametrize("batch", [1, 4])
def test_progress_is_told_once_an_answer(batch: int) -> None:
    told: list[None] = []
    with serving() as fake:
        load.run(
            fake.url, prompts(5), batch, SAMPLING, stall_seconds=300, done=lambda: told.append(None)
        )
    assert len(told) == 5
