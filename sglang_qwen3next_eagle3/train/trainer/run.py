"""`train run`: train a head with SpecForge by a recipe; start it again and it goes on.

The run folder gets specforge.yaml (the run config), draft.json (the head's config), run.json (what
was trained on what, when, and how it went), train.log and checkpoints/.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.redact import is_secret
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.model import aux_layers, hub, shards
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train import draft_vocabulary
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture.features import FeaturesManifest
from sglang_qwen3next_eagle3.train.trainer import recipe, runconfig, specforge
from sglang_qwen3next_eagle3.train.trainer.recipe import Recipe
from sglang_qwen3next_eagle3.train.trainer.runconfig import CPU, Paths
from sglang_qwen3next_eagle3.train.trainer.supervise import (
    CHECKPOINTS,
    DRAFT,
    TrainingOutcome,
    TrainingPlan,
    train,
)


@dataclass(frozen=True)
class TrainOptions:
    """What to train and how.

    recipe: a name or a file. target: folder, hub name or `demo`; aux_layers: a selection; both by
    default the recipe's. features, eval_features: what `train capture` wrote. vocab: vocab.pt of
    `train vocab`. out: the run's folder. settings: SpecForge's, `section.field=value`. device: cuda
    by default if there is one. gpus: training processes, by default the recipe's DP. dry_run: what
    the steps before would have made need not be there.
    """

    recipe: str
    target: str | None = None
    features: Path | None = None
    eval_features: Path | None = None
    vocab: Path | None = None
    out: Path = Path("run")
    aux_layers: str | None = None
    allow_gdn_aux: bool = False
    settings: tuple[str, ...] = ()
    device: Literal["cuda", "cpu"] | None = None
    gpus: int | None = None
    dry_run: bool = False


def train_head(options: TrainOptions) -> TrainingOutcome:
    """Train, or go on with it.

    Raises:
        UserError: before anything is loaded where the parts do not fit; SpecForge failed.
        KeyboardInterrupt: after SpecForge ended.
    """
    plan = make_plan(options)
    assert options.vocab is not None, "else there is no plan"
    _check_vocabulary(options.vocab, plan)
    plan.about["hardware"] = _hardware(plan.device, plan.processes)
    return train(plan, options.out.absolute())


@dataclass(frozen=True)
class _Fitted:
    """What the target and its features say. target: for SpecForge, a folder or a hub name; spelled,
    ids: the selection; draft_config: None where the target is not here."""

    target: str
    spelled: str
    ids: list[int] | None
    draft_config: dict[str, Any] | None = None
    manifests: Mapping[str, FeaturesManifest] = field(default_factory=dict)


def make_plan(options: TrainOptions) -> TrainingPlan:
    """Everything that is decided before SpecForge starts. Reads small files only.

    Raises:
        UserError: SpecForge is not the one we know, or the recipe, the target and the features do
            not fit together.
    """
    specforge.require()
    chosen = recipe.load(options.recipe)
    name = options.target or chosen.target
    paths = _paths(options)
    fitted = _fit(options, chosen, name)
    paths = replace(paths, target=fitted.target)
    device: str = options.device or "cuda"
    if not options.dry_run:
        device = choose_device(options.device, options.gpus, chosen.hardware.dp)
    processes = options.gpus or (1 if device == CPU else chosen.hardware.dp)
    config = runconfig.offline(chosen, paths, fitted.ids, processes, device)
    config = runconfig.override(config, options.settings)
    specforge.check_config(config)
    _refuse_secrets(config)
    train = fitted.manifests.get("train")
    data = {key: manifest.as_json() for key, manifest in fitted.manifests.items()}
    return TrainingPlan(
        chosen,
        config,
        fitted.draft_config,
        fitted.spelled,
        device,
        steps=None if train is None else runconfig.optimizer_steps(config, train.samples),
        about={
            "recipe": {"name": Path(options.recipe).stem, "description": chosen.description},
            "target": name,
            "data": {**data, "vocabulary": draft_vocabulary.read_report(options.vocab)},
        },
    )


def _refuse_secrets(config: Mapping[str, Any]) -> None:
    """Raises UserError: the config holds one, which is written into the run's folder."""
    for section, settings in config.items():
        if isinstance(settings, Mapping):
            for name, value in settings.items():
                if value and is_secret(name):
                    raise UserError(
                        f"{section}.{name}: it would be written into the run's folder; leave it "
                        "out and set it in the environment (WANDB_API_KEY, SWANLAB_API_KEY)"
                    )


