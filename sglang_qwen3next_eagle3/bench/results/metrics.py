"""From samples to figures. Pure; every definition stands in `records.Figures`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sglang_qwen3next_eagle3.base import accept_length
from sglang_qwen3next_eagle3.bench.results.records import (
    Equality,
    Figures,
    Percentiles,
    RequestSample,
)


def figures(
    samples: Sequence[RequestSample],
    seconds: float,
    *,
    failed: int = 0,
    draft_tokens: int | None = None,
) -> Figures:
    """Of one pass. seconds: its wall time; draft_tokens: those of the tree, root included.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("a pass without answers has no figures")
    tokens = sum(s.completion_tokens for s in samples)
    return Figures(
        requests=len(samples),
        failed=failed,
        prompt_tokens=sum(s.prompt_tokens for s in samples),
        completion_tokens=tokens,
        seconds=seconds,
        output_tok_s=tokens / seconds,
        request_tok_s=float(np.median([s.completion_tokens / s.seconds for s in samples])),
        decode_tok_s=_median(decode_rate(s) for s in samples) or 0.0,
        cycle_ms=_median(cycle_ms(s) for s in samples),
        ttft=percentiles([s.first_token_seconds for s in samples]),
        inter_token=percentiles([gap for s in samples for gap in inter_token_seconds(s)]),
        **_speculation(samples, tokens, draft_tokens),
    )


def inter_token_seconds(sample: RequestSample) -> list[float]:
    """The time of each token after the first chunk.

    Tokens that came together share the time since the chunk before, as SGLang's and vLLM's own
    benchmarks count it.
    """
    times = []
    for (before, had), (now, has) in zip(sample.chunks, sample.chunks[1:], strict=False):
        times += [(now - before) / (has - had)] * (has - had)
    return times


def decode_rate(sample: RequestSample) -> float | None:
    """Tokens per second after the first chunk; None if nothing came after it."""
    (first, had), (last, has) = sample.chunks[0], sample.chunks[-1]
    return (has - had) / (last - first) if last > first else None


def percentiles(values: Sequence[float]) -> Percentiles:
    """Linear interpolation between ranks; zeros where there are no values."""
    if not values:
        return Percentiles(p50=0.0, p90=0.0, p99=0.0)
    p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    return Percentiles(p50=p50, p90=p90, p99=p99)


def cycle_ms(sample: RequestSample) -> float | None:
    """What a cycle of this request took: its tokens a cycle over its decode rate.

    Of each request by itself: where they accept differently, the ratio of an average accept length
    to a median rate is no request's cycle.
    """
    rate = decode_rate(sample)
    if rate is None:
        return None
    tokens = 1.0
    if sample.verify_steps is not None:
        each = accept_length.per_cycle(sample.completion_tokens, sample.verify_steps)
        if each is None:
            return None
        tokens = each
    return 1000 * tokens / rate if tokens > 0 else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _speculation(
    samples: Sequence[RequestSample], tokens: int, draft_tokens: int | None
) -> dict[str, Any]:
    steps = sum(s.verify_steps or 0 for s in samples)
    length = accept_length.accept_length(tokens, steps)
    if length is None:
        return {}
    proposed = sum(s.proposed_drafts or 0 for s in samples)
    accepted = sum(s.accepted_drafts or 0 for s in samples)
    return {
        "verify_steps": steps,
        "accept_length": length,
        "card_accept_rate": length / draft_tokens if draft_tokens else None,
        "accept_rate": accepted / proposed if proposed else None,
        "accept_by_position": accept_by_position([s.histogram for s in samples]),
    }


def accept_by_position(histograms: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Share of steps that accepted at least 1, 2, ... drafts, over summed histograms."""
    width = max(map(len, histograms), default=0)
    sums = [sum(h[i] for h in histograms if i < len(h)) for i in range(width)]
    steps = sum(sums)
    if not steps:
        return ()
    return tuple(sum(sums[position:]) / steps for position in range(1, width))


def equality(answers: Sequence[RequestSample], plain: Sequence[RequestSample]) -> Equality:
    """Greedy answers against those to the same prompts without speculation.

    A turn after one that differs was asked something else and does not count, and neither does an
    answer whose tokens are not known.
    """
    reference = {_turn(s): s.output_ids for s in plain if _is_whole(s)}
    equal: dict[tuple[str, int], bool] = {}
    differ: list[int] = []
    for sample in sorted(answers, key=_turn):
        conversation, turn = place = _turn(sample)
        asked_alike = all(equal.get((conversation, before)) for before in range(1, turn))
        if place not in reference or not _is_whole(sample) or not asked_alike:
            continue
        other = reference[place]
        equal[place] = sample.output_ids == other
        if not equal[place]:
            pairs = zip(sample.output_ids, other, strict=False)
            shorter = min(len(sample.output_ids), len(other))
            differ.append(next((i for i, (a, b) in enumerate(pairs) if a != b), shorter))
    return Equality(
        equal=sum(equal.values()), of=len(equal), first_divergence=tuple(sorted(differ))
    )


def _turn(sample: RequestSample) -> tuple[str, int]:
    return sample.conversation or sample.prompt, sample.turn


def _is_whole(sample: RequestSample) -> bool:
    return len(sample.output_ids) == sample.completion_tokens
