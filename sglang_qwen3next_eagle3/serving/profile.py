"""Launch profiles: a YAML file in, a validated `Profile` out."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from sglang_qwen3next_eagle3.base import schema
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.base.schema import Strict, kebab
from sglang_qwen3next_eagle3.overlay.environment import spelled
from sglang_qwen3next_eagle3.overlay.fast import stages
from sglang_qwen3next_eagle3.overlay.seams import seams
from sglang_qwen3next_eagle3.serving import flags

Algorithm = Literal["eagle3", "nextn", "none"]
"""What drafts: an EAGLE3 head, the target's own MTP layer, or nothing."""
FlagValue = bool | int | float | str | list[int] | list[str]
_FLAG = re.compile(r"[a-z][a-z0-9-]*")
_TREE = re.compile(r"([0-9]{1,9}),([0-9]{1,9}),([0-9]{1,9})")
# What has a field of its own, by SGLang's names for it.
_OWNED = {
    "--model-path": "target",
    "--revision": "target-revision",
    "--speculative-algorithm": "algorithm",
    "--speculative-draft-model-path": "head",
    "--speculative-draft-model-revision": "head-revision",
    "--speculative-num-steps": "tree.steps",
    "--speculative-eagle-topk": "tree.topk",
    "--speculative-num-draft-tokens": "tree.draft-tokens",
    "--speculative-adaptive": "adaptive",
    "--speculative-adaptive-config": "adaptive",
    "--trust-remote-code": "nothing: Qwen3-Next is part of SGLang and transformers",
    "--config": "the keys of the profile itself",
}
# One spelling, so that --tp on the command line replaces it.
_SPELLED = {"tp-size": "tp", "tensor-parallel-size": "tp"}

_OF_A_HEAD = ("head", "head-revision", "aux-layers", "allow-gdn-aux", "adaptive")
_SPECULATION = (*_OF_A_HEAD, "tree")


_SWITCHES: Mapping[str, Callable[[str | None, str], object]] = {
    "fast": stages.parse,
    "seams": seams.parse,
}

ADAPTIVE_OFF = "off"
HOW_TO_SAY_ADAPTIVE = "name measured, a .json of `bench plan --adaptive`, or off"


class Tree(Strict):
    """The shape of a draft: `steps` levels, `topk` branches a node, `draft_tokens` verified.

    With topk 1 it is a chain.
    """

    steps: Annotated[int, Field(ge=1)]
    topk: Annotated[int, Field(ge=1)]
    draft_tokens: Annotated[int, Field(ge=2)]

    @classmethod
    def parse(cls, text: str) -> "Tree":
        """The tree that `steps,topk,draft-tokens` spells, for example 3,4,8.

        Raises:
            UserError: it is spelled otherwise, or no such tree is possible.
        """
        match = _TREE.fullmatch(text)
        if match is None:
            raise UserError(f"tree {text!r}: write steps,topk,draft-tokens, for example 3,4,8")
        steps, topk, draft_tokens = map(int, match.groups())
        try:
            return cls(steps=steps, topk=topk, draft_tokens=draft_tokens)
        except ValidationError as error:
            raise UserError(f"tree {text}: {schema.first_error(error)}") from None

    @property
    def capacity(self) -> int:
        """Tokens that the drafted tree holds, its root (the last verified token) included.

        The first step proposes topk tokens, each further one topk for each of the topk best
        (SGLang 0.5.17, speculative/eagle_utils.py, organize_draft_results).
        """
        return 1 + self.topk + (self.steps - 1) * self.topk**2

    @model_validator(mode="after")
    def _is_possible(self) -> "Tree":
        if self.topk == 1 and self.draft_tokens != self.steps + 1:
            raise ValueError(
                f"a chain (topk 1) of {self.steps} steps verifies {self.steps + 1} draft tokens, "
                f"not {self.draft_tokens}"
            )
        if self.draft_tokens > self.capacity:
            raise ValueError(
                f"steps {self.steps}, topk {self.topk} hold {self.capacity} draft tokens, "
                f"{self.draft_tokens} are asked for"
            )
        return self


MTP_TREE = Tree(steps=3, topk=1, draft_tokens=4)
"""What SGLang chooses for the MTP layer (0.5.17, arg_groups/speculative_hook.py)."""