def choose_device(device: str | None, gpus: int | None, dp: int) -> str:
    """`cuda` or `cpu`. device, gpus: as the user asked; dp: processes that the recipe means.

    Raises:
        UserError: a device, or a number of them, that is not here.
    """
    import torch

    here = torch.cuda.device_count()
    device = device or ("cuda" if here else CPU)
    if gpus is not None and gpus < 1:
        raise UserError(f"--gpus {gpus}: at least 1")
    if device == CPU:
        if gpus not in (None, 1):
            raise UserError(f"--gpus {gpus}: on a CPU one process trains; leave it out")
        return device
    if not here:
        raise UserError("--device cuda: no CUDA GPU here; --device cpu does for small models")
    if (gpus or dp) > here:
        raise UserError(
            f"{gpus or dp} training processes, each with a GPU and a batch of its own, but {here} "
            f"here: pass --gpus {here}"
        )
    return device


def _hardware(device: str, processes: int) -> str:
    """What SpecForge trains on, for people and for provenance: `2 x NVIDIA H200`."""
    if device == CPU:
        return CPU
    import torch

    return f"{processes} x {torch.cuda.get_device_name(0)}"


def _fit(options: TrainOptions, chosen: Recipe, name: str) -> _Fitted:
    folder = hub.local_folder(name)
    if folder is None and options.dry_run:
        # The target is not here to be asked, and a dry run downloads nothing.
        spelled = options.aux_layers or chosen.aux_layers
        return _Fitted(name, spelled, _full_size_ids(spelled))
    path = hub.resolve(name, what="target")
    if not options.dry_run:
        shards.check(Folder(path))
    target = Target.from_path(path)
    selection = aux_layers.on_target(
        options.aux_layers or chosen.aux_layers,
        target,
        count=features.STATES,
        allow_gdn=options.allow_gdn_aux,
    )
    return _Fitted(
        str(path),
        str(selection),
        runconfig.layer_ids(selection),
        runconfig.head_config(chosen.draft, target, selection),
        _manifests(options, selection, path),
    )


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
    options: TrainOptions, selection: AuxSelection, target: Path
) -> dict[str, FeaturesManifest]:
    """The manifests. SpecForge compares nothing: features of other layers, or of another target,
    would train a useless head without an error."""
    found = {}
    for key, folder in (("train", options.features), ("evaluation", options.eval_features)):
        if folder is None:
            continue
        manifest = features.read_manifest(folder)
        features.check_selection(manifest, selection, target)
        features.check_complete(manifest, folder)
        found[key] = manifest
    return found


def _paths(options: TrainOptions) -> Paths:
    out = options.out.absolute()
    evaluation = options.eval_features
    vocabulary = _existing(options.vocab, "vocab.pt", options, "--vocab")
    captured = _existing(options.features, "features", options, "--features")
    return Paths(
        target="",
        draft_config=str(out / DRAFT),
        output=str(out / CHECKPOINTS),
        eval_features=None if evaluation is None else str(evaluation.absolute()),
        vocab_mapping=str(vocabulary),
        features=str(captured),
    )


# What has to be there, and which step makes it.
_MADE_BY = {"--vocab": "train vocab", "--features": "train capture"}


def _existing(path: Path | None, placeholder: str, options: TrainOptions, option: str) -> Path:
    """The absolute path; in a dry run a placeholder stands in for one that was not given."""
    if path is None and options.dry_run:
        return Path(placeholder).absolute()
    if path is None or not path.exists():
        what = "is missing" if path is None else f"{path}: it is not there"
        raise UserError(f"{option} {what}; `{_MADE_BY[option]}` makes it")
    return path.absolute()


def _check_vocabulary(path: Path, plan: TrainingPlan) -> None:
    assert plan.draft_config is not None
    sizes = draft_vocabulary.sizes(path)
    wanted = plan.draft_config["draft_vocab_size"], plan.draft_config["vocab_size"]
    if sizes != wanted:
        raise UserError(
            f"{path} maps {sizes[0]} draft tokens to {sizes[1]} of the target, the recipe's head "
            f"has {wanted[0]} for {wanted[1]}: make it with `train vocab --size {wanted[0]}`, or "
            "change draft.vocab-size in the recipe"
        )


def describe(plan: TrainingPlan) -> str:
    """SpecForge's run config as YAML, with comments for people above it."""
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
    return "\n".join(lines) + "\n" + yaml.safe_dump(plan.config, sort_keys=False)
