"""From scores to a decision: the selection a head was trained with, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.calibrate.scoring import Depths, Score
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection, Tap
from sglang_qwen3next_eagle3.model.target import Target

RESAMPLES = 4000
CONFIDENCE = 0.99
"""Of intervals. Not 95 %: the best of many candidates is partly the luckiest."""
CONFIG = "config"
"""The name of what the head's config names."""
SMALL = 0.25
"""A margin that is small, in parts of what the head gains over the control. Heads of a few hundred
steps were taken for another by 0.1 on texts that their target did not write; with the layers of
another, a well trained head lost 0.5 and more."""
MIN_TEXTS = 8
"""Fewer texts make nothing certain: a bootstrap over them draws the same few again and again, over
one of them always the same."""
CONTROL_ERRORS = 5.0
"""Standard errors by which the best, searched for among thousands, has to beat the control."""


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its bootstrap interval and standard error."""

    mean: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class ScoredSelection:
    """A selection that was scored. names: what it is known as, for example ("card", "config").

    margin: how much less than the best one it overlaps with the target.
    shorter: how much shorter its accept length is.
    """

    depths: Depths
    names: tuple[str, ...]
    score: Score
    margin: Estimate
    shorter: Estimate

    @property
    def tied(self) -> bool:
        """Whether the texts do not tell it from the best one."""
        return self.margin.low <= 0

    @property
    def servable(self) -> bool:
        """SGLang concatenates distinct streams in layer order."""
        return list(self.depths) == sorted(set(self.depths))


@dataclass(frozen=True)
class Verdict:
    """candidates: the best first. chosen: None where nothing is found that can be served.

    control: the best one's figures with states that tell nothing; gain: overlap above it.
    """

    candidates: tuple[ScoredSelection, ...]
    chosen: ScoredSelection | None
    control: Score
    gain: Estimate

    @property
    def texts(self) -> int:
        return len(self.control.roots)

    @property
    def enough(self) -> bool:
        """Whether the texts are so many that their scatter says how sure a figure is."""
        return self.texts >= MIN_TEXTS

    @property
    def learned(self) -> bool:
        """Whether the head makes anything of the states at all."""
        return self.enough and self.gain.mean > CONTROL_ERRORS * self.gain.error

    @property
    def narrowly_against_config(self) -> bool:
        """Whether another selection than the config's was chosen, and by a small margin."""
        own = next((c for c in self.candidates if CONFIG in c.names), None)
        if self.chosen is None or own is None or own is self.chosen:
            return False
        return own.margin.mean < SMALL * self.gain.mean


def judge(
    named: Sequence[tuple[str, Depths]], scores: dict[Depths, Score], control: Score, seed: int = 0
) -> Verdict:
    """Rank what was scored and choose.

    Of candidates that the texts do not tell apart the one that the head's config names is chosen,
    else the best that has a name, so that noise does not move a head off what is known of it; else
    the best.
    """
    ranked = sorted(scores, key=lambda depths: scores[depths].mean_overlap, reverse=True)
    best = scores[ranked[0]]
    candidates = []
    for depths in ranked:
        own = scores[depths]
        names = tuple(name for name, its in named if its == depths)
        margin, shorter = _overlap_gain(best, own, seed), _length_gain(best, own, seed)
        candidates.append(ScoredSelection(depths, names, own, margin, shorter))
    verdict = Verdict(tuple(candidates), None, control, _overlap_gain(best, control, seed))
    return replace(verdict, chosen=_choose(candidates)) if verdict.learned else verdict


def _choose(candidates: Sequence[ScoredSelection]) -> ScoredSelection | None:
    tied = [candidate for candidate in candidates if candidate.tied and candidate.servable]
    own = [candidate for candidate in tied if CONFIG in candidate.names]
    named = [candidate for candidate in tied if candidate.names]
    return next(iter([*own, *named, *tied]), None)


def _overlap_gain(one: Score, other: Score, seed: int) -> Estimate:
    return paired(one.overlap - other.overlap, one.roots, seed)


def _length_gain(one: Score, other: Score, seed: int) -> Estimate:
    return paired((one.runs - other.runs).sum(-1), one.roots, seed)


def paired(differences: torch.Tensor, weights: torch.Tensor, seed: int = 0) -> Estimate:
    """The mean of summed differences over summed weights, with its bootstrap interval over prompts.

    differences, weights: [P]. Both selections are drawn on the same prompts, so that what is hard
    about a prompt cancels out. The percentile interval of `CONFIDENCE`.
    """
    count = len(differences)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (RESAMPLES, count), generator=generator)
    means = differences[drawn].sum(1) / weights[drawn].sum(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    mean = float(differences.sum() / weights.sum())
    return Estimate(mean, low, high, float(means.std()))


def known_selections(
    target: Target, count: int, own: AuxSelection | None
) -> list[tuple[str, Depths]]:
    """The selections that have a name, the head's own first; those that fit the target and fc.

    The head's ids are also tried as inputs of their layers: vLLM's family of servers reads them so.
    """
    found = [(CONFIG, own.depths)] if own is not None else []
    for name in aux_layers.NAMED:
        try:
            selection = aux_layers.named(name, target)
            aux_layers.validate(selection, target, count, allow_gdn=True)
        except UserError:
            continue
        found.append((name, selection.depths))
    if own is not None and all(tap.kind == "output" for tap in own.taps):
        found.append(("config, ids as inputs", tuple(tap.layer for tap in own.taps)))
    return found


def spelled(depths: Depths, target: Target) -> AuxSelection:
    """The selection of these streams, by its name or by attention layers where it can be."""
    for name in aux_layers.NAMED:
        try:
            selection = aux_layers.named(name, target)
        except UserError:
            continue
        if selection.depths == depths:
            return selection
    return AuxSelection(tuple(_tap(depth, target) for depth in depths))


def _tap(depth: int, target: Target) -> Tap:
    if depth == 0:
        return Tap(0, "input")
    if target.kinds[depth - 1] != "attention" and depth < target.num_layers:
        following = target.kinds[depth]
        if following == "attention":
            return Tap(depth, "input")
    return Tap(depth - 1, "output")
