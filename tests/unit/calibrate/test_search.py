from collections.abc import Callable

import pytest

from sglang_qwen3next_eagle3.calibrate.measure import descend, even_start, replaced
from sglang_qwen3next_eagle3.calibrate.scoring import Depths

LAYERS = 12


def sweep_of(value: Callable[[Depths], float]) -> Callable[[Depths, int], list[float]]:
    return lambda depths, slot: [
        value(replaced(depths, slot, depth)) for depth in range(LAYERS + 1)
    ]


@pytest.mark.parametrize("right", [(4, 8, 12), (0, 1, 2), (3, 7, 11), (9, 2, 5)])
def test_slots_that_have_their_own_best_are_found_in_two_rounds(right: Depths) -> None:
    found = descend(
        sweep_of(lambda depths: -sum(abs(a - b) for a, b in zip(depths, right, strict=True))),
        even_start(LAYERS, 3),
    )
    assert found.depths == right
    assert found.value == 0
    assert found.sweeps <= 6
    assert found.profile[1][right[1] - 1] == -1, "the other slots are the final ones"


def test_a_slot_whose_best_depends_on_another_is_gone_back_to() -> None:
    """Slot 0 looks best at 1 until slot 1 is found at 9, then at 6."""

    def value(depths: Depths) -> float:
        first, second = depths
        return 2.0 * (second == 9) + (first == (6 if second == 9 else 1))

    found = descend(sweep_of(value), (4, 8))
    assert found.depths == (6, 9)
    assert found.value == 3.0


def test_equal_streams_do_not_send_the_search_in_circles() -> None:
    found = descend(sweep_of(lambda depths: 1.0), (3, 6, 9))
    assert found.depths == (3, 6, 9)
    assert found.sweeps == 3


def test_a_search_that_does_not_settle_is_ended() -> None:
    calls = []

    def sweep(depths: Depths, slot: int) -> list[float]:
        calls.append(slot)
        return [float((depth + len(calls)) % 13) for depth in range(13)]

    assert descend(sweep, (0, 0), max_rounds=3).sweeps == 6


def test_rivals_are_the_next_best_of_each_slot() -> None:
    found = descend(sweep_of(lambda depths: -float((depths[0] - 4) ** 2 + depths[1])), (1, 1))
    assert found.depths == (4, 0)
    assert found.rivals() == [(3, 0), (4, 1)]


def test_the_start_is_spread_over_the_depth() -> None:
    assert even_start(48, 3) == (12, 24, 36)
    assert even_start(12, 4) == (2, 5, 7, 10)
