"""What is compared: the names on the command line, and the profile that each of them serves."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import slug, write_text
from sglang_qwen3next_eagle3.base.redact import masked, without_paths, without_secrets
from sglang_qwen3next_eagle3.bench.options import DEFAULTS, HOW_TO_SPELL, MTP
from sglang_qwen3next_eagle3.bench.results.records import NONE, Configuration
from sglang_qwen3next_eagle3.serving import preflight
from sglang_qwen3next_eagle3.serving import profile as profiles
from sglang_qwen3next_eagle3.serving.command_line import Launch
from sglang_qwen3next_eagle3.serving.flags import last_value
from sglang_qwen3next_eagle3.serving.profile import MTP_TREE, Profile, Tree
from sglang_qwen3next_eagle3.serving.unused import Said

DEFAULT_TREE = (3, 1, 4)
"""What SGLang 0.5.17 chooses for this target (arg_groups/speculative_hook.py)."""
_LIKE_A_TREE = re.compile(r"\d+,\d+,\d+")
_CHAINS = re.compile(r"chains:(\d+)-(\d+)")


@dataclass(frozen=True)
class Contender:
    """A configuration before it was measured: its name and what it serves. said: whose profile that
    is, for people."""

    name: str
    profile: Profile
    said: Said = field(default_factory=Said)

    @property
    def tree(self) -> tuple[int, int, int] | None:
        tree = self.profile.tree
        if tree is not None:
            return tree.steps, tree.topk, tree.draft_tokens
        return None if self.profile.algorithm == "none" else DEFAULT_TREE

    def write(self, folder: Path, clean: Callable[[object], object] = lambda data: data) -> Path:
        """The profile as a file that `launch --profile` takes."""
        path = folder / f"{slug(self.name)}.yaml"
        data = clean(self.profile.model_dump(by_alias=True, exclude_none=True))
        write_text(path, yaml.safe_dump(data, sort_keys=False))
        return path

    def plan(self, extra: Sequence[str]) -> Launch:
        """What will be executed. Raises UserError: it cannot be served."""
        return preflight.plan(self.profile, preflight.Options(tuple(extra), said=self.said))

    def describe(self, launch: Launch) -> Configuration:
        """Its row in a result, before anything is known of its server."""
        # Where this machine keeps its packages says nothing.
        environment = {k: v for k, v in launch.environment.items() if k != "PYTHONPATH"}
        return Configuration(
            name=self.name,
            algorithm=self.profile.algorithm,
            tree=_served_tree(launch.argv) or self.tree,
            argv=tuple(without_paths(masked(launch.argv))),
            environment=without_paths(without_secrets(environment)),
        )


def _served_tree(argv: Sequence[str]) -> tuple[int, int, int] | None:
    """The tree that SGLang will take: flags after `--` win."""
    flags = ("num-steps", "eagle-topk", "num-draft-tokens")
    values = [last_value(argv, f"--speculative-{flag}") for flag in flags]
    steps, topk, draft = (int(v) if v and v.isdecimal() else None for v in values)
    return None if steps is None or topk is None or draft is None else (steps, topk, draft)


def parse(
    names: Sequence[str],
    base: Profile,
    given: Callable[[Profile], Profile] = lambda found: found,
    called: str = "",
) -> list[Contender]:
    """base: the flags and checkpoints of all that are not profiles of their own.

    given: what the command line says of every profile (checkpoints, ranks). called: the base's name
    or file.

    Raises:
        UserError: a name that is none of `HOW_TO_SPELL`, or the same twice.
    """
    spelled = [name for text in names for name in _spread(text)]
    found = []
    for name in spelled:
        chosen, own = _profile(name, base, given)
        found.append(Contender(_short(name), chosen, Said.by(name if own else called)))
    slugs = [slug(contender.name) for contender in found]
    for contender in found:
        if slugs.count(slug(contender.name)) > 1:
            raise UserError(f"configuration {contender.name} is given twice, or goes by one name")
    return found


def _short(name: str) -> str:
    return Path(name).stem if name.endswith((".yaml", ".yml")) else name


def _spread(text: str) -> list[str]:
    chains = _CHAINS.fullmatch(text)
    if not chains:
        return [text]
    first, last = map(int, chains.groups())
    if not 1 <= first <= last:
        raise UserError(f"{text}: chains:FIRST-LAST with 1 or more steps")
    return [f"{steps},1,{steps + 1}" for steps in range(first, last + 1)]


def _profile(name: str, base: Profile, given: Callable[[Profile], Profile]) -> tuple[Profile, bool]:
    """What a name serves, and whether that is a profile of its own."""
    if name == NONE:
        return base.override(algorithm="none"), False
    if name == MTP or name.startswith(f"{MTP}:"):
        text = name.removeprefix(MTP).removeprefix(":")
        tree = Tree.parse(text) if text else MTP_TREE
        return base.override(algorithm="nextn", tree=tree.model_dump(by_alias=True)), False
    if name == DEFAULTS:
        return _eagle3(base).model_copy(update={"tree": None}), False
    if _LIKE_A_TREE.fullmatch(name):
        tree = Tree.parse(name)
        return _eagle3(base).override(tree=tree.model_dump(by_alias=True)), False
    try:
        return given(profiles.load(name)), True
    except UserError as error:
        if name.endswith((".yaml", ".yml")) or name in profiles.profile_names():
            raise
        raise UserError(f"no configuration {name!r}: {HOW_TO_SPELL}") from error


def _eagle3(base: Profile) -> Profile:
    if base.head is None:
        raise UserError("a tree needs a head: give --head, or a --profile that has one")
    return base


def of_running(name: str | None, info: Mapping[str, object]) -> Configuration:
    """A running server by what it says of itself at /server_info; a router says nothing.

    name: what to call it, by default its tree or its algorithm.
    """
    algorithm = str(info.get("speculative_algorithm") or NONE).lower()
    draft = info.get("speculative_draft_model_path")
    if algorithm == "eagle" and draft in (None, info.get("model_path")):
        # What SGLang makes of NEXTN: the target's own layer drafts.
        algorithm = "nextn"
    keys = ("num_steps", "eagle_topk", "num_draft_tokens")
    values = [info.get(f"speculative_{key}") for key in keys]
    whole = algorithm != NONE and all(isinstance(value, int) for value in values)
    tree = tuple(values) if whole else None
    spelled = ",".join(map(str, tree)) if tree else algorithm
    prefix = {"eagle3": "", "nextn": f"{MTP}:"}.get(algorithm, f"{algorithm}:")
    served = without_paths([str(info[key]) for key in ("model_path", "tp_size") if key in info])
    return Configuration.model_validate(
        {
            "name": name or (f"{prefix}{spelled}" if tree else spelled),
            "algorithm": algorithm,
            "tree": tree,
            "argv": served,
        }
    )
