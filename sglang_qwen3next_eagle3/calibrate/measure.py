"""The measurement: named selections, a search that knows none of them, and what it comes to.

The search is coordinate descent: for one slot after another the stream that the head drafts best
from.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sglang_qwen3next_eagle3.calibrate import verdict
from sglang_qwen3next_eagle3.calibrate.scoring import Depths, Score, Scorer, Texts
from sglang_qwen3next_eagle3.calibrate.verdict import Verdict
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target

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


Task = Callable[[str, int], Callable[[], None]]
"""Starts a piece of work by its label and size; the result is called for each part of it done."""


@dataclass(frozen=True)
class SelectionMeasurement:
    """verdict: of all candidates that were scored with every draft step.

    searched: where the search ended that started from no named selection.
    profile: [slots][layers + 1], first-step top-1 agreement of every stream in a slot, the other
        slots as in the best selection that a search found (`around`).
    sweeps: slots that were gone through.
    """

    verdict: Verdict
    searched: Depths
    around: Depths
    profile: tuple[tuple[float, ...], ...]
    sweeps: int


class Sweeps:
    """Sweeps over one set of texts; none is made twice."""

    def __init__(self, scorer: Scorer, texts: Texts, streams: int, task: Task) -> None:
        self._scorer, self._texts = scorer, texts
        self._streams, self._task = streams, task
        self._scores: dict[tuple[int, Depths], list[Score]] = {}

    def scores(self, depths: Depths, slot: int) -> list[Score]:
        others = (*depths[:slot], *depths[slot + 1 :])
        key = slot, others
        if key not in self._scores:
            label = f"search, slot {slot + 1} of {len(depths)}, sweep {len(self._scores) + 1}"
            done = self._task(label, self._streams * len(self._texts))
            self._scores[key] = self._scorer.sweep(self._texts, depths, slot, done)
        return self._scores[key]

    def overlap(self, depths: Depths, slot: int) -> list[float]:
        return [score.mean_overlap for score in self.scores(depths, slot)]

    @property
    def made(self) -> int:
        return len(self._scores)


def measure(
    scorer: Scorer,
    texts: Texts,
    target: Target,
    *,
    own: AuxSelection | None = None,
    steps: int = 3,
    seed: int = 0,
    task: Task = lambda label, total: lambda: None,
) -> SelectionMeasurement:
    """Which selection of the target's streams the head was trained with.

    own: the selection that the head's config names, if it names one.
    steps: drafts in the chains that accept length is predicted for.
    """
    count = scorer.model.head.aux_count
    sweeps = Sweeps(scorer, texts, target.num_layers + 1, task)
    start = even_start(target.num_layers, count)
    descent = descend(sweeps.overlap, start)
    searched = descent.depths

    named = verdict.known_selections(target, count, own)
    wanted = list(dict.fromkeys([*(depths for _, depths in named), searched]))
    done = task("named selections", len(wanted) * len(texts))
    scores = dict(zip(wanted, scorer.score(texts, wanted, steps, done), strict=True))

    best = max(scores, key=lambda depths: scores[depths].mean_overlap)
    if best != searched:
        # The search is stuck where a named selection is better: it goes on from there.
        descent = descend(sweeps.overlap, best)
    more = [depths for depths in (descent.depths, *descent.rivals()) if depths not in scores]
    done = task("the best and their rivals", len(more) * len(texts))
    scores |= dict(zip(more, scorer.score(texts, more, steps, done), strict=True))
    profile = _profile(sweeps, descent)

    best = max(scores, key=lambda depths: scores[depths].mean_overlap)
    done = task("the control", len(texts))
    (control,) = scorer.score(texts, [best], steps, done, displaced=True)
    judged = verdict.judge(named, scores, control, seed)
    return SelectionMeasurement(judged, searched, descent.depths, profile, sweeps.made)


def _profile(sweeps: Sweeps, descent: Descent) -> tuple[tuple[float, ...], ...]:
    slots = range(len(descent.depths))
    return tuple(
        tuple(score.top1[0] for score in sweeps.scores(descent.depths, slot)) for slot in slots
    )
