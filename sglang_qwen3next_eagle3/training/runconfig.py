"""SpecForge's run config for a recipe: pure functions from paths and options to a mapping."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sglang_qwen3next_eagle3.errors import UserError
from sglang_qwen3next_eagle3.training.recipe import Recipe

RUN_ID = "head"
# SpecForge's capture servers need seven slots beyond the longest sample.
CAPTURE_HEADROOM = 7


@dataclass(frozen=True)
class Paths:
    """Where a run reads and writes; all absolute by the time SpecForge sees them."""

    target: str
    draft_config: str
    output: str
    features: str
    eval_features: str | None = None
    vocab_mapping: str | None = None


def offline(
    recipe: Recipe, paths: Paths, layer_ids: Sequence[int], processes: int
) -> dict[str, Any]:
    """The run config of offline training on captured features.

    layer_ids: for the record; offline, SpecForge reads three states from each file and compares
        nothing, which is why `train run` does.
    """
    config = _base(recipe, paths, layer_ids)
    config["data"]["hidden_states_path"] = paths.features
    if paths.eval_features is not None:
        config["data"]["eval_hidden_states_path"] = paths.eval_features
    else:
        config["training"].pop("eval_interval", None)
    config["deployment"] = {
        "mode": "local_colocated",
        "trainer": {"nnodes": 1, "nproc_per_node": processes},
    }
    return config


def online(
    recipe: Recipe,
    paths: Paths,
    layer_ids: Sequence[int],
    data: str,
    servers: Sequence[str],
    mooncake: str,
) -> dict[str, Any]:
    """The run config of online, disaggregated training: capture servers put the states into
    Mooncake, the trainer takes them from there.

    data: prepared conversations; servers: URLs; mooncake: host of the Mooncake master.
    """
    config = _base(recipe, paths, layer_ids)
    if paths.vocab_mapping is None:
        raise UserError(
            "online training needs the draft vocabulary beforehand: run `train vocab` and pass "
            "--vocab"
        )
    length = config["data"].get("max_length", 2048)
    config["data"]["train_data_path"] = data
    config["data"]["chat_template"] = "qwen"
    config["training"].pop("eval_interval", None)
    config["training"]["role"] = "auto"
    config["model"]["sglang_attention_backend"] = "triton"
    config["model"]["sglang_context_length"] = length + CAPTURE_HEADROOM
    config["deployment"] = {
        "mode": "disaggregated",
        "trainer": {"nnodes": 1, "nproc_per_node": recipe.hardware.dp},
        "disaggregated": {
            "control_dir": str(Path(paths.output) / "control"),
            "backend": "mooncake",
            "server_urls": list(servers),
            "mooncake_metadata_server": f"http://{mooncake}:35880/metadata",
            "mooncake_master_server_addr": f"{mooncake}:35551",
        },
    }
    return config


def _base(recipe: Recipe, paths: Paths, layer_ids: Sequence[int]) -> dict[str, Any]:
    sections = {name: copy.deepcopy(recipe.specforge.get(name, {})) for name in _SECTIONS}
    sections["model"] |= {
        "target_model_path": paths.target,
        "draft_model_config": paths.draft_config,
        "aux_hidden_state_layer_ids": list(layer_ids),
    }
    if paths.vocab_mapping is not None:
        sections["model"]["vocab_mapping_path"] = paths.vocab_mapping
    sections["data"]["cache_dir"] = str(Path(paths.output) / "cache")
    config: dict[str, Any] = {name: value for name, value in sections.items() if value}
    return {**config, "run_id": RUN_ID, "output_dir": paths.output}


_SECTIONS = ("model", "data", "training", "tracking")


def override(config: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The config with `section.field=value` settings; values are YAML.

    Raises:
        UserError: a setting is not of that form.
    """
    changed = copy.deepcopy(dict(config))
    for setting in settings:
        path, equals, text = setting.partition("=")
        section, dot, field = path.partition(".")
        if not (equals and dot and field) or "." in field:
            raise UserError(
                f"--set {setting!r}: write section.field=value, as SpecForge names them"
            )
        target = changed.setdefault(section, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {setting!r}: {section} is no section of SpecForge's run config")
        target[field] = yaml.safe_load(text)
    return changed
