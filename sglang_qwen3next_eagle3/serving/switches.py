"""Which of our kernels and seams a launch asks for: what is said, or else what was proved.

Said is what an option, the profile or the environment says. What cannot be is refused where it was
said, and left to SGLang, with a line, where it was not.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay import contract, proofs
from sglang_qwen3next_eagle3.overlay.environment import FAST, SEAMS
from sglang_qwen3next_eagle3.overlay.fast import exclusions, stages, trials
from sglang_qwen3next_eagle3.overlay.fast import proved as of_fast
from sglang_qwen3next_eagle3.overlay.proofs import AUTO, Capability, Proof
from sglang_qwen3next_eagle3.overlay.seams import proved as of_seams
from sglang_qwen3next_eagle3.overlay.seams import seams
from sglang_qwen3next_eagle3.overlay.sources import Code
from sglang_qwen3next_eagle3.serving import adaptive
from sglang_qwen3next_eagle3.serving.flags import Parsed
from sglang_qwen3next_eagle3.serving.profile import Profile

Switch = Literal["fast", "seams"]
VARIABLES: Mapping[Switch, str] = {"fast": FAST, "seams": SEAMS}
TITLES: Mapping[Switch, str] = {"fast": "fast path", "seams": "seams"}
_TABLES: Mapping[Switch, tuple[Proof, ...]] = {
    "fast": of_fast.PROVED,
    "seams": of_seams.PROVED,
}
_CODES: Mapping[Switch, Callable[[], Code]] = {"fast": of_fast.code, "seams": of_seams.code}
RANKS = {"--tp-size": "TP", "--dp-size": "DP", "--pp-size": "PP"}
TRITON = "triton"
_NO_GRAPHS = ("--disable-cuda-graph", "--disable-decode-cuda-graph")
_UNSET = frozenset({"0", "none"})
"""Values with which a flag of `exclusions.SWITCHES` excludes nothing."""
_ALIKE = {
    "--mamba-ssm-dtype": ("it keeps GDN states in float32", "float32"),
    "--kv-cache-dtype": ("its attention reads a bfloat16 KV cache", "auto", "bf16", "bfloat16"),
    "--dtype": ("it computes in bfloat16", "auto", "bfloat16"),
}


@dataclass(frozen=True)
class Default:
    """What becomes of a switch of which nobody said anything. names: of its stages or seams those
    that are on; none where it is off. reason: why it is; can_be: asked for, it could be on. where:
    the GPUs it is on with. spelled: the variable says `auto`, so that only `off` turns it off.
    """

    switch: Switch
    names: tuple[str, ...] = ()
    reason: str = ""
    can_be: bool = True
    where: str = ""
    spelled: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What is set for the server; nothing, where it is off as ever."""
        if not self.names:
            return {VARIABLES[self.switch]: "off"} if self.spelled else {}
        named = [name for name in self.names if name in stages.NAMED]
        return {VARIABLES[self.switch]: ",".join([AUTO, *named])}

    @property
    def note(self) -> str:
        """The one line that says whether it is on."""
        title, option = TITLES[self.switch], f"--{self.switch}"
        if not self.names:
            way_in = f" ({option} asks for it all the same)" if self.can_be else ""
            return f"{title}: off by default: {self.reason}{way_in}"
        on = f"{title}: on by default"
        if self.where:
            on += f" on {self.where}, unless the server's log says what keeps it off"
        return f"{on}: {', '.join(self.names)}; --no-{self.switch} leaves SGLang's"

    @property
    def headless(self) -> "Default":
        """Without the head's stages."""
        names = tuple(name for name in self.names if name not in stages.OF_HEAD)
        return replace(self, names=names)

    def off(self, reason: str, *, can_be: bool = True) -> "Default":
        return replace(self, names=(), reason=reason, can_be=can_be)


