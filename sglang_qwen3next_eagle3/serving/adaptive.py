"""SGLang's adaptive drafting, which changes the number of steps while it serves: which file of
states it gets, whether it will start with these flags, and do anything.

SGLang 0.5.17 and 0.5.23, speculative/adaptive_spec_params.py and arg_groups/speculative_hook.py:
the steps must be among its candidates, or it ends with a traceback; with a tree of several
branches, and with some other flags, it logs that adaptive drafting is off and serves without it.
"""

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir, expanded
from sglang_qwen3next_eagle3.model import precision
from sglang_qwen3next_eagle3.overlay.adaptive import states as files
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates
from sglang_qwen3next_eagle3.overlay.fast import stages
from sglang_qwen3next_eagle3.serving import flags
from sglang_qwen3next_eagle3.serving.flags import Parsed

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.serving.profile import Profile

ADAPTIVE, CONFIG = "--speculative-adaptive", "--speculative-adaptive-config"
_EXCLUDED = (
    "--enable-dp-attention", "--enable-multi-layer-eagle", "--enable-two-batch-overlap",
    "--enable-pdmux",
)  # fmt: skip


MEASURED = "measured"
"""In place of a file: the one of ours that was measured on what is most like this server."""
FOLDER = "adaptive"
"""Below launch/, where ours are."""
_SWITCHES = ("fast", "seams", "tries")
"""What `files.switches` tells."""


@dataclass(frozen=True)
class ChosenStates:
    """note: what was chosen, for people. without: what of ours would be on by default, and was off
    when the costs were measured; headless: so was the head's stage, and the rest was on."""

    path: Path
    states: DraftStates
    note: str
    without: frozenset[str] = frozenset()
    headless: bool = False


def choose(
    profile: "Profile",
    *,
    tp: int,
    switches: Mapping[str, str],
    quantization: str | None = None,
    by_default: Collection[str] = (),
    defer: int | None = None,
) -> ChosenStates:
    """The file of states of a profile that asks for one. switches: as `files.switches` tells which
    of our kernels and seams serve; by_default: those of them that nobody asked for, which follow
    the file. quantization: that weights are loaded with, if the flags name one. defer: of how many
    cycles of 0 steps the extends are put off, if somebody says so; else as they were measured.

    Raises:
        UserError: there is no such file, it says no costs, or it is named and was measured on
            another kind of server.
    """
    asked = profile.adaptive or MEASURED
    wanted: dict[str, object] = {"tp": tp, "precision": _precision(profile.target, quantization)}
    wanted |= switches
    if asked != MEASURED:
        path = _path(asked)
        states = files.read(path)
        if states is None:
            raise UserError(f"states {path} says no costs of cycles; {files.HOW_TO_MAKE}")
        without, headless = _as_measured(states, by_default, wanted)
        if not profile.cpu_engine and (other := _other(states, wanted, cpu=False)):
            raise UserError(
                f"states {asked} are of {', '.join(other)}: by their costs drafts may cost more "
                "than they bring; serve as they were measured, measure yours (`bench auto`), or "
                f"take what is nearest (--adaptive {MEASURED})"
            )
        where = str(path)
        note = _note(states, where, wanted, profile.cpu_engine, defer)
        return ChosenStates(path, states, note, without, headless)
    found = {path: files.read(path) for path in sorted(_folder().glob("*.json"))}
    ours = {
        path: states
        for path, states in found.items()
        # By what was never measured nothing comes to be on that nobody asked for.
        if states and _like(states) and not (by_default and states.measured.get("estimated"))
    }
    if not ours:
        raise UserError(f"no file of states comes with this package; {files.HOW_TO_MAKE}")
    path = max(ours, key=lambda each: _alike(ours[each], wanted))
    states = ours[path]
    where = f"{FOLDER}/{path.name}"
    without, headless = _as_measured(states, by_default, wanted)
    note = _note(states, where, wanted, profile.cpu_engine, defer)
    return ChosenStates(path, states, note, without, headless)


def _as_measured(
    states: DraftStates, by_default: Collection[str], wanted: dict[str, object]
) -> tuple[frozenset[str], bool]:
    """`ChosenStates.without` and `.headless`; of what nobody asked for, `wanted` follows."""
    without = _without(states, by_default)
    wanted |= dict.fromkeys(without, "off")
    was, asked = _measured(states, "fast"), str(wanted.get("fast"))
    rest = stages.without_head(asked)
    headless = "fast" in by_default and _like(states) and rest != asked and was == rest
    if headless:
        wanted["fast"] = rest
    return without, headless


def _without(states: DraftStates, by_default: Collection[str]) -> frozenset[str]:
    """Of these, what was off when the costs were measured; nothing where nobody knows of what they
    are."""
    if not _like(states):
        return frozenset()
    return frozenset(key for key in by_default if _measured(states, key) == "off")


def _note(
    states: DraftStates,
    where: str,
    wanted: Mapping[str, object],
    cpu: bool,
    defer: int | None,
) -> str:
    """What was chosen, and what of this server it was not measured on."""
    note = f"{_says(states)} ({where})"
    other = _other(states, wanted, cpu=cpu)
    if states.measured and defer not in (None, states.defer):
        other.append(f"defer {states.defer or 'off'} and not {defer or 'off'}")
    return f"{note}; they are of {', '.join(other)}: `bench auto` measures yours" if other else note


