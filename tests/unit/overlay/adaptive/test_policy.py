"""The choice of steps against made-up heads: what it gives of no drafting and of the best steps."""

import itertools
import random
from collections.abc import Callable, Sequence

import pytest

from sglang_qwen3next_eagle3.overlay.adaptive.acceptance import Acceptance
from sglang_qwen3next_eagle3.overlay.adaptive.policy import (
    DRAFTS_IN_VAIN,
    DRAFTS_OF_A_TRIAL,
    HOLD,
    CostedSteps,
    Policy,
    Trial,
)
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates, chain_lengths

STEPS = (0, 1, 2, 4, 7)
# Milliseconds of one H200 (benchmarks/results/h200x1-speed).
COSTS = {
    1: {0: 6.10, 1: 7.04, 2: 7.46, 4: 8.38, 7: 9.65},
    4: {0: 6.76, 1: 8.53, 2: 10.01, 4: 12.00, 7: 14.15},
    8: {0: 8.36, 1: 10.43, 2: 12.72, 4: 15.82, 7: 18.77},
    16: {0: 11.30, 1: 13.86, 2: 17.45, 4: 21.90, 7: 25.76},
    32: {0: 15.74, 1: 19.64, 2: 24.46, 4: 30.58, 7: 35.83},
}
STATES = DraftStates({1: STEPS}, COSTS, (0.62, 0.58, 0.55, 0.53, 0.51, 0.5, 0.5), 2)
LENGTHS = (1.0, 1.6, 2.46, 3.0)
BATCHES = (1, 4, 8, 16, 32, 48)

Draw = Callable[[int, int], list[int]]


def even(length: float) -> tuple[Draw, list[float]]:
    """As `bench speed` simulates it: whole numbers whose mean it is, the same for all requests."""
    carried = 0.0

    def draw(requests: int, steps: int) -> list[int]:
        nonlocal carried
        carried += length
        whole = int(carried + 1e-9)
        carried -= whole
        return [min(whole - 1, steps)] * requests

    whole = int(length)
    share = length - whole
    gains = [(1 - share) * min(whole, n + 1) + share * min(whole + 1, n + 1) for n in range(8)]
    return draw, gains


def chance(length: float) -> tuple[Draw, list[float]]:
    """A head that accepts the same share at every position, request by request."""
    share, drawn = 1 - 1 / length, random.Random(0)

    def one(steps: int) -> int:
        return next((n for n in range(steps) if drawn.random() >= share), steps)

    return lambda requests, steps: [one(steps) for _ in range(requests)], chain_lengths([share] * 7)


def serve(policy: Policy, draw: Draw, requests: int, milliseconds: float) -> float:
    """Tokens a millisecond, of all requests."""
    spent, tokens = 0.0, 0
    while spent < milliseconds:
        steps = policy.steps(requests)
        accepted = draw(requests, steps)
        spent += STATES.cost(requests, steps)
        tokens += sum(accepted) + requests
        policy.observe(accepted, steps)
    return tokens / spent


def steady(gains: Sequence[float], requests: int) -> dict[int, float]:
    return {n: requests * gains[n] / STATES.cost(requests, n) for n in STEPS}


@pytest.mark.parametrize("head", [even, chance])
@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_as_fast_as_none_and_nearly_as_the_best(
    head: Callable[[float], tuple[Draw, list[float]]], length: float
) -> None:
    for requests in BATCHES:
        draw, gains = head(length)
        policy = Policy(STATES)
        serve(policy, draw, requests, 1000)
        rate, fixed = serve(policy, draw, requests, 5000), steady(gains, requests)
        assert rate >= 0.98 * fixed[0], (requests, rate / fixed[0])
        assert rate >= 0.95 * max(fixed.values()), (requests, rate / max(fixed.values()))


def test_it_follows_when_load_and_acceptance_change() -> None:
    """Every three seconds, among all that it may meet; what it loses is the way there."""
    drawn, policy = random.Random(1), Policy(STATES)
    of_none, of_best, worst = [], [], 1.0
    for _ in range(40):
        draw, gains = chance(drawn.choice(LENGTHS))
        requests = drawn.choice(BATCHES)
        rate, fixed = serve(policy, draw, requests, 3000), steady(gains, requests)
        of_none.append(rate / fixed[0])
        of_best.append(rate / max(fixed.values()))
        worst = min(worst, rate / fixed[0])
    assert sum(of_best) / len(of_best) > 0.96
    assert sum(of_none) / len(of_none) > 1.1
    assert worst > 0.95


def answered(policy: Policy, draw: Draw, requests: int, tokens: int) -> float:
    """Tokens a millisecond of requests that begin together, each answered by so many tokens; what
    comes of a cycle is read while the next one is under way."""
    left, spent, new = [tokens] * requests, 0.0, requests
    unread: tuple[list[int], int, int] | None = None
    while left:
        steps = policy.steps(len(left))
        accepted = draw(len(left), steps)
        spent += STATES.cost(len(left), steps)
        if unread is not None:
            policy.observe(*unread)
        unread, new = (accepted, steps, new), 0
        left = [n - 1 - more for n, more in zip(left, accepted, strict=True) if n > 1 + more]
    if unread is not None:
        policy.observe(*unread)
    return requests * tokens / spent


