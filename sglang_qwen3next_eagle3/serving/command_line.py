"""SGLang's command line: what a profile becomes, and what will be executed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sglang_qwen3next_eagle3.overlay import contract, standby
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.adaptive import states as files
from sglang_qwen3next_eagle3.overlay.proofs import Capability
from sglang_qwen3next_eagle3.plugin import SERVER_MODULE
from sglang_qwen3next_eagle3.serving import adaptive, flags, keys, switches
from sglang_qwen3next_eagle3.serving.flags import Parsed
from sglang_qwen3next_eagle3.serving.profile import Algorithm, FlagValue, Profile, Tree
from sglang_qwen3next_eagle3.serving.switches import Default
from sglang_qwen3next_eagle3.serving.unused import UnusedVariable

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 30000
_ONE_OF_EACH = ("--dp-size", "--pp-size", "--tokenizer-worker-num", "--detokenizer-worker-num")
_RUST = "SGLANG_RUST_SERVER"
"""With which SGLang has no detokenizer's process."""
_OTHER_PROCESSES = (
    *("--enable-memory-saver", "--encoder-only", "--ep-join-mode", "--grpc-mode"),
    *("--smg-grpc-mode", "--use-ray"),
)
"""With which SGLang starts processes of another kind, or with another dynamic loader."""
SGLANG_NAMES: dict[Algorithm, str] = {"eagle3": "EAGLE3", "nextn": "NEXTN", "none": ""}


@dataclass(frozen=True)
class Launch:
    """What will be executed, in the parts of its command line.

    words: the profile's flags, behind the interpreter and the module; extra: the user's, which win;
    guards: what has to follow from both. environment: what is set beyond the caller's. notes:
    decisions, for people. unused: of the caller's environment what does not count, of which the
    last of the notes tells.
    """

    words: tuple[str, ...]
    extra: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unused: tuple[UnusedVariable, ...] = ()

    def adding(self, environment: dict[str, str], *notes: str) -> "Launch":
        return replace(
            self,
            environment={**self.environment, **environment},
            notes=(*self.notes, *notes),
        )

    @property
    def argv(self) -> list[str]:
        return [*self.words, *self.extra, *self.guards]

    @property
    def url(self) -> str:
        """Where it will answer, from this machine."""
        given = flags.parse(self.argv)
        host = host_of(given)
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        scheme = "https" if given.value("--ssl-certfile") else "http"
        return f"{scheme}://{host}:{given.value('--port') or DEFAULT_PORT}"

    @property
    def wants_key(self) -> bool:
        return keys.is_guarded(flags.parse(self.argv), self.environment)


def imports_beside(launch: Launch) -> list[standby.Modules]:
    """What processes import beside the server, one for each: for schedulers of this host, and for
    the detokenizer, which the first host has.

    Unless somebody says how many schedulers, none where SGLang starts other processes than these,
    by another program, or forks, and with a release of which it was not read what these need.
    Raises UserError: what is said is no number.
    """
    environment = {**os.environ, **launch.environment}
    given = flags.parse(launch.argv)
    said = standby.parse(environment.get(variables.STANDBY))
    schedulers = _schedulers(given, environment) if said is None else said
    first = not given.number("--node-rank") and not variables.is_on(environment.get(_RUST))
    return [standby.SCHEDULER] * schedulers + [standby.DETOKENIZER] * (schedulers > 0 and first)


def _schedulers(given: Parsed, environment: Mapping[str, str]) -> int:
    installed = contract.installed_sglang()
    if installed is None or installed.release != standby.RELEASE or standby.is_bound(environment):
        return 0
    forks = environment.get(variables.CPU_ENGINE) == "1"
    others = any(given.of(name) for name in _OTHER_PROCESSES)
    more = any((given.number(name) or 1) != 1 for name in _ONE_OF_EACH)
    disaggregated = (given.value("--disaggregation-mode") or "null") != "null"
    if forks or others or more or disaggregated:
        return 0
    ranks, hosts = given.number("--tp-size") or 1, given.number("--nnodes") or 1
    return ranks // hosts if ranks % hosts == 0 else 0


def host_of(given: Parsed) -> str:
    """Where it will listen; an empty word, unlike none, is every address."""
    host = given.value("--host")
    return DEFAULT_HOST if host is None else host


def port_of(given: Parsed) -> int:
    return given.number("--port") or DEFAULT_PORT