def is_said(switch: Switch, environment: Mapping[str, str]) -> bool:
    """Whether anybody says more of it than `auto`. environment: with what the profile sets."""
    text = environment.get(VARIABLES[switch], "")
    return bool(text.strip(" ,")) and not _is_auto(text)


def defaults(
    chosen: Profile,
    given: Parsed,
    environment: Mapping[str, str],
    capability: Capability | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[Default, ...]:
    """What becomes of the switches of which nobody said anything; none on a CPU, where there is
    nothing to be had. capability: of the GPUs, config: of the target, where they are known.
    """
    if chosen.cpu_engine or not (given.value("--device") or "cuda").startswith("cuda"):
        return ()
    found = []
    for switch in VARIABLES:
        if not is_said(switch, environment):
            text = environment.get(VARIABLES[switch], "")
            found.append(
                replace(_default(switch, chosen, given, capability, config), spelled=_is_auto(text))
            )
    return tuple(found)


def _default(
    switch: Switch,
    chosen: Profile,
    given: Parsed,
    capability: Capability | None,
    config: Mapping[str, Any] | None,
) -> Default:
    default = Default(switch)
    reason = cannot_be(given) if switch == "fast" else None
    if reason is not None:
        return default.off(reason, can_be=False)
    table, installed = _TABLES[switch], contract.installed_sglang()
    # The machine that serves may have what this one has not.
    release = contract.DEFAULT_RELEASE if installed is None else installed.release
    ranks = ranks_of(given, "--tp-size", "TP")
    of = _asked(switch, given, config)
    reason = proofs.why_not(table, release, capability, ranks, **of)
    if reason is None and switch == "seams" and not chosen.adaptive and given.of(adaptive.ADAPTIVE):
        reason = "nothing proves them with steps that follow load"
    if reason is not None:
        return default.off(reason)
    names = proofs.proved(table, release, capability, ranks, **of)
    if chosen.algorithm != "eagle3" or (given.of(adaptive.ADAPTIVE) and not chosen.adaptive):
        names -= {"head"}
    ordered = stages.STAGES if switch == "fast" else seams.ALL
    where = proofs.places(table, release, ranks)
    return replace(default, names=tuple(n for n in ordered if n in names), where=where)


def _asked(switch: Switch, given: Parsed, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a proof of either switch may be restricted to, beside the place."""

    def has(name: str) -> bool:
        return bool(given.of(name))

    told = None if config is None else config.get
    return {"config": told, "given": has, "code": _CODES[switch]()}


def not_proved_on(
    switch: Switch, given: Parsed, gpu: str, config: Mapping[str, Any] | None = None
) -> str | None:
    """Why what a launch has on by default would stay off on a GPU of this name, or None."""
    installed = contract.installed_sglang()
    release = contract.DEFAULT_RELEASE if installed is None else installed.release
    ranks = ranks_of(given, "--tp-size", "TP")
    of = _asked(switch, given, config)
    return proofs.why_not(_TABLES[switch], release, None, ranks, lambda: gpu, **of)


def cannot_be(given: Parsed) -> str | None:
    """Why the fast path would stay off with these flags, or None; the server's log says what only
    the loaded model shows (overlay/fast/conditions.py)."""
    if (reason := _refused(given)) is not None:
        return reason
    for name in _NO_GRAPHS:
        if given.of(name):
            return "it lives in CUDA graphs of decoding, which are off"
    for name in map(exclusions.flag, exclusions.SINGLE):
        if name not in RANKS and (number := given.number(name) or 1) > 1:
            return f"it knows tensor parallelism only, {name} is {number}"
    # SGLang turns LoRA on where there are adapters.
    excluded = *map(exclusions.flag, (*exclusions.SWITCHES, *exclusions.NEWER)), "--lora-paths"
    for name in (*excluded, "--moe-a2a-backend"):
        if given.of(name) and (given.value(name) or "on") not in _UNSET:
            return f"it does not go with {name}"
    for name, (reason, *known) in _ALIKE.items():
        if (given.value(name) or known[0]) not in known:
            return reason
    return None


def _refused(given: Parsed) -> str | None:
    """What it cannot do at all, for which it is refused to one who asks for it."""
    reason, backend = None, given.value("--attention-backend")
    if backend != TRITON:
        reason = f"it stands in for the attention backend triton, not {backend or 'another'}"
    for name, what in RANKS.items():
        ranks = ranks_of(given, name, what)
        if what == "TP" and ranks not in stages.RANKS:
            reason = f"it serves with a TP of {', '.join(map(str, stages.RANKS))}, not {ranks}"
        elif what != "TP" and ranks != 1:
            reason = f"it knows tensor parallelism only, and {what} is {ranks}"
    return reason


def check(given: Parsed, environment: Mapping[str, str], chosen: Profile) -> None:
    """environment: what the launch sets. What the caller's own asks of every server is a line in
    the log of one that cannot have it, unless it is spelled wrong or required.

    Raises:
        UserError: something is spelled wrong, or cannot be where it is asked for.
    """
    there = {**os.environ, **environment}
    fast, at_seams = stages.parse(there.get(FAST)), seams.parse(there.get(SEAMS))
    if trials.parse(there.get(trials.TRY)) and not is_said("fast", there):
        raise UserError(
            f"{trials.TRY}: what it tries is the fast path's, and nothing asks for that: pass "
            "--fast, or --no-fast to try nothing"
        )
    if fast is not None and not fast.auto and (FAST in environment or fast.required):
        _check_fast(given, chosen, fast)
    if not at_seams or SEAMS not in environment or not is_said("seams", there):
        return
    if chosen.cpu_engine:
        raise UserError(
            "seams: they are launches on a GPU, and this profile serves on a CPU; pass --no-seams"
        )
    ranks = ranks_of(given, "--tp-size", "TP")
    if "sampled" in at_seams and ranks > 1:
        raise UserError(
            f"seams: sampled is for one GPU, and TP is {ranks}: SGLang would sample as ever; leave "
            "it out"
        )


def _check_fast(given: Parsed, chosen: Profile, wanted: stages.Wanted) -> None:
    """What the fast path cannot do at all. What only a GPU tells is a line in the server's log."""
    reason = _refused(given)
    if chosen.cpu_engine:
        reason = "its kernels are for GPUs, and this profile serves on a CPU"
    if reason is not None:
        raise UserError(f"fast: {reason}; pass --no-fast to serve with SGLang's kernels alone")
    if "head" in wanted.stages and chosen.algorithm != "eagle3":
        reason = "is the EAGLE3 head's, and this server has none"
    elif "head" in wanted.stages and given.of(adaptive.ADAPTIVE) and not chosen.adaptive:
        reason = "does not go with steps that follow SGLang's own rule (--adaptive FILE: ours)"
    if reason is not None:
        named = "head_w8" if "head_w8" in wanted.stages else "head"
        raise UserError(f"fast: the stage {named} {reason}; leave it out")
    if "allreduce" in wanted.stages and "moe" not in wanted.stages:
        raise UserError(
            "fast: the stage allreduce is for sums around experts that are ours: name moe, too, or "
            "leave it out"
        )
    if "allreduce" in wanted.stages and ranks_of(given, "--tp-size", "TP") == 1:
        raise UserError(
            "fast: the stage allreduce adds up what several GPUs have, and this server has one; "
            "leave it out"
        )


def ranks_of(given: Parsed, name: str, what: str) -> int:
    """Of a flag of `RANKS`. Raises UserError: it says no number of ranks."""
    text = given.value(name)
    if text is None:
        return 1
    # Nothing has a number of so many digits; Python reads none of thousands.
    ranks = int(text) if text.isdecimal() and len(text) <= 18 else 0
    if ranks < 1:
        raise UserError(f"{what} {text!r}: a whole number of ranks from 1")
    return ranks


def _is_auto(text: str) -> bool:
    return text.lower().strip(" ,").split(",")[0].strip() == AUTO