def test_short_answers_are_given_at_the_speed_of_what_suits_them() -> None:
    """As `bench auto` asks: one load and accept length after another, each twice, 128 tokens."""
    policy = Policy(STATES)
    for length in LENGTHS:
        for requests in BATCHES:
            draw, gains = even(length)
            answered(policy, draw, requests, 128)
            rate, fixed = answered(policy, draw, requests, 128), steady(gains, requests)
            assert rate >= 0.98 * fixed[0], (length, requests, rate / fixed[0])
            assert rate >= 0.95 * max(fixed.values()), (length, requests, rate, fixed)


def test_a_new_request_is_tried_where_the_old_ones_did_not_pay() -> None:
    def cycles(new: int) -> int:
        """Until more than none is drafted."""
        policy = Policy(STATES)
        answered(policy, even(1.0)[0], 1, 128)
        count = 0
        while policy.steps(1) == 0:
            policy.observe([0], 0, new if count == 0 else 0)
            count += 1
        return count

    assert cycles(new=1) == 1
    assert cycles(new=0) > 50


def test_trials_of_a_head_that_brings_nothing_take_little() -> None:
    policy, draw = Policy(STATES), even(1.0)[0]
    serve(policy, draw, 1, 1000)
    assert serve(policy, draw, 1, 50000) > 0.996 / STATES.cost(1, 0)


@pytest.mark.parametrize(
    ("accepted", "cycles"),
    [
        (0, DRAFTS_IN_VAIN),  # The steps before are too many already.
        (2, DRAFTS_IN_VAIN),  # No draft of those that are tried.
        (3, DRAFTS_OF_A_TRIAL),
    ],
)
def test_a_trial_is_over_once_it_says_something(accepted: int, cycles: int) -> None:
    trial = Trial(steps=4, before=2, began=0, captured=1)
    for cycle in range(cycles):
        assert not trial.is_over(cycle)
        trial.observe([accepted])
    assert trial.is_over(cycles)


def test_a_change_of_load_alone_changes_the_choice() -> None:
    """What a head accepts is the same at every load. Down at once, and up if it lasts."""
    costs = {1: {0: 5.0, 1: 5.5}, 8: {0: 5.0, 1: 7.5}}
    policy = Policy(DraftStates({1: (0, 1)}, costs, (0.6,), 1))
    draw, _ = even(1.3)
    # Fewer than there are to the first trial.
    for _ in range(30):
        policy.observe(draw(1, 1), 1)
    assert [policy.steps(n) for n in (1, 8)] == [1, 0]
    alternating = []
    for place in range(20):
        alternating.append(policy.steps(1 if place % 2 else 8))
        policy.observe([0], 0)
    assert set(alternating) == {0}
    assert policy.steps(8) == 0
    lasting = []
    for _ in range(HOLD + 1):
        lasting.append(policy.steps(1))
        policy.observe([0], 0)
    assert lasting == [0] * HOLD + [1]
    assert policy.steps(8) == 0


def test_switches_are_few_at_a_steady_load() -> None:
    for length in (1.0, 1.6, 2.46):
        policy, switches, before = Policy(STATES), 0, 0
        draw, _ = chance(length)
        serve(policy, draw, 16, 2000)
        for _ in range(2000):
            steps = policy.steps(16)
            switches += steps != before
            before = steps
            policy.observe(draw(16, steps), steps)
        assert switches <= 60, (length, switches)


def test_only_what_has_a_graph_at_that_load_is_drafted() -> None:
    states = DraftStates({1: (0, 2, 4), 8: (0, 1)}, COSTS, STATES.shares, 2)
    policy = Policy(states)
    draw, _ = even(5.0)
    for _ in range(200):
        policy.observe(draw(1, 4), 4)
    assert policy.steps(1) == 4
    assert policy.steps(7) == 4
    assert policy.steps(7, captured=8) == 1
    assert policy.steps(8) == 1


def test_a_trial_stands_back_where_its_steps_have_no_graph() -> None:
    """One that began with one request, when eight come."""
    states = DraftStates({1: (0, 1, 2, 4), 8: (0, 1)}, COSTS, STATES.shares, 4)
    drawn, met = random.Random(1), 0
    policy = Policy(states)
    for cycle in range(2000):
        steps = policy.steps(1)
        accepted = min(steps, int(drawn.random() < 0.6))
        policy.observe([accepted], steps, int(cycle % 60 == 0))
        met += steps == 2
        assert policy.steps(8) in states.candidates_at(8), cycle
    assert met, "no trial was under way"


class Sglang:
    """Of its AdaptiveSpeculativeParams, what is asked."""

    captured: Sequence[int] = ()

    @property
    def candidate_steps(self) -> list[int]:
        return list(STEPS)

    def set_cuda_graph_bs(self, cuda_graph_bs: list[int] | None) -> None:
        self.captured = cuda_graph_bs or []

    def cuda_graph_bs_for_step(self, step: int) -> list[int] | None:
        return list(self.captured)

    def _pad_to_cuda_graph_bs(self, batch_size: int) -> int:
        return min((n for n in self.captured if n >= batch_size), default=batch_size)


