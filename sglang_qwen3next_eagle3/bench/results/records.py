"""What a benchmark measures: samples, figures, and the result file that holds them.

A result is one JSON file. `Result.load` and `Result.save` are its only reader and writer; the
report, the plots, `bench compare` and `bench plan` take a `Result`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sglang_qwen3next_eagle3.base import accept_length
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import read_json, write_json
from sglang_qwen3next_eagle3.base.schema import StrictRecord, validate

FORMAT = 1
_FILE = "result.json"
_WAY_OUT = "name the folder that `bench` wrote with --out, or the result.json in it"
NONE = "none"
"""The configuration without speculation, which all others are compared with."""
ADAPTIVE = "adaptive"
"""The algorithm of a configuration whose steps follow load and acceptance."""
ALONE = " alone"
"""Behind the name of a number of steps that a server of its own serves, of `bench auto`."""
CHANGING = "changing"
"""The suite of the passes of `bench auto` in which both change from one to the next."""


class RequestSample(StrictRecord):
    """One answered request, as it was seen over HTTP.

    prompt: its id in the suite, with `#2` behind it for a second turn; conversation: without it.
    seconds: from sending the request to the last byte; first_token_seconds: to the first token.
    chunks: (seconds since the request was sent, completion tokens so far) of every chunk that
        brought tokens.
    verify_steps: forward passes of the target that verified drafts; None without speculation.
    accepted_drafts, proposed_drafts: draft tokens, the root not counted.
    histogram: how many steps accepted 0, 1, 2, ... drafts.
    """

    prompt: str
    conversation: str = ""
    turn: int = 1
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    first_token_seconds: float
    chunks: tuple[tuple[float, int], ...]
    finish_reason: str | None = None
    output_ids: tuple[int, ...] = ()
    verify_steps: int | None = None
    accepted_drafts: int | None = None
    proposed_drafts: int | None = None
    histogram: tuple[int, ...] = ()


@dataclass
class Pass:
    """What one pass over a suite gave.

    samples: in the order of the prompts. failures: (prompt, what happened).

    broken: what ended the pass before its last prompt, if anything.
    """

    samples: list[RequestSample] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    broken: str | None = None


class Percentiles(StrictRecord):
    """p50, p90 and p99 of a time, in seconds."""

    p50: float
    p90: float
    p99: float


class Figures(StrictRecord):
    """What one pass over a suite at one batch size gave.

    seconds: wall time of the pass. output_tok_s: completion tokens of all requests over it.
    request_tok_s: median over requests of completion tokens over their seconds, queueing and
        prefill included.
    decode_tok_s: the same after the first token.
    cycle_ms: median over requests of what a cycle took, a verification with the drafting before it,
        or without speculation a token. None in results of older versions.
    accept_length, per_cycle: as base/accept_length.py defines them, over all requests; None without
        speculation.
    card_accept_rate: as the model card has it, accept length over draft tokens (the root counts).
    accept_rate: accepted over proposed drafts.
    accept_by_position: share of steps that accepted at least 1, 2, ... drafts.
    """

    requests: int
    failed: int = 0
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    output_tok_s: float
    request_tok_s: float
    decode_tok_s: float
    ttft: Percentiles
    inter_token: Percentiles
    cycle_ms: float | None = None
    verify_steps: int | None = None
    accept_length: float | None = None
    card_accept_rate: float | None = None
    accept_rate: float | None = None
    accept_by_position: tuple[float, ...] = ()

    @property
    def per_cycle(self) -> float | None:
        return accept_length.per_cycle(self.completion_tokens, self.verify_steps, self.requests)


class Equality(StrictRecord):
    """Greedy answers of a speculative configuration against those without speculation.

    of: those that were asked the same: after a turn that differs, the next one is not.

    first_divergence: of each answer that differs, how many tokens it shares with the other.
    """

    equal: int
    of: int
    first_divergence: tuple[int, ...] = ()


class Configuration(StrictRecord):
    """A way to serve that was measured.

    name: as on the command line, for example "none", "b1", "3,4,8", "mtp".
    algorithm: eagle3, nextn, none, or what else a running server says of itself, in small letters.
    tree: steps, topk, draft tokens; None without speculation.
    argv, environment: of the server, without paths of this machine.
    switched: which of our kernels and seams it came to serve with, by its log; as their variables
        spell it. Empty where that is not known, and on a CPU.
    max_running_requests: what the server says it runs at once; SGLang lowers it without an error
        where GDN state does not fit.
    status: "failed" where its server did not start or died; error and log_tail say why.
    """

    name: str
    algorithm: str
    tree: tuple[int, int, int] | None = None
    argv: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    switched: dict[str, str] = Field(default_factory=dict)
    ready_seconds: float | None = None
    max_running_requests: int | None = None
    status: Literal["ok", "failed", "not run"] = "ok"
    error: str | None = None
    log_tail: tuple[str, ...] = ()


class Measurement(StrictRecord):
    """One pass. simulated_accept_length: what SGLang was told to accept, of `bench speed` only."""

    configuration: str
    suite: str
    batch: int
    repetition: int
    figures: Figures
    equality: Equality | None = None
    simulated_accept_length: float | None = None


class Result(StrictRecord):
    """A whole benchmark.

    kind: "suites" of `bench run`, "speed" of `bench speed` and `bench auto`, which the settings'
        own "kind" tells apart.
    provenance: date, commit, dirty, versions, hardware, command, and what else was fixed.
    settings: what was asked for (suites with their revision and sampling, batches, repetitions,
        seeds, target, head, and the like).
    notes: what a reader of the figures has to know, one sentence each.
    """

    format: int = FORMAT
    kind: Literal["suites", "speed"]
    provenance: dict[str, Any]
    settings: dict[str, Any]
    configurations: tuple[Configuration, ...]
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()

    def configuration(self, name: str) -> Configuration:
        return next(c for c in self.configurations if c.name == name)

    def of(
        self, configuration: str, suite: str, batch: int, accept_length: float | None = None
    ) -> Sequence[Measurement]:
        """The repetitions of one cell."""
        return [
            m
            for m in self.measurements
            if (m.configuration, m.suite, m.batch) == (configuration, suite, batch)
            and m.simulated_accept_length == accept_length
        ]

    @property
    def suites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(m.suite for m in self.measurements))

    @property
    def batches(self) -> tuple[int, ...]:
        return tuple(sorted({m.batch for m in self.measurements}))

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        write_json(path, self.model_dump(mode="json"), indent=1)

    @classmethod
    def load(cls, path: Path) -> "Result":
        """A result file, or the `result.json` of a folder.

        Raises:
            UserError: not there, not JSON, or not a result of this format.
        """
        folder = path
        if folder.is_dir():
            path = folder / _FILE
        if not path.exists():
            below = sorted(str(one.parent) for one in folder.glob(f"*/{_FILE}"))
            choices = f"name one below it, {', '.join(below[:8])}" if below else _WAY_OUT
            raise UserError(f"there is no result {path}: {choices}")
        data = read_json(path, "give a result of `bench`")
        if (kind := data.get("kind")) in ("cycle", "start"):
            raise UserError(f"{path} is of `bench {kind}`: read the report.md beside it")
        if data.get("format") != FORMAT:
            raise UserError(f"{path} is no result of `bench` in format {FORMAT}: run it again")
        return validate(cls, data, f"{path} is damaged")