class Profile(Strict):
    """One way to serve: what, on which hardware, with which speculation and which SGLang flags.

    tree: None leaves its shape to SGLang. adaptive: the file of states by which the steps of a
    chain follow load and acceptance (serving/adaptive.py): `measured`, one of ours, or a path.
    fast: which of our kernels serve passes of few rows; seams: what of that between a cycle's
    graphs is launched together; both as their variables spell it (overlay/environment.py), in a
    file also true, false or a list. None leaves either to the caller's environment.
    """

    description: str
    hardware: str
    target: str
    algorithm: Algorithm = "eagle3"
    head: str | None = None
    target_revision: str | None = None
    head_revision: str | None = None
    tree: Tree | None = None
    adaptive: str | None = None
    aux_layers: str | None = None
    allow_gdn_aux: bool = False
    cpu_engine: bool = False
    fast: str | None = None
    seams: str | None = None
    sglang: dict[str, FlagValue] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)

    @field_validator("adaptive", mode="before")
    @classmethod
    def _off_is_none(cls, given: object) -> object:
        # YAML reads off as false.
        if given is False or given == ADAPTIVE_OFF:
            return None
        if given == "":
            raise ValueError(HOW_TO_SAY_ADAPTIVE)
        return given

    @field_validator("fast", "seams", mode="before")
    @classmethod
    def _is_a_switch(cls, given: object, info: ValidationInfo) -> str | None:
        if given is None:
            return None
        text = spelled(given)
        try:
            _SWITCHES[str(info.field_name)](text, "")
        except UserError as error:
            raise ValueError(str(error)) from None
        return text

    @field_validator("target", "head", "target_revision", "head_revision")
    @classmethod
    def _names_something(cls, given: str | None) -> str | None:
        # An unset variable of a script leaves an empty word: a folder's name would be this one's,
        # and a revision none.
        if given is not None and not given.strip():
            raise ValueError("it is empty: name one, or leave it out")
        return given

    @field_validator("sglang", mode="before")
    @classmethod
    def _values_are_values(cls, given: object) -> object:
        for name, value in given.items() if isinstance(given, dict) else ():
            several = value if isinstance(value, list) else [value]
            kinds = {type(one) for one in several}
            alike = len(kinds) < 2 and kinds <= {int, str} if isinstance(value, list) else True
            if not alike or not kinds <= {bool, int, float, str}:
                raise ValueError(
                    f"{name!r}: a flag takes true, false, a number, a text, or a list of whole "
                    "numbers or of texts"
                )
        return given

    @field_validator("sglang")
    @classmethod
    def _flags_are_flags(cls, given: dict[str, FlagValue]) -> dict[str, FlagValue]:
        for name in given:
            if not _FLAG.fullmatch(name):
                raise ValueError(f"{name!r} is not an SGLang flag: write it without dashes before")
            if name in _SPELLED:
                raise ValueError(f"{name!r} does not belong here: use sglang.{_SPELLED[name]}")
            flag = flags.find(f"--{name}")
            owners = [_OWNED[known] for known in flag.names if known in _OWNED] if flag else []
            if owners:
                raise ValueError(f"{name!r} does not belong here: use {owners[0]}")
        return given

    @field_validator("environment")
    @classmethod
    def _variables_are_variables(cls, variables: dict[str, str]) -> dict[str, str]:
        for name in variables:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is not an environment variable")
        return variables

    @field_validator("aux_layers")
    @classmethod
    def _selection_is_readable(cls, text: str | None) -> str | None:
        from sglang_qwen3next_eagle3.model import aux_layers

        if text is not None:
            try:
                aux_layers.parse(text)
            except UserError as error:
                raise ValueError(str(error)) from None
        return text

    @model_validator(mode="after")
    def _speculation_is_whole(self) -> "Profile":
        if self.algorithm == "eagle3":
            if self.head is None:
                raise ValueError(
                    "algorithm eagle3 needs a head: name one, or choose algorithm nextn (the "
                    "target's own MTP layer) or none"
                )
            return self
        data = self.model_dump(by_alias=True)
        for name in _SPECULATION if self.algorithm == "none" else _OF_A_HEAD:
            if data[name]:
                way_out = "leave it out, or choose another algorithm"
                raise ValueError(f"algorithm {self.algorithm} takes no {name}: {way_out}")
        return self

    def override(
        self, *, sglang: Mapping[str, FlagValue | None] | None = None, **fields: Any
    ) -> "Profile":
        """This profile with the given fields and flags in place of its own; None leaves one.

        With another algorithm, the head, the tree and the selection of this one are dropped.
        """
        changed = {kebab(k): v for k, v in fields.items() if v is not None}
        replaced = {k: v for k, v in (sglang or {}).items() if v is not None}
        data = self.model_dump(by_alias=True)
        if changed.get("algorithm", self.algorithm) != self.algorithm:
            data = {k: v for k, v in data.items() if k not in _SPECULATION}
        data |= {**changed, "sglang": {**self.sglang, **replaced}}
        return schema.validate(Profile, data, "with these options")


