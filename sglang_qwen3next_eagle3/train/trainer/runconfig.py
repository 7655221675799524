"""What SpecForge is told for a recipe: its run config, and the head's config.json (before training
for SpecForge, after it for SGLang). Pure functions from paths and options to mappings."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head.formats import ARCHITECTURE
from sglang_qwen3next_eagle3.head.head import AUX_LAYERS_KEY
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train.trainer.recipe import OWN_FIELDS, SECTIONS, Draft, Recipe

RUN_ID = "head"
CPU = "cpu"
STRATEGY = "eagle3"
# Neither interval is anything that a recipe has to say: SpecForge would save nothing on the way,
# and refuses features to evaluate on without an interval.
SAVE_INTERVAL = 1000
# SpecForge's default, flex_attention, has no backward pass on a CPU.
_ON_CPU = {"attention_backend": "sdpa", "fsdp_sharding": "NO_SHARD"}


@dataclass(frozen=True)
class Paths:
    """Where a run reads and writes; all absolute by the time SpecForge sees them."""

    target: str
    draft_config: str
    output: str
    features: str = ""
    eval_features: str | None = None
    vocab_mapping: str | None = None


def offline(
    recipe: Recipe,
    paths: Paths,
    layer_ids: Sequence[int] | None,
    processes: int,
    device: str = "cuda",
) -> dict[str, Any]:
    """The run config of offline training on captured features.

    layer_ids: for the record, None where ids cannot say it; offline, SpecForge reads three states
        from each file and compares nothing, which is why `train run` does.
    """
    config = _base(recipe, paths, layer_ids)
    training = config["training"]
    config["data"]["hidden_states_path"] = paths.features
    if paths.eval_features is None:
        training.pop("eval_interval", None)
    else:
        config["data"]["eval_hidden_states_path"] = paths.eval_features
        training.setdefault("eval_interval", training["save_interval"] or SAVE_INTERVAL)
    if device == CPU:
        config["training"] = {**_ON_CPU, **training}
    config["deployment"] = {
        "mode": "local_colocated",
        "trainer": {"nnodes": 1, "nproc_per_node": processes},
    }
    return config


def _base(recipe: Recipe, paths: Paths, layer_ids: Sequence[int] | None) -> dict[str, Any]:
    """What hangs on the recipe and the paths alone."""
    config: dict[str, Any] = {
        name: copy.deepcopy(recipe.specforge.get(name, {})) for name in SECTIONS
    }
    config["model"] |= {
        "target_model_path": paths.target,
        "draft_model_config": paths.draft_config,
    }
    if layer_ids is not None:
        config["model"]["aux_hidden_state_layer_ids"] = list(layer_ids)
    if paths.vocab_mapping is not None:
        config["model"]["vocab_mapping_path"] = paths.vocab_mapping
    config["data"]["cache_dir"] = str(Path(paths.output) / "cache")
    config["training"] = {"strategy": STRATEGY, **config["training"]}
    config["training"].setdefault("save_interval", SAVE_INTERVAL)
    if not config["tracking"]:
        del config["tracking"]
    return {**config, "run_id": RUN_ID, "output_dir": paths.output}


def override(config: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The config with `section.field=value` settings; values are YAML.

    Raises:
        UserError: a setting is not of that form, or is not the user's to set.
    """
    changed = copy.deepcopy(dict(config))
    for setting in settings:
        path, equals, text = setting.partition("=")
        section, dot, field = path.partition(".")
        if not (equals and dot and field) or "." in field:
            raise UserError(
                f"--set {setting!r}: write section.field=value, as SpecForge names them"
            )
        if section not in SECTIONS:
            raise UserError(f"--set {setting!r}: the sections are {', '.join(SECTIONS)}")
        if field in OWN_FIELDS.get(section, ()):
            raise UserError(
                f"--set {setting!r}: `train run` fills in {path} itself, from its options"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {setting!r}: the value is not YAML") from None
        # YAML 1.1 wants a point in 1e-4, and SpecForge takes numbers as text.
        changed.setdefault(section, {})[field] = value
    return changed


def optimizer_steps(config: Mapping[str, Any], samples: int) -> int:
    """Steps that SpecForge takes on `samples` features, in all epochs.

    Each process gets an equal share (the last samples repeated to make it even) and drops an
    incomplete batch (SpecForge 0.2.0, launch.py and training/trainer.py).

    Raises:
        UserError: a process's share does not fill one batch.
    """
    training = config["training"]
    processes = int(config["deployment"]["trainer"]["nproc_per_node"])
    batch = int(training.get("batch_size", 1))
    share = -(-samples // processes)
    if share < batch:
        raise UserError(
            f"{samples} samples do not fill a batch of {batch} on each of {processes} processes: "
            f"capture more, or pass --set training.batch_size={max(1, share)}"
        )
    windows = share // batch * int(training.get("num_epochs", 1))
    steps = windows // int(training.get("accumulation_steps", 1))
    return min(steps, int(training.get("max_steps") or steps))


def layer_ids(selection: AuxSelection) -> list[int] | None:
    """The selection as `eagle_aux_hidden_state_layer_ids` (id i is output@i), or None: the
    embedding's stream is no layer's output."""
    if 0 in selection.depths:
        return None
    return [depth - 1 for depth in selection.depths]


def head_config(draft: Draft, target: Target, selection: AuxSelection) -> dict[str, Any]:
    """config.json of a head for this target.

    The context is the target's: SGLang builds the draft with the target's context and refuses a
    head that declares less. `norm_output` stays unset, since SpecForge and SGLang agree on the
    state that feeds the next step only then.
    """
    theirs = target.config
    eagle: dict[str, Any] = {"use_aux_hidden_state": True}
    ids = layer_ids(selection)
    if ids is not None:
        eagle["eagle_aux_hidden_state_layer_ids"] = ids
    spelled = {} if ids is not None else {AUX_LAYERS_KEY: str(selection)}
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_size": target.hidden_size,
        "target_hidden_size": target.hidden_size,
        "num_aux_hidden_states": len(selection.taps),
        "num_hidden_layers": 1,
        "num_attention_heads": draft.num_attention_heads,
        "num_key_value_heads": draft.num_key_value_heads,
        "head_dim": draft.head_dim,
        "intermediate_size": draft.intermediate_size,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bias": False,
        "rms_norm_eps": theirs.get("rms_norm_eps", 1e-6),
        "rope_theta": _rope_theta(theirs),
        "max_position_embeddings": target.context_length,
        "vocab_size": target.vocab_size,
        "draft_vocab_size": draft.vocab_size,
        "tie_word_embeddings": False,
        **{name: theirs[name] for name in tokens if theirs.get(name) is not None},
        "torch_dtype": "bfloat16",
        "eagle_config": eagle,
        **spelled,
    }


def _rope_theta(config: Mapping[str, Any]) -> float:
    nested = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return float(config.get("rope_theta") or nested.get("rope_theta") or 10000.0)
