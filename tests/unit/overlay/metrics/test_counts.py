import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_qwen3next_eagle3.overlay.metrics.counts import CycleClock, by_position, cost_share
from sglang_qwen3next_eagle3.overlay.metrics.cycle_costs import CycleCosts

COSTS = CycleCosts((3, 4, 8), cycle={1: 0.010, 4: 0.016}, step={1: 0.006, 4: 0.008})


def test_a_request_that_accepted_three_drafts_accepted_one_at_each_of_three_positions() -> None:
    assert by_position([0, 3, 1, 1]) == [3, 1, 1]
    assert by_position([0, 0]) == []
    assert by_position([]) == []


@given(st.lists(st.integers(0, 7), max_size=40))
def test_positions_add_up_to_the_accepted_drafts_and_never_rise(accepted: list[int]) -> None:
    counts = by_position(accepted)
    assert sum(counts) == sum(accepted)
    assert counts == sorted(counts, reverse=True)
    assert all(counts[n] == sum(a > n for a in accepted) for n in range(len(counts)))


def test_the_time_between_two_passes_that_follow_each_other_is_a_cycle() -> None:
    clock = CycleClock()
    assert clock.elapsed(7, 1.0) is None
    assert clock.elapsed(8, 1.25) == pytest.approx(0.25)
    assert clock.elapsed(9, 1.75) == pytest.approx(0.5)


def test_a_prefill_between_two_passes_or_a_pass_without_a_number_makes_no_cycle() -> None:
    clock = CycleClock()
    clock.elapsed(7, 1.0)
    assert clock.elapsed(9, 30.0) is None
    assert clock.elapsed(None, 30.5) is None
    assert clock.elapsed(11, 31.0) is None
    assert clock.elapsed(12, 31.5) == pytest.approx(0.5)


def test_what_a_cycle_s_tokens_would_have_taken_is_a_step_for_each_token_of_a_request() -> None:
    share = cost_share(COSTS, seconds=0.012, requests=1, accepted=[2])
    assert share is not None
    assert share.actual == 0.012
    assert share.expected == pytest.approx(0.010)
    assert share.no_speculation == pytest.approx(3 * 0.006)


def test_between_measured_batches_costs_are_linear_and_requests_that_ended_bring_nothing() -> None:
    share = cost_share(COSTS, seconds=0.015, requests=4, accepted=[0, 3])
    assert share is not None
    assert share.expected == pytest.approx(0.016)
    # Two requests go on; a step of two takes a third of the way from 6 to 8 ms.
    assert share.no_speculation == pytest.approx((1 + 3 / 2) * (0.006 + 0.002 / 3))


def test_beyond_what_was_measured_there_is_no_share() -> None:
    assert cost_share(COSTS, seconds=0.1, requests=5, accepted=[1] * 5) is None