@dataclass(frozen=True)
class Overrides:
    """What a command line says in place of a profile's values; None leaves one.

    tree: as `Tree.parse` reads it. adaptive: `off` leaves it out. no_speculation and mtp choose
    the algorithm. fast, seams: as their variables spell them.
    """

    target: str | None = None
    head: str | None = None
    revision: str | None = None
    head_revision: str | None = None
    aux_layers: str | None = None
    allow_gdn_aux: bool = False
    no_speculation: bool = False
    mtp: bool = False
    tree: str | None = None
    adaptive: str | None = None
    tp: int | None = None
    host: str | None = None
    port: int | None = None
    fast: str | None = None
    seams: str | None = None

    def apply(self, chosen: Profile) -> Profile:
        """The profile with them. Raises UserError: they contradict it or each other."""
        # A revision belongs to the checkpoint it was pinned for.
        if self.target is not None:
            chosen = chosen.model_copy(update={"target_revision": None})
        if self.head is not None:
            chosen = chosen.model_copy(update={"head_revision": None})
        algorithm, tree = self._speculation(chosen)
        for name, parse in _SWITCHES.items():
            self._check_switch(name, parse)
        if self.adaptive == "":
            raise UserError(f"--adaptive: {HOW_TO_SAY_ADAPTIVE}")
        if self.adaptive == ADAPTIVE_OFF:
            chosen = chosen.model_copy(update={"adaptive": None})
        elif self.adaptive is not None and tree is None:
            # The states say how it begins, whatever tree the profile has for itself.
            chosen = chosen.model_copy(update={"tree": None})
        return chosen.override(
            target=self.target,
            algorithm=algorithm,
            tree=tree,
            head=self.head,
            target_revision=self.revision,
            head_revision=self.head_revision,
            aux_layers=self.aux_layers,
            allow_gdn_aux=self.allow_gdn_aux or None,
            adaptive=None if self.adaptive == ADAPTIVE_OFF else self.adaptive,
            fast=self.fast,
            seams=self.seams,
            sglang={
                "tp": self.tp,
                "host": self.host,
                "port": self.port,
            },
        )

    def _check_switch(self, name: str, parse: Callable[[str | None, str], object]) -> None:
        asked: str | None = getattr(self, name)
        parse(asked, f"--{name} ")
        if asked is not None and not asked.strip(" ,"):
            raise UserError(f"--{name}: it names nothing; say which, or nothing behind it for all")

    def _speculation(self, chosen: Profile) -> tuple[Algorithm | None, Tree | None]:
        if self.no_speculation and self.mtp:
            raise UserError("--no-speculation and --mtp contradict each other: pass one of them")
        tree = None if self.tree is None else Tree.parse(self.tree)
        if self.no_speculation:
            return "none", tree
        if self.mtp:
            # A profile that says nextn has chosen for itself.
            return "nextn", tree or (None if chosen.algorithm == "nextn" else MTP_TREE)
        return None, tree


def profile_names() -> tuple[str, ...]:
    """The names of the profiles that come with the package."""
    return schema.names(data_dir("launch"))


def load(name_or_file: str) -> Profile:
    """A profile by its name or from a user's own `.yaml` file.

    Raises:
        UserError: no such profile or file, not YAML, unknown keys, impossible values.
    """
    return schema.load(Profile, "profile", data_dir("launch"), name_or_file)
