"""Results of `bench speed` as a known cost of a cycle gives them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from sglang_qwen3next_eagle3.bench.results.records import (
    Configuration,
    Figures,
    Measurement,
    Percentiles,
    Result,
)
from sglang_qwen3next_eagle3.bench.trees.cost import Tree, terms

BATCHES = (1, 2, 4, 8, 16, 32)
LENGTHS = (1.0, 1.6, 2.46, 3.0)
CHAINS = [(steps, 1, steps + 1) for steps in range(1, 8)]
TREES: list[Tree | None] = [None, *CHAINS, (3, 4, 8)]
COEFFICIENTS = {
    "fixed": 6.0,
    "experts": 5.0,
    "token": 0.07,
    "sequence": 0.18,
    "speculation": 1.5,
    "step": 0.2,
    "branch": 0.03,
    "branching": 0.9,
}

STEPS = 1000
"""Verify steps of a request."""

Algorithm = Literal["eagle3", "nextn", "none"]


def law(batch: int, tree: Tree | None) -> float:
    """ms by `COEFFICIENTS`."""
    return sum(COEFFICIENTS[term] * amount for term, amount in terms(batch, tree).items())


def name_of(tree: Tree | None) -> str:
    return "none" if tree is None else ",".join(map(str, tree))


def configuration(
    tree: Tree | None, name: str = "", algorithm: Algorithm = "eagle3"
) -> Configuration:
    kind: Algorithm = "none" if tree is None else algorithm
    return Configuration(name=name or name_of(tree), algorithm=kind, tree=tree)


def measurement(
    name: str,
    batch: int,
    cycle: float,
    length: float | None = None,
    *,
    simulated: float | None = None,
    repetition: int = 0,
    failed: int = 0,
    decoding: float = 1.0,
) -> Measurement:
    """cycle: ms. length: the measured accept length. decoding: its share of the wall time."""
    rate = 1000 * (length or 1.0) / cycle
    tokens = round((length or 1.0) * STEPS)
    ttft = Percentiles(p50=0.1, p90=0.1, p99=0.1)
    return Measurement(
        configuration=name,
        suite="synthetic",
        batch=batch,
        repetition=repetition,
        simulated_accept_length=length if simulated is None else simulated,
        figures=Figures(
            requests=batch,
            failed=failed,
            prompt_tokens=256 * batch,
            completion_tokens=tokens * batch,
            seconds=tokens / rate / decoding,
            output_tok_s=batch * rate * decoding,
            request_tok_s=rate * decoding,
            decode_tok_s=rate * (tokens - 1) / tokens if length else rate,
            ttft=ttft,
            inter_token=ttft,
            verify_steps=None if length is None else STEPS * batch,
            accept_length=length,
        ),
    )


def result(configurations: Iterable[Configuration], measurements: Iterable[Measurement]) -> Result:
    return Result(
        kind="speed",
        provenance={"commit": "abc1234", "gpus": [{"name": "NVIDIA H200"}]},
        settings={"input_tokens": 256},
        configurations=tuple(configurations),
        measurements=tuple(measurements),
        notes=("Acceptance is simulated.",),
    )


def of_law(
    trees: Sequence[Tree | None] = TREES,
    batches: Sequence[int] = BATCHES,
    cycle: Callable[[int, Tree | None], float] = law,
) -> Result:
    """Each tree at the accept lengths that it can reach, and MTP a tenth slower than 3,1,4."""
    mtp = configuration((3, 1, 4), "mtp", "nextn")
    measurements = []
    for batch in batches:
        for tree in trees:
            reached: list[float | None] = [
                x for x in LENGTHS if tree is not None and x <= tree[0] + 1
            ]
            measurements += [
                measurement(name_of(tree), batch, cycle(batch, tree), length)
                for length in reached or [None]
            ]
        measurements += [
            measurement("mtp", batch, 1.1 * cycle(batch, (3, 1, 4)), length) for length in LENGTHS
        ]
    return result([*map(configuration, trees), mtp], measurements)


BY_HAND_LENGTH = 2.46
BY_HAND: list[tuple[Algorithm, Tree | None, dict[int, float]]] = [
    ("none", None, {1: 159.4, 8: 913, 32: 1975}),
    ("nextn", (3, 1, 4), {1: 253, 8: 1200, 32: 2248}),
    ("eagle3", (3, 1, 4), {1: 280, 8: 1348, 32: 2581}),
    ("eagle3", (5, 1, 6), {1: 254, 8: 1170, 32: 2230}),
    ("eagle3", (3, 4, 8), {1: 231, 32: 1712}),
]
"""Output tok/s of one H200 by batch, measured by hand before there was a `bench speed`: SGLang
0.5.17, FP8, dummy weights, Triton attention, 256 tokens in, 256 out, accept length simulated."""


def by_hand() -> Result:
    """`BY_HAND` as a result; its prefill counts as decoding."""
    configurations, measurements = [], []
    for algorithm, tree, tok_s_by_batch in BY_HAND:
        name = "mtp" if algorithm == "nextn" else name_of(tree)
        length = None if tree is None else BY_HAND_LENGTH
        configurations.append(configuration(tree, name, algorithm))
        for batch, tok_s in tok_s_by_batch.items():
            cycle = 1000 * batch * (length or 1.0) / tok_s
            measurements.append(measurement(name, batch, cycle, length))
    return result(configurations, measurements)
