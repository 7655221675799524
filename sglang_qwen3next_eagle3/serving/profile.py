"""Launch profiles: a YAML file in, a validated `Profile` and SGLang's command line out."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.resources import data_dir

SERVER_MODULE = "sglang.launch_server"
TRITON = "triton"
CARD_LIMIT = (
    "the model card names Triton as required (FlashInfer fails on head_dim 256 with hybrid "
    "attention and GDN layers)"
)

Algorithm = Literal["eagle3", "nextn", "none"]
"""What drafts: an EAGLE3 head, the target's own MTP layer (SGLang's name: NEXTN), or nothing."""
FlagValue = bool | int | float | str | list[int] | list[str]
_FLAG = re.compile(r"[a-z][a-z0-9-]*")
_TREE = re.compile(r"([0-9]+),([0-9]+),([0-9]+)")
# These have fields of their own, or follow from them.
_OWNED = {
    "model-path": "target",
    "model": "target",
    "revision": "target-revision",
    "speculative-algorithm": "algorithm",
    "speculative-draft-model-path": "head",
    "speculative-draft-model-revision": "head-revision",
    "speculative-num-steps": "tree.steps",
    "speculative-eagle-topk": "tree.topk",
    "speculative-num-draft-tokens": "tree.draft-tokens",
    "tp-size": "sglang.tp",
    "tensor-parallel-size": "sglang.tp",
    "trust-remote-code": "nothing: Qwen3-Next is part of SGLang and transformers",
}

_OF_A_HEAD = ("head", "head-revision", "aux-layers", "allow-gdn-aux")
_SPECULATION = (*_OF_A_HEAD, "tree")


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_kebab, populate_by_name=True
    )


class Tree(_Strict):
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
            raise UserError(f"tree {text}: {_first(error)}") from None

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


class Profile(_Strict):
    """One way to serve: what, on which hardware, with which speculation and which SGLang flags.

    tree: None leaves its shape to SGLang.
    """

    description: str
    hardware: str
    target: str
    algorithm: Algorithm = "eagle3"
    head: str | None = None
    target_revision: str | None = None
    head_revision: str | None = None
    tree: Tree | None = None
    aux_layers: str | None = None
    allow_gdn_aux: bool = False
    cpu_engine: bool = False
    sglang: dict[str, FlagValue] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)

    @field_validator("sglang")
    @classmethod
    def _flags_are_flags(cls, flags: dict[str, FlagValue]) -> dict[str, FlagValue]:
        for name in flags:
            if not _FLAG.fullmatch(name):
                raise ValueError(f"{name!r} is not an SGLang flag: write it without dashes before")
            if name in _OWNED:
                raise ValueError(f"{name!r} does not belong here: use {_OWNED[name]}")
        return flags

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
        changed = {_kebab(k): v for k, v in fields.items() if v is not None}
        flags = {k: v for k, v in (sglang or {}).items() if v is not None}
        data = self.model_dump(by_alias=True)
        if changed.get("algorithm", self.algorithm) != self.algorithm:
            data = {k: v for k, v in data.items() if k not in _SPECULATION}
        return _validate(
            {**data, **changed, "sglang": {**self.sglang, **flags}}, "with these options"
        )


def profile_names() -> tuple[str, ...]:
    """The names of the profiles that come with the package."""
    return tuple(sorted(path.stem for path in data_dir("launch").glob("*.yaml")))


def load(name_or_file: str) -> Profile:
    """A profile by its name or from a user's own `.yaml` file.

    Raises:
        UserError: no such profile or file, not YAML, unknown keys, impossible values.
    """
    if name_or_file.endswith((".yaml", ".yml")):
        path = Path(name_or_file).expanduser()
        if not path.is_file():
            raise UserError(f"no profile file {path}")
    elif name_or_file in profile_names():
        path = data_dir("launch") / f"{name_or_file}.yaml"
    else:
        raise UserError(
            f"no profile {name_or_file!r}: choose one of {', '.join(profile_names())}, "
            "or give a .yaml file of your own"
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no mapping of profile keys")
    return _validate(data, f"profile {name_or_file}")


def _validate(data: Mapping[str, Any], what: str) -> Profile:
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{what}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, behind its place where it has one."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = ", ".join(_kebab(name) for name in Profile.model_fields)
        message = f"unknown key; known are {known}" if "." not in where else "unknown key"
    return f"{where}: {message}" if where else message


def build_argv(profile: Profile, python: str = "python") -> list[str]:
    """SGLang's command line for a profile: the model card's flags in the card's order.

    `--trust-remote-code`, which the card passes, is not among them: the architecture is part of
    SGLang and transformers, so no code of the checkpoint has to run.
    """
    argv = [python, "-m", SERVER_MODULE, "--model-path", profile.target]
    if profile.target_revision:
        argv += ["--revision", profile.target_revision]
    argv += _speculation(profile)
    for name, value in profile.sglang.items():
        argv += _flag(name, value)
    return argv


def _speculation(profile: Profile) -> list[str]:
    if profile.algorithm == "none":
        return []
    argv = ["--speculative-algorithm", profile.algorithm.upper()]
    if profile.head is not None:
        argv += ["--speculative-draft-model-path", profile.head]
    if profile.head_revision:
        argv += ["--speculative-draft-model-revision", profile.head_revision]
    tree = profile.tree
    if tree is not None:
        argv += ["--speculative-num-steps", str(tree.steps)]
        argv += ["--speculative-num-draft-tokens", str(tree.draft_tokens)]
        argv += ["--speculative-eagle-topk", str(tree.topk)]
    return argv


def _flag(name: str, value: FlagValue) -> list[str]:
    if value is False:
        return []
    if value is True:
        return [f"--{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]


def last_value(argv: Sequence[str], *names: str) -> str | None:
    """What SGLang's parser will take for a flag: its last value in `argv`, under any of its names.

    A flag without a value gives the empty string; an absent one None.
    """
    found: str | None = None
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name not in names:
            continue
        following = argv[index + 1] if index + 1 < len(argv) else "--"
        found = value if equals else ("" if following.startswith("--") else following)
    return found
