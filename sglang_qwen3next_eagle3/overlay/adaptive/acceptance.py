"""What a head accepts: at each position the share of drafts that the target takes over, of those
whose predecessors it took over, as far as it was seen lately."""

from collections.abc import Sequence

from sglang_qwen3next_eagle3.overlay.adaptive.states import chain_lengths

MEMORY = 48.0
"""Drafts of a position that are remembered, besides those of the last cycle."""
TRUST = 4.0
"""How many seen drafts the expectation weighs as much as."""


class Acceptance:
    """Whole numbers in, shares out; the same on every rank, for all see the same cycles."""

    def __init__(self, expected: Sequence[float]) -> None:
        """expected: shares of a head that is not known, from the first position on."""
        self._expected = tuple(expected)
        self._hits = [0.0] * len(expected)
        self._trials = [0.0] * len(expected)

    def observe(self, correct: Sequence[int], steps: int) -> None:
        """A cycle of so many steps; correct: accepted drafts of each request."""
        depth = min(steps, len(self._expected))
        reaching = [0] * (depth + 1)
        for accepted in correct:
            reaching[min(accepted, depth)] += 1
        for place in range(depth - 1, -1, -1):
            reaching[place] += reaching[place + 1]
        for place in range(depth):
            tried, taken = reaching[place], reaching[place + 1]
            if tried:
                keep = MEMORY / (MEMORY + tried)
                self._trials[place] = self._trials[place] * keep + tried
                self._hits[place] = self._hits[place] * keep + taken

    def forget(self, steps: int) -> None:
        """Leave of the positions behind `steps` a trace, which a few new drafts outweigh."""
        for place in range(steps, len(self._expected)):
            if self._trials[place] > TRUST:
                self._hits[place] *= TRUST / self._trials[place]
                self._trials[place] = TRUST

    def shares(self) -> list[float]:
        """By position. Where little was seen, the expectation: of the first position its own, of
        the others as much less than the one before as it is in an unknown head."""
        found: list[float] = []
        for place, expected in enumerate(self._expected):
            if place:
                before = self._expected[place - 1]
                expected = found[-1] * (min(1.0, expected / before) if before else 0.0)
            weighed = self._hits[place] + TRUST * expected
            found.append(weighed / (self._trials[place] + TRUST))
        return found

    def lengths(self) -> list[float]:
        """Tokens that a cycle of 0, 1, 2, ... steps is expected to bring a request."""
        return chain_lengths(self.shares())