def _other(states: DraftStates, wanted: Mapping[str, object], *, cpu: bool) -> list[str]:
    """What of a server its costs were not measured on."""
    if not states.measured:  # Nobody knows of what.
        return []
    if cpu == _like(states):
        return ["a GPU and not a CPU" if cpu else "a CPU and not a GPU"]
    if cpu:
        return []
    return [
        f"{key} {was} and not {value}"
        for key, value in wanted.items()
        if (was := _measured(states, key)) not in (value, None) and value is not None
    ]


def _says(states: DraftStates) -> str:
    steps = ", ".join(map(str, states.steps))
    return f"auto: drafts {steps} steps, by load and acceptance; costs of {states.where()}"


def _path(name: str) -> Path:
    """Of ours by its name, or the user's own."""
    if not name.endswith(".json"):
        ours = _folder() / f"{name}.json"
        if ours.is_file():
            return ours
        known = ", ".join(sorted(path.stem for path in _folder().glob("*.json")))
        raise UserError(
            f"no file of states {name!r}: choose {MEASURED}, one of {known}, or a .json of your own"
        )
    return expanded(name).absolute()


def _folder() -> Path:
    return data_dir("launch") / FOLDER


def _precision(target: str, quantization: str | None) -> str:
    """As it is served: weights that are not quantized may be when they are loaded."""
    stored = precision.of_checkpoint(target)
    if stored not in precision.UNQUANTIZED or quantization in (None, "unquant"):
        return stored
    return str(quantization)


def _like(states: DraftStates) -> bool:
    """A GPU's, not the demo's."""
    return "tp" in states.measured


def _measured(states: DraftStates, key: str) -> object:
    """A file that does not say so was measured without our switches, which older ones spell as
    true and false."""
    value = states.measured.get(key, False if key in _SWITCHES else None)
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _alike(states: DraftStates, wanted: Mapping[str, object]) -> float:
    weights = {"tp": 16, "precision": 8, "fast": 4, "seams": 2, "tries": 1}
    score = -0.5 if states.measured.get("estimated") else 0.0
    for key, value in wanted.items():
        was = _measured(states, key)
        # Some of our kernels are nearer to all of them than none are.
        near = key in _SWITCHES and "off" not in (was, value)
        score += weights[key] * (1.0 if was == value else 0.5 if near else 0.0)
    return score


def check(given: Parsed) -> None:
    """Raises UserError: adaptive drafting is asked for, and cannot be or would not take place."""
    if not given.of(ADAPTIVE):
        if given.of(CONFIG):
            raise UserError(f"{CONFIG} says nothing without {ADAPTIVE}: add it")
        return
    if not given.value("--speculative-algorithm"):
        raise UserError(f"{ADAPTIVE}: nothing drafts here; leave it out")
    topk = given.number("--speculative-eagle-topk")
    if topk not in (None, 1):
        raise UserError(
            f"{ADAPTIVE} is for chains, with topk {topk} SGLang serves without it: take a chain, "
            "for example --tree 3,1,4, or --adaptive off where a profile asks for it"
        )
    for name in _EXCLUDED:
        if given.of(name):
            raise UserError(f"{ADAPTIVE}: with {name} SGLang serves without it; leave one out")
    file = given.value(CONFIG)
    candidates = _own() if file is None else _candidates(expanded(file))
    if file is not None and files.read(expanded(file)) is not None:
        _check_longest(max(candidates), given.number("--speculative-num-steps"))
    steps = given.number("--speculative-num-steps")
    if steps is None:  # SGLang's own, where no tree is given.
        steps = 3
    if steps not in candidates:
        trees = " or ".join(f"{n},1,{n + 1}" for n in sorted(candidates) if n)
        raise UserError(
            f"{ADAPTIVE} begins with one of its candidates, {_listed(candidates)} steps, not with "
            f"{steps}: use --tree {trees}, or name yours with {CONFIG} FILE.json"
        )


def _check_longest(longest: int, steps: int | None) -> None:
    if steps is not None and steps < longest:
        raise UserError(
            f"states of up to {longest} steps begin with {longest}, by which SGLang sizes the "
            f"buffers of all of them, not with {steps}: leave --tree out, or pass --adaptive off"
        )


def _own() -> frozenset[int]:
    """Of SGLang's own configuration, over all batch sizes."""
    return frozenset(flags.table()[CONFIG].candidates)


def _candidates(path: Path) -> frozenset[int]:
    """Of a user's configuration: an object with `candidate_steps` for each batch size."""
    try:
        candidates, _ = files.read_all(path)
    except UserError as error:
        raise UserError(f"{CONFIG}: {error}") from None
    return frozenset(itertools.chain.from_iterable(candidates.values()))


def _listed(candidates: frozenset[int]) -> str:
    *first, last = map(str, sorted(candidates))
    return f"{', '.join(first)} or {last}" if first else last
