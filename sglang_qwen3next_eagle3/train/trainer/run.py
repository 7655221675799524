"""`train run`: train a head with SpecForge by a recipe; start it again and it goes on.

The run folder gets specforge.yaml (the run config), draft.json (the head's config), run.json (what
was trained on what, when, and how it went), train.log and checkpoints/.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import aux_layers, hub
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.hub import local_folder
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train import vocab
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture.features import Manifest
from sglang_qwen3next_eagle3.train.trainer import (
    draft,
    hardware,
    online,
    recipe,
    runconfig,
    specforge,
)
from sglang_qwen3next_eagle3.train.trainer.recipe import Recipe
from sglang_qwen3next_eagle3.train.trainer.runconfig import CPU, Paths
from sglang_qwen3next_eagle3.train.trainer.supervise import (
    CHECKPOINTS,
    CONFIG,
    DRAFT,
    Plan,
    register,
    train,
)
from sglang_qwen3next_eagle3.train.trainer.trainer_process import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to train").add_argument
    names = ", ".join(recipe.names())
    what("--recipe", required=True, metavar="NAME", help=f"{names}, or a file")
    what("--target", help="folder, hub name or `demo`; default: the recipe's")
    what("--features", type=Path, metavar="DIR", help="what `train capture` wrote")
    what("--eval-features", type=Path, metavar="DIR", help="the same of held-out conversations")
    what("--vocab", type=Path, metavar="FILE", help="vocab.pt of `train vocab`")
    what("--out", type=Path, default=Path("run"), metavar="DIR", help="default: %(default)s")
    what("--aux-layers", metavar="SELECTION", help="default: the recipe's")
    what("--allow-gdn-aux", action="store_true", help="let a spelled selection name GDN layers")
    what("--set", action="append", default=[], metavar="S.F=V", help="a SpecForge setting")
    how = parser.add_argument_group("how").add_argument
    how("--device", choices=("cuda", CPU), help="default: cuda if there is one")
    how("--gpus", type=int, metavar="N", help="training processes; default: the recipe's DP")
    how("--dry-run", action="store_true", help="print SpecForge's run config and stop")
    how("--json", action="store_true", help="print JSON for a script")
    servers = parser.add_argument_group(
        "online: states from capture servers, nothing on disk (see docs/training.md)"
    ).add_argument
    servers("--online", action="store_true", help="write the config, and what to start around it")
    servers("--data", type=Path, metavar="FILE", help="train.jsonl of `train prepare`")
    servers("--server-url", action="append", metavar="URL", help=f"default: {online.SERVER}")
    servers("--mooncake", default="127.0.0.1", metavar="HOST", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0, or 130 after Ctrl-C. Raises UserError before anything is loaded."""
    specforge.require()
    plan = make_plan(arguments)
    out = arguments.out.absolute()
    if arguments.dry_run:
        print(json.dumps(plan.config, indent=2) if arguments.json else _describe(plan), end="")
        return 0
    if arguments.online:
        register(plan, out)
        print("\n".join(online.around(plan.config, plan.recipe.hardware.tp, out / CONFIG)))
        return 0
    _check_vocabulary(arguments.vocab, plan)
    plan.about["hardware"] = hardware.describe(plan.device, plan.processes)
    try:
        outcome = train(plan, out)
    except KeyboardInterrupt:
        say(f"\ninterrupted: the same command goes on from the last checkpoint in {out}")
        return 130
    if arguments.json:
        summary = {key: outcome.record.get(key) for key in ("finished", "seconds", "metrics")}
        print(json.dumps({"checkpoint": str(outcome.checkpoint), **summary}, indent=2))
    else:
        state = "trained" if outcome.trained else "nothing to do, trained before"
        print(f"{state}: {outcome.checkpoint}; next: train export --run {arguments.out}")
    return 0


