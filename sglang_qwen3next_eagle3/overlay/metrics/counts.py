"""The arithmetic behind the metrics of speculation, on numbers that the scheduler has on the host.

Nothing here knows SGLang or Prometheus, and nothing waits for a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sglang_qwen3next_eagle3.overlay.metrics.cycle_costs import CycleCosts


@dataclass(frozen=True)
class CostShare:
    """Seconds of one cycle: what it took, what it should have taken, and what its tokens would
    have taken without speculation."""

    actual: float
    expected: float
    no_speculation: float


def by_position(accepted: Sequence[int]) -> list[int]:
    """How many requests accepted a draft at position 1, 2, ...; the sum is that of `accepted`.

    accepted: drafts of one path that each request accepted in one cycle.
    """
    counts = [0] * max(accepted, default=0)
    for drafts in accepted:
        for position in range(drafts):
            counts[position] += 1
    return counts


class CycleClock:
    """Tells how long cycles take from when their results arrive.

    The time between two results is that of a cycle if no other pass of the target came between
    them. SGLang numbers its passes, and after a pause a prefill comes first, so a pause is never
    taken for a cycle.
    """

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None

    def elapsed(self, pass_number: int | None, now: float) -> float | None:
        """Seconds since the result of the pass before, or None if that was no cycle.

        now: seconds of a monotonic clock, when this result has arrived.
        """
        last, self._last = self._last, None if pass_number is None else (pass_number, now)
        if last is None or pass_number is None or pass_number != last[0] + 1:
            return None
        return now - last[1]


def cost_share(
    costs: CycleCosts, seconds: float, requests: int, accepted: Sequence[int]
) -> CostShare | None:
    """None where a cycle of so many requests was not measured.

    seconds: of the cycle. requests: of its batch. accepted: as of `by_position`, of those that
        still wanted tokens; each of them got one more, the target's own.
    """
    known, going_on = costs.of(requests), costs.of(len(accepted))
    if known is None or going_on is None:
        return None
    steps = sum(accepted) / len(accepted) + 1
    return CostShare(actual=seconds, expected=known[0], no_speculation=steps * going_on[1])
