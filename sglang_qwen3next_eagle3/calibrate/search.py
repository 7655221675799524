"""Coordinate descent: for one slot after another the stream that the head drafts best from."""

from collections.abc import Callable
from dataclasses import dataclass

from sglang_qwen3next_eagle3.calibrate.scoring import Depths

MAX_ROUNDS = 6


@dataclass(frozen=True)
class Descent:
    """Where a descent ended.

    depths: the selection; value: its measure.
    profile: [slots][layers + 1], the measure of every stream in a slot with the others as in
        `depths`.
    sweeps: slots that were gone through.
    """

    depths: Depths
    value: float
    profile: tuple[tuple[float, ...], ...]
    sweeps: int

    def rivals(self) -> list[Depths]:
        """For each slot the selection with the next best stream there."""
        found = []
        for slot, values in enumerate(self.profile):
            order = sorted(range(len(values)), key=lambda d: values[d], reverse=True)
            depth = next(d for d in order if d != self.depths[slot])
            found.append(replaced(self.depths, slot, depth))
        return found


def replaced(depths: Depths, slot: int, depth: int) -> Depths:
    return (*depths[:slot], depth, *depths[slot + 1 :])


def even_start(layers: int, slots: int) -> Depths:
    """A start that favours no selection: the streams spread evenly over the depth."""
    return tuple(round((i + 1) * layers / (slots + 1)) for i in range(slots))


def descend(
    sweep: Callable[[Depths, int], list[float]], start: Depths, max_rounds: int = MAX_ROUNDS
) -> Descent:
    """Better the slots in turn until a whole round changes none.

    sweep: the measure of every stream in a slot, the other slots as given; higher is better.
    A stream that another slot already has may be tried: SGLang cannot serve the same stream twice,
    but on the way to the best selection it may be a step.
    """
    depths, sweeps, settled = start, 0, 0
    profile: list[tuple[float, ...]] = [()] * len(start)
    slot = 0
    while settled < len(start) and sweeps < max_rounds * len(start):
        values = sweep(depths, slot)
        sweeps += 1
        best = max(range(len(values)), key=values.__getitem__)
        # An equal is no better: it would go round in circles.
        if values[best] > values[depths[slot]]:
            depths, settled = replaced(depths, slot, best), 1
        else:
            settled += 1
        profile[slot] = tuple(values)
        slot = (slot + 1) % len(start)
    last = (slot - 1) % len(start)
    return Descent(depths, profile[last][depths[last]], tuple(profile), sweeps)