def build_environment(profile: Profile) -> dict[str, str]:
    """What is set for a profile beyond the caller's environment."""
    added = dict(profile.environment)
    if profile.cpu_engine:
        from sglang_qwen3next_eagle3.overlay.cpu_engine import ENVIRONMENT, SHIM_DIR

        path = [str(SHIM_DIR), *filter(None, [os.environ.get("PYTHONPATH")])]
        added |= {**ENVIRONMENT, variables.CPU_ENGINE: "1", "PYTHONPATH": os.pathsep.join(path)}
    if profile.adaptive is not None:
        added[variables.ADAPTIVE] = "1"
    if profile.fast is not None:
        added[variables.FAST] = profile.fast
    if profile.seams is not None:
        added[variables.SEAMS] = profile.seams
    return added


def build_argv(profile: Profile, python: str = "python", extra: Sequence[str] = ()) -> list[str]:
    """SGLang's command line for a profile: the model card's flags in the card's order.

    extra: what follows, and is not among them; states are chosen by it.

    `--trust-remote-code`, which the card passes, is not among them: the architecture is part of
    SGLang and transformers, so no code of the checkpoint has to run.
    """
    argv = [python, "-m", SERVER_MODULE, "--model-path", profile.target]
    if profile.target_revision:
        argv += ["--revision", profile.target_revision]
    argv += _speculation(profile, extra)
    return argv + _sglang(profile)


def _sglang(profile: Profile) -> list[str]:
    return [word for name, value in profile.sglang.items() for word in _flag(name, value)]


def _speculation(profile: Profile, extra: Sequence[str]) -> list[str]:
    if profile.algorithm == "none":
        return []
    argv = ["--speculative-algorithm", SGLANG_NAMES[profile.algorithm]]
    if profile.head is not None:
        argv += ["--speculative-draft-model-path", profile.head]
    if profile.head_revision:
        argv += ["--speculative-draft-model-revision", profile.head_revision]
    tree = profile.tree
    if profile.adaptive is not None:
        chosen = states_of(profile, extra)
        argv += ["--speculative-adaptive", "--speculative-adaptive-config", str(chosen.path)]
        # SGLang sizes buffers of all states by the steps that it begins with (0.5.17,
        # model_executor/model_runner.py, max_decode_logits_rows).
        longest = max(chosen.states.steps)
        tree = tree or Tree(steps=longest, topk=1, draft_tokens=longest + 1)
    if tree is not None:
        argv += ["--speculative-num-steps", str(tree.steps)]
        argv += ["--speculative-num-draft-tokens", str(tree.draft_tokens)]
        argv += ["--speculative-eagle-topk", str(tree.topk)]
    return argv


def states_of(profile: Profile, extra: Sequence[str] = ()) -> adaptive.ChosenStates:
    """extra: the user's flags, which win. Raises UserError: there is no such file of states."""
    given = flags.parse([*_sglang(profile), *extra])
    return _states_of(profile, given, _defaults(profile, given))


def _states_of(
    profile: Profile, given: Parsed, defaults: Sequence[Default]
) -> adaptive.ChosenStates:
    tp = given.number("--tp-size")
    set_here = {**os.environ, **build_environment(profile)}
    for default in defaults:
        set_here |= default.environment
    return adaptive.choose(
        profile,
        tp=1 if tp is None else tp,
        switches=files.switches(set_here),
        quantization=given.value("--quantization"),
        by_default=[default.switch for default in defaults if default.names],
        defer=_defer(set_here),
    )


def deferring(profile: Profile, states: files.DraftStates) -> dict[str, str]:
    """What makes extends be put off as they were where the costs were measured, unless somebody
    says how many. Raises UserError: that is no number."""
    said = _defer({**os.environ, **build_environment(profile)})
    return {variables.DEFER: str(states.defer)} if said is None and states.defer else {}


def _defer(environment: Mapping[str, str]) -> int | None:
    text = environment.get(variables.DEFER, "")
    return files.cycles_at_once(text) if text.strip() else None


def defaults_of(
    profile: Profile,
    extra: Sequence[str] = (),
    capability: Capability | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[Default, ...]:
    """What becomes of our switches of which nobody said anything. Where the steps follow costs that
    were measured without one, it is off: by them drafts might cost more than they bring.

    extra: the user's flags; capability, config: of the GPUs and of the target, where known.
    """
    given = flags.parse([*_sglang(profile), *extra])
    found = _defaults(profile, given, capability, config)
    if profile.adaptive is None:
        return found
    states = _states_of(profile, given, found)
    reason = "the steps follow costs that were measured without"
    found = tuple(one.off(reason) if one.switch in states.without else one for one in found)
    return tuple(one.headless if states.headless else one for one in found)


def _defaults(
    profile: Profile,
    given: Parsed,
    capability: Capability | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[Default, ...]:
    set_here = {**os.environ, **build_environment(profile)}
    return switches.defaults(profile, given, set_here, capability, config)


def _flag(name: str, value: FlagValue) -> list[str]:
    if value is False:
        return []
    if value is True:
        return [f"--{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]
