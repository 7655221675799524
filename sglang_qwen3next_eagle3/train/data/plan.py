"""What `train prepare` is told, and the part of it that determines the outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.train.data.regenerate import Settings
from sglang_qwen3next_eagle3.train.data.sources import Opened, Source
from sglang_qwen3next_eagle3.train.data.workspace import sha256


@dataclass(frozen=True)
class Plan:
    """All that `prepare` is told. samples: training and evaluation together, None for all;
    evaluation: a count, or a fraction of what is drawn."""

    sources: tuple[Source, ...]
    out: Path
    samples: int | None = None
    evaluation: int | float = 0.02
    seed: int = 0
    min_answer_chars: int = 16
    excludes: tuple[Path, ...] = ()
    regenerate: Settings | None = None


def request(plan: Plan, opened: Sequence[Opened]) -> dict[str, Any]:
    """What determines the outcome; where it comes from (paths, the server) may change."""
    settings = plan.regenerate
    again = ("model", "max_tokens", "temperature")
    return {
        "sources": [
            {
                "label": one.source.label,
                **one.identity,
                "weight": None if one.source.weight is None else str(one.source.weight),
                "format": one.source.format,
            }
            for one in opened
        ],
        "samples": plan.samples,
        "evaluation": plan.evaluation,
        "seed": plan.seed,
        "min_answer_chars": plan.min_answer_chars,
        "excludes": [sha256(path) for path in plan.excludes],
        "regenerate": settings and {name: getattr(settings, name) for name in again},
    }
