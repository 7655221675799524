"""What a head accepts: at each position the share of drafts that the target takes over, of those
whose predecessors it took over, as far as it was seen lately."""

from collections.abc import Sequence

from sglang_qwen3next_eagle3.overlay.adaptive.states import chain_lengths

MEMORY = 48.0
"""Drafts of a position that are remembered, besides those of the last cycle, """
CYCLES = 4
"""or those of so many cycles, where that is more: what all requests of one have in common, a load
of one kind or the end of a phrase, is no measure of what comes."""
TRUST = 4.0
"""How many seen drafts the expectation weighs as much as at first; less with each that is seen."""
TRACE = 3.0
"""Drafts that are left of those that were seen, where others are to be seen in their place."""
OF_OTHERS = 4.0
"""At least left of those of requests that have ended."""


class Acceptance:
    """Whole numbers in, shares out; the same on every rank, for all see the same cycles."""

    def __init__(self, expected: Sequence[float]) -> None:
        """expected: shares of a head that is not known, from the first position on."""
        self._expected = tuple(expected)
        self._hits = [0.0] * len(expected)
        self._trials = [0.0] * len(expected)
        self._seen = [0] * len(expected)
        """Drafts that the expectation has to stand back for."""

    def begin(self, new: int, requests: int) -> None:
        """So many of the requests are new, and each may be accepted otherwise than those that were
        seen: these count for less."""
        kept = 1 - new / requests
        for place, trials in enumerate(self._trials):
            self._leave(place, max(OF_OTHERS, trials * kept))

    def observe(self, correct: Sequence[int], steps: int) -> None:
        """A cycle of so many steps; correct: accepted drafts of each request."""
        depth = min(steps, len(self._expected))
        memory = max(MEMORY, float(CYCLES * len(correct)))
        reaching = [0] * (depth + 1)
        for accepted in correct:
            reaching[min(accepted, depth)] += 1
        for place in range(depth - 1, -1, -1):
            reaching[place] += reaching[place + 1]
        for place in range(depth):
            tried, taken = reaching[place], reaching[place + 1]
            if tried:
                self._seen[place] += tried
                keep = memory / (memory + tried)
                self._trials[place] = self._trials[place] * keep + tried
                self._hits[place] = self._hits[place] * keep + taken

    def forget(self, steps: int) -> None:
        """Leave of the positions behind `steps` a trace, which a few new drafts outweigh. Those
        behind the first of them are as in an unknown head again: they go by what is before them."""
        for place in range(steps, len(self._expected)):
            self._leave(place, TRACE)
            if place > steps:
                self._seen[place] = 0

    def _leave(self, place: int, trials: float) -> None:
        """The same share, as if it was seen of so many drafts, where it was seen of more."""
        if self._trials[place] > trials:
            self._hits[place] *= trials / self._trials[place]
            self._trials[place] = trials

    def shares(self) -> list[float]:
        """By position. Where little was seen, the expectation: of the first position its own, of
        the others as much less than the one before as it is in an unknown head."""
        found: list[float] = []
        for place, expected in enumerate(self._expected):
            if place:
                before = self._expected[place - 1]
                expected = found[-1] * (min(1.0, expected / before) if before else 0.0)
            weight = TRUST**2 / (TRUST + self._seen[place])
            weighed = self._hits[place] + weight * expected
            found.append(weighed / (self._trials[place] + weight))
        return found

    def lengths(self) -> list[float]:
        """Tokens that a cycle of 0, 1, 2, ... steps is expected to bring a request."""
        return chain_lengths(self.shares())
