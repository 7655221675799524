"""What a benchmark is asked for. The command line reads its defaults from here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.redact import masked

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.serving.profile import Profile

MTP = "mtp"
DEFAULTS = "eagle3-defaults"
HOW_TO_SPELL = (
    f"write none, {MTP}, {MTP}:3,1,4, {DEFAULTS}, a tree as steps,topk,draft-tokens (3,4,8), "
    "chains:1-7, or the name or file of a profile"
)
"""Of a configuration."""
HOW_TO_WRITE_ACCEPT_LENGTHS = (
    "write one for all (2.46), one a tree (3,4,8=2.46,5,1,6=2.3), or the shares of steps that "
    "accept at least 1, 2, ... drafts of a chain (0.7,0.5,0.35); with ; between, the last two"
)


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What `bench run` and `bench speed` share.

    out: the folder, gone on with if it was begun. words: the command line, for the provenance.
    configurations: as `HOW_TO_SPELL` says; empty for the benchmark's own choice.
    batches: requests in flight. profile: flags and checkpoints that all configurations share.
    target, head, tp: in place of the profiles'. start_seconds: that a server has for its start.
    stall_seconds: without a byte, after which it counts as stalled. flags: for every SGLang.
    side_by_side: all servers start and are up at once, and are asked one at a time.
    """

    out: Path
    words: Sequence[str] = ()
    plots: bool = True
    configurations: Sequence[str] = ()
    batches: Sequence[int] = (1,)
    repeats: int = 1
    profile: str = "b1"
    target: str | None = None
    head: str | None = None
    tp: int | None = None
    start_seconds: int = 900
    stall_seconds: int = 120
    flags: Sequence[str] = ()
    side_by_side: bool = False

    def base(self) -> "Profile":
        """The profile that all configurations share. Raises UserError."""
        # Not for the defaults: it brings pydantic.
        from sglang_qwen3next_eagle3.serving import profile as profiles

        return self.given(profiles.load(self.profile))

    def given(self, chosen: "Profile") -> "Profile":
        """A profile with the checkpoints and ranks that were asked for. Raises UserError."""
        from sglang_qwen3next_eagle3.serving.profile import Overrides

        head = self.head if chosen.algorithm == "eagle3" else None
        return Overrides(target=self.target, head=head, tp=self.tp).apply(chosen)