@dataclass(frozen=True)
class _Fitted:
    """What the target and its features say. target: for SpecForge, a folder or a hub name; spelled,
    ids: the selection; draft_config: None where the target is not here."""

    target: str
    spelled: str
    ids: list[int] | None
    draft_config: dict[str, Any] | None = None
    manifests: Mapping[str, Manifest] = field(default_factory=dict)


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Everything that is decided before SpecForge starts. Reads small files only.

    Raises:
        UserError: the recipe, the target and the features do not fit together.
    """
    chosen = recipe.load(arguments.recipe)
    name = arguments.target or chosen.target
    paths = _paths(arguments)
    fitted = _fit(arguments, chosen, name)
    paths = replace(paths, target=fitted.target)
    device = "cuda"
    if arguments.online:
        config = _online(arguments, chosen, paths, fitted)
    else:
        if arguments.dry_run:
            device = arguments.device or device
        else:
            device = hardware.choose(arguments.device, arguments.gpus, chosen.hardware.dp)
        processes = arguments.gpus or (1 if device == CPU else chosen.hardware.dp)
        config = runconfig.offline(chosen, paths, fitted.ids, processes, device)
    config = runconfig.override(config, arguments.set)
    specforge.check_config(config)
    train = fitted.manifests.get("train")
    data = {key: manifest.as_json() for key, manifest in fitted.manifests.items()}
    return Plan(
        chosen,
        config,
        fitted.draft_config,
        fitted.spelled,
        device,
        steps=None if train is None else runconfig.optimizer_steps(config, train.samples),
        about={
            "recipe": {"name": Path(arguments.recipe).stem, "description": chosen.description},
            "target": name,
            "data": {**data, "vocabulary": vocab.read_report(arguments.vocab)},
        },
    )


def _fit(arguments: argparse.Namespace, chosen: Recipe, name: str) -> _Fitted:
    folder = local_folder(name)
    if folder is None and arguments.dry_run:
        # The target is not here to be asked, and a dry run downloads nothing.
        spelled = arguments.aux_layers or chosen.aux_layers
        return _Fitted(name, spelled, _full_size_ids(spelled))
    if folder is None and arguments.online:
        # This machine may be no trainer: the target's config is enough.
        path, known_as = hub.resolve(name, what="target", only_config=True), name
    else:
        path = specforge.target_folder(name)
        known_as = str(path)
    target = Target.from_path(path)
    selection = aux_layers.resolve(
        target,
        wanted=arguments.aux_layers or chosen.aux_layers,
        wanted_source="--aux-layers" if arguments.aux_layers else f"recipe {arguments.recipe}",
        count=features.STATES,
        allow_gdn=arguments.allow_gdn_aux,
    ).selection
    return _Fitted(
        known_as,
        str(selection),
        draft.layer_ids(selection),
        draft.config(chosen.draft, target, selection),
        {} if arguments.online else _manifests(arguments, selection, path),
    )


def _online(
    arguments: argparse.Namespace, chosen: Recipe, paths: Paths, fitted: _Fitted
) -> dict[str, Any]:
    if fitted.ids is None:
        raise UserError(
            f"auxiliary layers {fitted.spelled}: the capture servers know outputs of layers only: "
            "train on captured features, without --online"
        )
    data = _existing(arguments.data, "train.jsonl", arguments, "--data")
    servers = arguments.server_url or [online.SERVER]
    return online.run_config(chosen, paths, fitted.ids, str(data), servers, arguments.mooncake)


def _full_size_ids(spelled: str) -> list[int]:
    """Output ids of a selection on the published target, for a dry run that need not load it."""
    ids = {
        aux_layers.CARD: [3, 23, 47],
        aux_layers.FORK: [2, 26, 46],
        aux_layers.SGLANG: [1, 23, 44],
    }
    if spelled not in ids:
        raise UserError(
            f"auxiliary layers {spelled!r}: give the target as a local folder to check them"
        )
    return ids[spelled]


def _manifests(
    arguments: argparse.Namespace, selection: AuxSelection, target: Path
) -> dict[str, Manifest]:
    """The manifests. SpecForge compares nothing: features of other layers, or of another target,
    would train a useless head without an error."""
    found = {}
    for key, folder in (("train", arguments.features), ("evaluation", arguments.eval_features)):
        if folder is None:
            continue
        manifest = features.read_manifest(folder)
        features.check_selection(manifest, selection, target)
        if not manifest.complete:
            raise UserError(
                f"the capture in {folder} is not complete: start `train capture` again with the "
                "same arguments, it goes on where it stopped"
            )
        found[key] = manifest
    return found


def _paths(arguments: argparse.Namespace) -> Paths:
    out = arguments.out.absolute()
    evaluation = arguments.eval_features
    found = Paths(
        target="",
        draft_config=str(out / DRAFT),
        output=str(out / CHECKPOINTS),
        eval_features=None if evaluation is None else str(evaluation.absolute()),
        vocab_mapping=str(_existing(arguments.vocab, "vocab.pt", arguments, "--vocab")),
    )
    if arguments.online:
        return found
    captured = _existing(arguments.features, "features", arguments, "--features")
    return replace(found, features=str(captured))


# What has to be there, and which step makes it.
_MADE_BY = {"--vocab": "train vocab", "--features": "train capture", "--data": "train prepare"}


def _existing(
    path: Path | None, placeholder: str, arguments: argparse.Namespace, option: str
) -> Path:
    """The absolute path; in a dry run a placeholder stands in for one that was not given."""
    if path is None and arguments.dry_run:
        return Path(placeholder).absolute()
    if path is None or not path.exists():
        what = "is missing" if path is None else f"{path}: it is not there"
        raise UserError(f"{option} {what}; `{_MADE_BY[option]}` makes it")
    return path.absolute()


def _check_vocabulary(path: Path, plan: Plan) -> None:
    assert plan.draft_config is not None
    sizes = vocab.sizes(path)
    wanted = plan.draft_config["draft_vocab_size"], plan.draft_config["vocab_size"]
    if sizes != wanted:
        raise UserError(
            f"{path} maps {sizes[0]} draft tokens to {sizes[1]} of the target, the recipe's head "
            f"has {wanted[0]} for {wanted[1]}: make it with `train vocab --size {wanted[0]}`, or "
            "change draft.vocab-size in the recipe"
        )


def _describe(plan: Plan) -> str:
    import yaml

    meant, batch = plan.recipe.hardware, plan.config["training"].get("batch_size", 1)
    lines = [
        f"# {plan.recipe.description}",
        f"# auxiliary hidden states: {plan.selection}; "
        f"draft vocabulary: {plan.recipe.draft.vocab_size}",
        "# trainer: SpecForge; optimizer: AdamW (its only one); "
        f"batch: {batch} on each of {plan.processes} processes",
        f"# capture: SGLang on {meant.gpus} GPUs (TP={meant.tp}, DP={meant.dp}); "
        f"conversations: {plan.recipe.data.samples}",
    ]
    if plan.recipe.data.sources:
        lines.append(f"# data: {', '.join(plan.recipe.data.sources)}")
    if plan.steps is not None:
        lines.append(f"# optimizer steps: {plan.steps}")
    if plan.config["deployment"]["mode"] == "disaggregated":
        lines += (
            f"# {line}"
            for line in online.around(plan.config, plan.recipe.hardware.tp, Path("THIS_FILE"))
        )
    return "\n".join(lines) + "\n" + yaml.safe_dump(plan.config, sort_keys=False)