def test_results_that_come_a_cycle_later_count_for_the_steps_they_had() -> None:
    """With overlap scheduling the next cycle is begun before the result of one is there."""
    of_result = 0
    chooses = CostedSteps(Sglang(), STATES, lambda: of_result)
    chooses.set_cuda_graph_bs([1, 2, 4, 8])
    draw, _ = even(1.0)
    begun = [chooses.get_steps_for_batch(3)]
    for _ in range(300):
        # Asked twice in a cycle, as a recorded one does.
        begun.append(chooses.get_steps_for_batch(3))
        assert chooses.get_steps_for_batch(3) == begun[-1]
        of_result = begun[-2]
        chooses.on_verify_complete(draw(3, of_result), 3)
    assert begun[0] > 0
    assert begun[-50:].count(0) > 40


@pytest.mark.parametrize(("requests", "cycles"), [(1, 5), (2, 3), (16, 2)])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_trial_in_vain_takes_no_cycle_more_where_results_come_later(
    requests: int, cycles: int, overlap: bool
) -> None:
    """Behind the one that is not judged, as many as give four drafts."""
    policy, ran = Policy(STATES), list[int]()
    for _ in range(700):
        ran.append(policy.steps(requests))
        assert policy.steps(requests) == ran[-1]
        if len(ran) > overlap:
            policy.observe([0] * requests, ran[-1 - overlap])
    runs = [len(list(run)) for drafts, run in itertools.groupby(map(bool, ran)) if drafts]
    # The first one is how the server begins.
    assert len(runs) > 2
    assert runs[1:] == [cycles] * len(runs[1:])


def test_a_trial_that_waited_goes_on_where_drafts_are_accepted() -> None:
    policy, ran = Policy(STATES), list[int]()
    for _ in range(1000):
        ran.append(policy.steps(16))
        if len(ran) > 1:
            policy.observe([min(ran[-2], len(ran) > 500)] * 16, ran[-2])
    assert set(ran[100:500]) == {0, 1}
    assert 0 not in ran[900:]


def test_a_result_of_which_nobody_knows_the_steps_is_left() -> None:
    chooses = CostedSteps(Sglang(), STATES, lambda: None)
    before = chooses.get_steps_for_batch(1)
    for _ in range(100):
        chooses.on_verify_complete([0], 1)
    assert chooses.get_steps_for_batch(1) == before


def test_a_benchmark_says_the_steps_and_then_hands_over_the_costs() -> None:
    told: list[int | None] = [4]
    cheap = DraftStates({1: (0, 7)}, {1: {0: 1.0, 7: 1.01}}, STATES.shares, 7)
    chooses = CostedSteps(Sglang(), STATES, lambda: None, lambda: told[0], lambda: cheap)
    chooses.set_cuda_graph_bs([1])
    assert chooses.get_steps_for_batch(1) == 4
    told[0] = 3
    assert chooses.get_steps_for_batch(1) == 2
    told[0] = None
    assert chooses.get_steps_for_batch(1) == 7


def test_costs_of_states_that_were_not_built_are_left() -> None:
    told: list[int | None] = [0]
    other = DraftStates({1: (0, 3)}, {1: {0: 1.0, 3: 1.01}}, STATES.shares, 3)
    chooses = CostedSteps(Sglang(), STATES, lambda: None, lambda: told[0], lambda: other)
    chooses.set_cuda_graph_bs([1])
    told[0] = None
    assert chooses.get_steps_for_batch(1) in STEPS


def test_the_first_cycle_behind_none_says_nothing_of_the_head() -> None:
    """Its drafts may begin with one that the head never chose."""
    policy = Policy(STATES)
    policy.observe([0], 0)
    before = policy._acceptance.shares()
    policy.observe([0, 0], 2)
    assert policy._acceptance.shares() == before
    policy.observe([0, 0], 2)
    assert policy._acceptance.shares()[0] < before[0]


def test_a_few_cycles_of_many_requests_are_no_measure_of_a_head() -> None:
    """All requests of a cycle may be at a place of one kind, and those of the next one not."""
    acceptance = Acceptance((0.5, 0.5))
    for cycle in range(40):
        acceptance.observe([cycle % 2] * 32, 1)
        if cycle > 8:
            assert 0.43 < acceptance.shares()[0] < 0.57
    for _ in range(3):
        acceptance.observe([0] * 32, 1)
    assert 0.25 < acceptance.shares()[0] < 0.35
    # And of a request alone drafts are remembered, not cycles.
    alone = Acceptance((0.5, 0.5))
    for _ in range(100):
        alone.observe([1], 1)
    assert alone.shares()[0] > 0.95
    for _ in range(24):
        alone.observe([0], 1)
    assert 0.5 < alone.shares()[0] < 0.65