@dataclass(frozen=True, kw_only=True)
class RunOptions(BenchOptions):
    """Of `bench run`.

    limit: prompts of each suite; max_tokens: of each answer; seed: of the choice of prompts; None
    for the suites' own. data_dir: where the suites' files are. tokenizer: the target's if None.
    base_url, name, api_key: of a server that already runs, instead of starting any.
    """

    suites: Sequence[str] = ("smoke",)
    limit: int | None = None
    max_tokens: int | None = None
    ignore_eos: bool = False
    seed: int | None = None
    data_dir: Path | None = None
    tokenizer: str | None = None
    base_url: str | None = None
    name: str | None = None
    api_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions(BenchOptions):
    """What the benchmarks of a synthetic target share: speed, auto, start and cycle.

    input_tokens: random, of every request; seed: of them. output_tokens: of every answer.
    precision: of the synthetic target. routing: by which its routers choose experts; `dummy` as
    its weights have it, of one token. prefill_graphs: numbers of tokens for which every server
    captures CUDA graphs of its prefills; without any, prefills launch kernel by kernel.
    temperature: of every request, 0 for greedy ones; top_p, top_k: what is drawn from with one.
    """

    profile: str = "h200-fp8"
    input_tokens: int = 256
    output_tokens: int = 256
    seed: int = 0
    precision: Literal["fp8", "bf16"] = "fp8"
    routing: Literal["dummy", "uniform", "text"] = "dummy"
    prefill_graphs: Sequence[int] = ()
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None

    @property
    def sampled(self) -> dict[str, dict[str, float]]:
        """How tokens are drawn where requests are not greedy: asked for and measured with.

        Raises:
            UserError: what is drawn from is said of greedy requests.
        """
        narrowed = {"top_p": self.top_p, "top_k": self.top_k}
        given = {name: value for name, value in narrowed.items() if value is not None}
        if self.temperature > 0:
            return {"sampling": {"temperature": self.temperature, **given}}
        if given:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UserError(
                f"{flags}: requests are greedy, and nothing is drawn; add --temperature 0.7, say"
            )
        return {}

    def sampling(self, tokens: int) -> dict[str, Any]:
        """SGLang's parameters of a request for so many tokens, which no end ends."""
        drawn = self.sampled.get("sampling", {"temperature": 0})
        return {**drawn, "max_new_tokens": tokens, "ignore_eos": True}

    @property
    def prefilled(self) -> dict[str, list[int]]:
        """The sizes of prefill graphs where there are any: asked for and measured with."""
        return {"prefill_graphs": list(self.prefill_graphs)} if self.prefill_graphs else {}

    @property
    def routed(self) -> dict[str, str]:
        """The routing where it is not the dummies': asked for and measured with."""
        return {} if self.routing == "dummy" else {"routing": self.routing}

    def with_pair(self, target: Path, head: str) -> Self:
        """The same with a synthetic target, and the head unless one was asked for."""
        return replace(self, target=str(target), head=self.head or head)

    def request(self, kind: str, **more: Any) -> dict[str, Any]:
        """What has to be the same for a rerun to go on in a folder, as JSON.

        kind: of the benchmark; more: what it asks for besides. The servers' own arguments are
        compared one by one, so what is not named here may be added to (configurations, batches,
        repetitions).
        """
        return {
            "kind": kind,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "seed": self.seed,
            "precision": self.precision,
            "profile": self.profile,
            "target": self.target,
            "head": self.head,
            "tp": self.tp,
            **self.routed,
            **self.prefilled,
            **self.sampled,
            **more,
            "flags": masked(self.flags),
        }


@dataclass(frozen=True, kw_only=True)
class SpeedOptions(SyntheticOptions):
    """Of `bench speed`.

    accept_lengths: that are simulated; a tree skips those it cannot reach. By default the card's:
    1.6 and 3.0 are the lowest and highest of its suites, 2.46 is their mean.
    """

    configurations: Sequence[str] = ("none", "mtp", "eagle3-defaults", "3,4,8", "chains:1-7")
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32)
    repeats: int = 2
    accept_lengths: Sequence[float] = (1.0, 1.6, 2.46, 3.0)


@dataclass(frozen=True, kw_only=True)
class AutoOptions(SyntheticOptions):
    """Of `bench auto`.

    steps: the states; 0 is among them in any case. accept_lengths: that are simulated.
    changes: passes in which load and acceptance change from one to the next. alone: numbers of
    steps that a server of their own serves besides. gpus: what CUDA_VISIBLE_DEVICES calls those
    that are shared out among the servers, which are up and asked at the same time then.
    """

    batches: Sequence[int] = (1, 4, 8, 16, 32, 48)
    output_tokens: int = 128
    steps: Sequence[int] = (0, 1, 2, 4, 7)
    accept_lengths: Sequence[float] = (1.0, 1.6, 2.46, 3.0)
    changes: int = 12
    alone: Sequence[int] = ()
    gpus: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class StartOptions(SyntheticOptions):
    """Of `bench start`.

    caches: a folder for what is compiled, in place of the caller's own places.
    """

    output_tokens: int = 16
    caches: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CycleOptions(SyntheticOptions):
    """Of `bench cycle`.

    accept_length: that is simulated; a tree that cannot reach it accepts all. stacks: sample the
    schedulers' stacks, too.
    """

    configurations: Sequence[str] = ("none", "3,1,4", "3,4,8")
    output_tokens: int = 1024
    accept_length: float = 2.46
    stacks: bool = True
