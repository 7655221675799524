"""Small results of `bench` whose figures were computed by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from sglang_qwen3next_eagle3.bench.results.records import (
    Configuration,
    Equality,
    Figures,
    Measurement,
    Percentiles,
    RequestSample,
    Result,
)

CARD = {
    "swebench-verified": (163.9, 249.7, 3.00),
    "humaneval": (171.1, 237.9, 1.60),
    "terminal-bench": (166.0, 231.0, 2.77),
    "mt-bench": (166.5, 196.0, 2.45),
}
"""The card's B=1 table as suite: baseline tok/s, EAGLE3 tok/s, accept length."""

BASELINE = Configuration(
    name="none",
    algorithm="none",
    argv=("python", "-m", "sglang.launch_server", "--model-path", "TARGET", "--tp", "4"),
    ready_seconds=90.4,
)
WIDE = Configuration(
    name="3,4,8",
    algorithm="eagle3",
    tree=(3, 4, 8),
    argv=(*BASELINE.argv, "--speculative-algorithm", "EAGLE3", "--trust-remote-code"),
    environment={"SGLANG_NOTE": "a b"},
    ready_seconds=120.0,
)
NARROW = Configuration(name="b32", algorithm="eagle3", tree=(5, 1, 6))
MTP = Configuration(name="mtp", algorithm="nextn", tree=(3, 1, 4))

PROVENANCE: dict[str, Any] = {
    "date": "2026-11-25T04:00:00+00:00",
    "commit": "0123abc",
    "dirty": True,
    "command": "sglang-qwen3next-eagle3 bench run --batches 1",
    "versions": {"sglang": "0.5.17", "torch": "2.11.0"},
    "host": {"cpu": "a processor", "cores": 16},
    "gpus": [{"name": "NVIDIA H200", "memory": "143771 MiB", "driver": "580.1"}] * 4,
}


def sample(prompt: str = "a", **changed: object) -> RequestSample:
    # First token after 0.5 s, then two tokens after 0.2 s and three after 0.3 s more.
    values: dict[str, object] = {
        "prompt": prompt,
        "prompt_tokens": 10,
        "completion_tokens": 6,
        "seconds": 1.2,
        "first_token_seconds": 0.5,
        "chunks": ((0.5, 1), (0.7, 3), (1.0, 6)),
        "verify_steps": 2,
        "accepted_drafts": 3,
        "proposed_drafts": 14,
        "histogram": (0, 1, 1),
    }
    return RequestSample.model_validate(values | changed)


def plain(prompt: str, ids: tuple[int, ...], turn: int = 1) -> RequestSample:
    known = {"output_ids": ids, "completion_tokens": len(ids)}
    told = {"conversation": prompt, "turn": turn, "verify_steps": None, "histogram": ()}
    return sample(f"{prompt}#{turn}", **known, **told)


def figures(tok_s: float, accept_length: float | None = None, **changes: Any) -> Figures:
    """1000 completion tokens at this request_tok_s; 10 % less in total, 10 % more in decode.

    With an accept length: a tree of 8 draft tokens over 3 steps, rates to match.
    """
    values: dict[str, Any] = {
        "requests": 10,
        "prompt_tokens": 500,
        "completion_tokens": 1000,
        "seconds": 1000 / (0.9 * tok_s),
        "output_tok_s": 0.9 * tok_s,
        "request_tok_s": tok_s,
        "decode_tok_s": 1.1 * tok_s,
        "ttft": Percentiles(p50=0.050, p90=0.080, p99=0.0991),
        "inter_token": Percentiles(p50=1 / tok_s, p90=2 / tok_s, p99=3 / tok_s),
    }
    if accept_length is not None:
        values |= {
            "verify_steps": round(1000 / accept_length),
            "accept_length": accept_length,
            "card_accept_rate": accept_length / 8,
            "accept_rate": (accept_length - 1) / 7,
            "accept_by_position": (0.8, 0.5, 0.2),
        }
    return Figures(**{**values, **changes})


def passes(
    configuration: str,
    suite: str,
    batch: int,
    tok_s: Sequence[float],
    accept_length: float | None = None,
    *,
    equality: Equality | None = None,
    simulated: float | None = None,
    **changes: Any,
) -> list[Measurement]:
    """One measurement for each tok/s, as the repetitions of one cell."""
    return [
        Measurement(
            configuration=configuration,
            suite=suite,
            batch=batch,
            repetition=repetition,
            figures=figures(each, accept_length, **changes),
            equality=equality,
            simulated_accept_length=simulated,
        )
        for repetition, each in enumerate(tok_s)
    ]


def result(
    configurations: Sequence[Configuration],
    measurements: Sequence[Measurement],
    *,
    kind: Any = "suites",
    provenance: Mapping[str, Any] = PROVENANCE,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Result:
    return Result(
        kind=kind,
        provenance=dict(provenance),
        settings=dict(settings or {"target": "Qwen/Qwen3-Coder-Next", "seed": 1}),
        configurations=tuple(configurations),
        measurements=tuple(measurements),
        notes=tuple(notes),
    )


def like_the_card() -> Result:
    """The card's B=1 figures, as if they had been measured once."""
    measurements = [
        one
        for suite, (baseline, eagle3, length) in CARD.items()
        for one in (
            *passes("none", suite, 1, [baseline]),
            *passes("3,4,8", suite, 1, [eagle3], length),
        )
    ]
    return result([BASELINE, WIDE], measurements)


def repeated() -> Result:
    """HumanEval and MT-Bench, B=1, three repetitions.

    Medians: baseline 100 and 200, EAGLE3 150 and 220; so 1.5x and 1.1x, and of the means
    185 / 150 = 1.23x.
    """
    same = Equality(equal=9, of=10, first_divergence=(40,))
    return result(
        [BASELINE, WIDE],
        [
            *passes("none", "humaneval", 1, [100, 90, 110]),
            *passes("none", "mt-bench", 1, [200, 190, 210]),
            *passes("3,4,8", "humaneval", 1, [140, 160, 150], 2.0, equality=same),
            *passes("3,4,8", "mt-bench", 1, [220, 230, 210], 3.0),
        ],
    )
