"""Variables that the caller set and that do not count, for a profile or an option says otherwise.

An option of a command wins over the profile, and the profile over the environment, also where a
variable was set for this very command. So one line says which are not used, and the way out.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.redact import is_secret, without_secrets
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.cpu_engine import ENVIRONMENT as OF_CPU_ENGINE
from sglang_qwen3next_eagle3.overlay.fast import stages
from sglang_qwen3next_eagle3.overlay.fast.trials import TRY
from sglang_qwen3next_eagle3.overlay.requests import bounds
from sglang_qwen3next_eagle3.overlay.seams import seams
from sglang_qwen3next_eagle3.serving import adaptive
from sglang_qwen3next_eagle3.serving.flags import Parsed
from sglang_qwen3next_eagle3.serving.profile import ADAPTIVE_OFF, Profile

AUX_LAYERS = aux_layers.ENVIRONMENT_VARIABLE
KEYS: Final[Mapping[str, str]] = {
    variables.FAST: "fast",
    variables.SEAMS: "seams",
    variables.ADAPTIVE: "adaptive",
    variables.CPU_ENGINE: "cpu-engine",
    AUX_LAYERS: "aux-layers",
}
"""By which key of a profile the same is said."""
PASS, LEAVE_OUT = "pass {}", "leave out {}"
SAY, WITHOUT = "say {} in a profile", "take a profile without {}"
_ONE_OR_NOTHING: Final = (variables.ADAPTIVE, variables.CPU_ENGINE)
"""What is on with 1 alone."""
_NEEDED: Final = ("--out",)
"""Options that cannot be left out."""
_LONGEST: Final = 40
"""Letters of a value that is told."""
_WORDS: Final = {"1": "on", "true": "on", "yes": "on", "y": "on"} | dict.fromkeys(
    ("0", "false", "no", "n"), "off"
)
"""As SGLang reads switches of its own."""


@dataclass(frozen=True)
class Said:
    """Who says what a launch is asked for, for people. profile: as it is called. options: of the
    command, as they were spelled, by the key of the profile or the variable in whose place they
    stand. offered: whether the command has options for what a profile says."""

    profile: str = "the profile"
    options: Mapping[str, str] = field(default_factory=dict)
    offered: bool = True

    @classmethod
    def by(cls, name_or_file: str, options: Mapping[str, str] | None = None) -> Self:
        """options: of a command that has them for what a profile says."""
        return cls(Path(name_or_file).name or cls.profile, options or {}, options is not None)


@dataclass(frozen=True)
class UnusedVariable:
    """value: empty where it is a secret, or long. by: who says otherwise; says: what, where it is
    not in `by`. way_out, what: how it would count; empty for none."""

    name: str
    value: str
    by: str
    says: str = ""
    way_out: str = ""
    what: str = ""

    @property
    def spelled(self) -> str:
        shown = _shown(self.name, self.value)
        return f"{self.name}={shown}" if shown else self.name


def _shown(name: str, value: str) -> str:
    """Nothing of a secret, and of a long value; of an address no login."""
    if is_secret(name) or len(value) > _LONGEST:
        return ""
    return str(without_secrets(value.strip()))


def _by_environment(name: str, value: str) -> str:
    """What a profile says whose `environment` names the variable."""
    shown = _shown(name, value)
    return f"{f'{name}: {shown}' if shown else 'another'} in its environment"


def find(
    chosen: Profile,
    said: Said,
    given: Parsed,
    environment: Mapping[str, str],
    target: Target | None = None,
) -> tuple[UnusedVariable, ...]:
    """What of the caller's environment a launch does not use.

    chosen: the profile with the options in it. given: the flags of SGLang; environment: what is set
    beyond the caller's. target: tells whether two spellings of auxiliary layers are the same.
    """
    launch = _Asked(chosen, said, given, environment, target)
    told = sorted((name, value) for name, value in os.environ.items() if value.strip())
    return tuple(one for name, value in told for one in launch.unused(name, value))


def of_command(
    told: Mapping[str, str],
    options: Mapping[str, str],
    over: Mapping[str, str],
    said: Said,
) -> tuple[UnusedVariable, ...]:
    """What of the caller's environment a command takes from a server that it starts, and what of
    its own does not come to that server, for the profile names it.

    told: what the command sets, nothing for what the server is not to have. options: of the
    command, by the variables that they set. over: what the launch sets over all that; said: who
    says so.
    """
    found = []
    for name, value in told.items():
        option = options.get(name)
        if name in over:
            if option and value and _means(name, over[name]) != _means(name, value):
                lost, says = f"{option} for {name}", _by_environment(name, over[name])
                found.append(UnusedVariable(lost, "", said.profile, says, WITHOUT, name))
            continue
        own = os.environ.get(name, "")
        if own.strip() and _means(name, own) != _means(name, value):
            way_out = ("", "")
            if option and option not in _NEEDED:
                way_out = (LEAVE_OUT, option) if value else (PASS, f"{option} {own.strip()}")
            by = option if option and value else "the benchmark"
            found.append(UnusedVariable(name, own, by, "", *way_out))
    return tuple(found)


@dataclass(frozen=True)
class _Asked:
    """What `find` takes."""

    chosen: Profile
    said: Said
    given: Parsed
    environment: Mapping[str, str]
    target: Target | None

    def unused(self, name: str, value: str) -> Iterable[UnusedVariable]:
        if name == AUX_LAYERS and self.chosen.aux_layers is None:
            yield from self._for_the_head(value)
        elif name == variables.ADAPTIVE and self.chosen.adaptive is None:
            yield from self._without_costs(value)
        elif name == TRY:
            if self.chosen.fast is not None and stages.parse(self.chosen.fast) is None:
                yield replace(
                    self._against_a_key(variables.FAST, value, self.chosen.fast), name=name
                )
        elif name == variables.DEFER and self.chosen.adaptive is None:
            yield from self._without_states(value)
        elif (holds := self._key(name)) is not None:
            counts = "1" if name in _ONE_OR_NOTHING else self.environment.get(name, holds)
            counts = holds if name in (variables.FAST, variables.SEAMS) else counts
            if not self._same(name, value, counts):
                yield self._against_a_key(name, value, holds)
        elif name in self.environment and not self._same(name, value, self.environment[name]):
            yield from self._set(name, value)

    def _key(self, name: str) -> str | None:
        """What the profile, or an option in its place, says by the key for it."""
        chosen = self.chosen
        return {
            variables.FAST: chosen.fast,
            variables.SEAMS: chosen.seams,
            variables.ADAPTIVE: chosen.adaptive,
            variables.CPU_ENGINE: "true" if chosen.cpu_engine else None,
            AUX_LAYERS: chosen.aux_layers,
        }.get(name)

    def _against_a_key(self, name: str, value: str, holds: str) -> UnusedVariable:
        key = KEYS[name]
        option = self.said.options.get(key)
        by, says = (option, "") if option else (self.said.profile, f"{key}: {holds}")
        way_out = self._way(key, ADAPTIVE_OFF if key == "adaptive" else value)
        return UnusedVariable(name, value, by, says, *way_out)

    def _for_the_head(self, value: str) -> Iterable[UnusedVariable]:
        """Without a key the head decides, or what is known of it."""
        if self.chosen.algorithm != "eagle3":
            return
        counts = self.environment.get(AUX_LAYERS)
        way_out = self._way("aux-layers", value)
        if counts is None:
            by = "the head's own config or what is known of it"
            yield UnusedVariable(AUX_LAYERS, value, by, "", *way_out)
        elif not self._same(AUX_LAYERS, value, counts):
            says = f"aux-layers: {counts}"
            yield UnusedVariable(AUX_LAYERS, value, "what is known of the head", says, *way_out)

    def _without_costs(self, value: str) -> Iterable[UnusedVariable]:
        """Alone it changes nothing: SGLang gets no file of states."""
        if value.strip() == "1" and not self.given.of(adaptive.ADAPTIVE):
            yield self._not_adaptive(variables.ADAPTIVE, value)

    def _without_states(self, value: str) -> Iterable[UnusedVariable]:
        """Extends are put off where the steps are chosen by us."""
        if value.strip().strip("0") and not (
            self.given.of(adaptive.ADAPTIVE) and os.environ.get(variables.ADAPTIVE) == "1"
        ):
            yield self._not_adaptive(variables.DEFER, value)

    def _not_adaptive(self, name: str, value: str) -> UnusedVariable:
        key = KEYS[variables.ADAPTIVE]
        option = self.said.options.get(key)
        by, says = (option, "") if option else (self.said.profile, f"no {key}")
        return UnusedVariable(name, value, by, says, *self._way(key, adaptive.MEASURED))

    def _set(self, name: str, value: str) -> Iterable[UnusedVariable]:
        """By an option, by what the profile says of the environment, or by the CPU engine. What a
        launch found out has a line of its own."""
        if (option := self.said.options.get(name)) is not None:
            yield UnusedVariable(name, value, option, "", LEAVE_OUT, option)
        elif name in self.chosen.environment:
            says = _by_environment(name, self.chosen.environment[name])
            yield UnusedVariable(name, value, self.said.profile, says, WITHOUT, name)
        elif self.chosen.cpu_engine and name in OF_CPU_ENGINE:
            yield UnusedVariable(name, value, "the CPU engine")

    def _way(self, key: str, value: str) -> tuple[str, str]:
        """How the same is said so that it counts."""
        # Stages and seams may have spaces between them, where a shell takes none.
        word, *more = ["".join(value.split())] if key in ("fast", "seams") else value.split()
        if not _can_be_said(key, word):
            return "", ""
        leave = more == [aux_layers.ALLOW_GDN]
        if not self.said.offered:
            return SAY, f"{key}: {word}" + (", allow-gdn-aux: true" if leave else "")
        if word == "off" and key in ("fast", "seams"):
            return PASS, f"--no-{key}"
        return PASS, f"--{key} {word}" + (" --allow-gdn-aux" if leave else "")

    def _same(self, name: str, value: str, counts: str) -> bool:
        headless = self.chosen.algorithm != "eagle3"
        one, other = (_means(name, text, self.target, headless) for text in (value, counts))
        return one == other


def _can_be_said(key: str, word: str) -> bool:
    """Whether an option or a key takes the same word."""
    try:
        if key == "fast":
            stages.parse(word)
        elif key == "seams":
            seams.parse(word)
        elif key == "aux-layers":
            aux_layers.parse(word)
    except UserError:
        return False
    return key != "cpu-engine"


def _means(name: str, value: str, target: Target | None = None, headless: bool = False) -> object:
    """What two spellings have in common that ask for the same. headless: of a server without a
    head, for which stages of the head ask nothing."""
    text = value.strip()
    try:
        if name == variables.FAST:
            wanted = stages.parse(text)
            if wanted is None:
                return None
            taken = wanted.stages - stages.OF_HEAD if headless else wanted.stages
            return taken, wanted.required, wanted.auto
        if name == variables.SEAMS:
            return seams.parse(text), seams.is_auto(text)
        if name == variables.LIMITS:
            return bounds.parse(text)
        if name == AUX_LAYERS and text != aux_layers.OFF:
            return _depths(text, target)
    except UserError:
        return text
    if name in _ONE_OR_NOTHING:
        return text == "1"
    return os.path.normpath(text) if os.sep in text else _WORDS.get(text.lower(), text)


def _depths(text: str, target: Target | None) -> object:
    spelled, _ = aux_layers.from_environment(text)
    selection = aux_layers.parse(spelled)
    if isinstance(selection, str):
        if target is None:
            return selection
        selection = aux_layers.named(selection, target)
    return selection.depths


def line(of_servers: Sequence[Sequence[UnusedVariable]]) -> str | None:
    """All of it in one line, for people; None where there is nothing to say. A warning, unless it
    is of others' variables alone, or an option of the same command says otherwise.

    of_servers: of each of them; some may use what others do not.
    """
    every = [one for found in of_servers for one in found]
    if not every:
        return None
    told = []
    for names in _together(every):
        mine = [one for one in every if one.name in names]
        by_all = all(any(one.name in names for one in found) for found in of_servers)
        spelled = list(dict.fromkeys(one.spelled for one in mine))
        verb = "are" if len(spelled) > 1 else "is"
        told.append(
            f"{', '.join(spelled)} {verb} not used{':' if by_all else ' where'} {_by_whom(mine)}"
        )
    ours = [one for one in every if variables.PREFIX in one.name]
    doubt = "warning: " * any(not one.by.startswith("--") for one in ours)
    return doubt + "; ".join(filter(None, [*told, _way_out(every)]))


def _together(every: Iterable[UnusedVariable]) -> list[set[str]]:
    """Names by names: those in whose place one option stands are told as one."""
    rows: dict[str, set[str]] = {}
    for one in every:
        alone = one.says or one.name in KEYS
        rows.setdefault(one.name if alone else one.by, set()).add(one.name)
    return list(rows.values())


def _by_whom(mine: Iterable[UnusedVariable]) -> str:
    says: dict[str, dict[str, None]] = {}
    for one in mine:
        says.setdefault(one.says, {})[one.by] = None
    told = []
    for what, by in says.items():
        verbs = ("says", "say") if what else ("wins", "win")
        told.append(f"{_joined(list(by))} {verbs[len(by) > 1]} {what}".rstrip())
    return ", ".join(told)


def _way_out(every: Sequence[UnusedVariable]) -> str:
    ways: dict[str, dict[str, None]] = {}
    for one in every:
        if one.way_out:
            ways.setdefault(one.way_out, {})[one.what] = None
    if not ways:
        return ""
    names = list(dict.fromkeys(one.name for one in every if one.way_out))
    left = {one.name for one in every} - set(names)
    which = _joined(names) if left else ("them" if len(names) > 1 else "it")
    told = [
        way.format(" ".join(what) if way == PASS else _joined(list(what)))
        for way, what in ways.items()
    ]
    return f"for {which} to count, {', '.join(told)}"


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
