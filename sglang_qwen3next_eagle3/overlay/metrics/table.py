"""Every metric that this package adds to SGLang's `/metrics`: its name, its type, its meaning."""

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "sglang_qwen3next_eagle3_"

CYCLE_BUCKETS: Final = (
    0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.010, 0.012, 0.015, 0.020, 0.025,
    0.030, 0.040, 0.050, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0,
)  # fmt: skip
"""Seconds. Cycles of a GPU take 4 to 50 ms, those of the demo on a CPU 20 to 500 ms."""


@dataclass(frozen=True)
class Metric:
    """name: as Prometheus stores it, `_total` of a counter included.

    labels: its own; those of SGLang's metrics of the same process come before them.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()


VERIFICATIONS = Metric(
    f"{PREFIX}verifications_total",
    "counter",
    "Verifications of drafts: one for each request of each cycle.",
)
PROPOSED = Metric(
    f"{PREFIX}drafts_proposed_total",
    "counter",
    "Drafts that were verified: the tree's draft tokens without its root, for each verification.",
)
ACCEPTED = Metric(
    f"{PREFIX}drafts_accepted_total",
    "counter",
    "Drafts that were accepted, by their position: how far from the tree's root they are, from 1.",
    ("position",),
)
CYCLE = Metric(
    f"{PREFIX}cycle_seconds",
    "histogram",
    "Time of a cycle (draft and verify), between two that followed each other without a prefill.",
)
COST_MODEL = Metric(
    f"{PREFIX}cost_model_seconds_total",
    "counter",
    "Time of the cycles whose cost was measured before: what they took (actual), what they should "
    "have taken (expected), and what their tokens would have taken without speculation "
    "(no_speculation). Absent where no cost is known for the tree that is served.",
    ("of",),
)
FAST_PATH = Metric(
    f"{PREFIX}fast_path_enabled",
    "gauge",
    "1 if our kernels serve the stages that the label names, 0 (none) if SGLang's serve all.",
    ("stages",),
)
CAPTURED = Metric(
    f"{PREFIX}captured_layers_info",
    "gauge",
    "1, with the auxiliary hidden states that the head is fed with, and who chose them.",
    ("selection", "source"),
)
REFUSALS = Metric(
    f"{PREFIX}refusals_total",
    "counter",
    "Requests that were answered with 400 before they took part in a batch, by what was wrong: "
    "shape, choices, length or field of the request, or scheduler (a grammar that does not "
    "compile, for example).",
    ("reason",),
)

OF_SPECULATION: Final = (VERIFICATIONS, PROPOSED, ACCEPTED, CYCLE)
METRICS: Final = (*OF_SPECULATION, COST_MODEL, FAST_PATH, CAPTURED, REFUSALS)

TIMES: Final = ("actual", "expected", "no_speculation")
REASONS: Final = ("shape", "choices", "length", "field", "scheduler")
