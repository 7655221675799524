"""base/accept_length: the two figures of this name, and how far they lie apart."""

import pytest

from sglang_qwen3next_eagle3.base.accept_length import accept_length, of_chain, per_cycle


def test_the_first_token_of_each_request_makes_the_difference() -> None:
    assert accept_length(500, 200) == 2.5
    assert per_cycle(500, 200, requests=10) == pytest.approx(2.45)
    assert accept_length(500, 200) - per_cycle(500, 200, 10) == pytest.approx(10 / 200)


def test_without_steps_there_is_none() -> None:
    assert accept_length(500, None) is None
    assert per_cycle(500, 0) is None


def test_a_chain_brings_the_target_s_token_and_what_is_accepted() -> None:
    assert of_chain((0.7, 0.5, 0.35)) == pytest.approx(2.55)
    assert of_chain(()) == 1
