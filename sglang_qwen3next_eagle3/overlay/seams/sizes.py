"""What recorded cycles take of a GPU's memory at most, said beforehand (`doctor`).

Importing this loads neither torch nor sglang.
"""

from typing import Final

MOST_RECORDED: Final = 32
"""Recorded cycles that one state of a worker makes at most (cycles.py)."""
RECORDED_BYTES: Final = 6 * 2**20
"""Of a recorded cycle of one request of the published target, the most that was measured (four
H200). Of more requests nothing was."""


def recorded(requests: int, *, sampled: bool = False, states: int = 1) -> int:
    """How many cycles are recorded at most: one for each number of requests, again where some of
    them are sampled, and all of that in each state of adaptive drafting.

    requests: of the largest decode graph.
    """
    return states * min(MOST_RECORDED, requests * (2 if sampled else 1))
