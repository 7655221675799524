"""The run config as a mapping; tests/contract/test_specforge.py shows it to SpecForge's schema."""

from dataclasses import replace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.trainer import recipe, runconfig
from sglang_qwen3next_eagle3.train.trainer.runconfig import Paths

PATHS = Paths("/t", "/run/draft.json", "/run/checkpoints", "/f", vocab_mapping="/v/vocab.pt")
CARD, DEMO = recipe.load("card"), recipe.load("demo")


def offline(chosen: recipe.Recipe = CARD, paths: Paths = PATHS, **options: Any) -> dict[str, Any]:
    return runconfig.offline(chosen, paths, [3, 23, 47], **{"processes": 2, **options})


def test_paths_and_layers_stand_beside_what_the_recipe_says() -> None:
    config = offline()
    assert config["model"] == {
        "torch_dtype": "bfloat16",
        "target_model_path": "/t",
        "draft_model_config": "/run/draft.json",
        "aux_hidden_state_layer_ids": [3, 23, 47],
        "vocab_mapping_path": "/v/vocab.pt",
    }
    assert config["data"]["hidden_states_path"] == "/f"
    assert config["deployment"]["trainer"] == {"nnodes": 1, "nproc_per_node": 2}
    assert config["training"]["strategy"] == "eagle3"
    assert "tracking" not in config


def test_a_selection_without_ids_leaves_them_out() -> None:
    config = runconfig.offline(CARD, PATHS, None, 1)
    assert "aux_hidden_state_layer_ids" not in config["model"]


def test_evaluation_has_an_interval_where_there_is_something_to_evaluate_on() -> None:
    assert "eval_interval" not in offline(DEMO)["training"]
    held_out = replace(PATHS, eval_features="/e")
    asked = DEMO.specforge["training"]["eval_interval"]
    assert offline(DEMO, held_out)["training"]["eval_interval"] == asked
    card = offline(CARD, held_out)
    assert card["training"]["eval_interval"] == card["training"]["save_interval"] == 2000
    assert card["data"]["eval_hidden_states_path"] == "/e"


def test_a_cpu_gets_what_has_a_backward_pass_there_unless_the_recipe_chose() -> None:
    assert "attention_backend" not in offline()["training"]
    on_cpu = offline(device="cpu")["training"]
    assert (on_cpu["attention_backend"], on_cpu["fsdp_sharding"]) == ("sdpa", "NO_SHARD")
    chosen = CARD.model_copy(update={"specforge": {"training": {"attention_backend": "fa"}}})
    assert offline(chosen, device="cpu")["training"]["attention_backend"] == "fa"


def test_the_recipe_itself_is_left_alone() -> None:
    before = DEMO.model_dump()
    offline(DEMO)
    assert DEMO.model_dump() == before


def test_settings_override_and_are_yaml() -> None:
    config = runconfig.override(
        offline(), ["training.max_steps=20", "tracking.report_to=tensorboard"]
    )
    assert config["training"]["max_steps"] == 20
    assert config["tracking"] == {"report_to": "tensorboard"}
    assert config["training"]["num_epochs"] == 6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.max_steps", "write section.field=value"),
        ("max_steps=3", "write section.field=value"),
        ("training.a.b=3", "write section.field=value"),
        ("deployment.mode=x", "the sections are model, data, training, tracking"),
        ("data.hidden_states_path=/x", "`train run` fills in data.hidden_states_path itself"),
        ("training.resume_from=/x", "`train run` fills in training.resume_from itself"),
        ("training.max_steps=[", "the value is not YAML"),
    ],
)
def test_settings_that_are_none_are_refused(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        runconfig.override(offline(), [setting])


@pytest.mark.parametrize(
    ("samples", "processes", "training", "steps"),
    [
        (54000, 2, {"num_epochs": 6, "batch_size": 1}, 162000),
        (10, 1, {"num_epochs": 2, "batch_size": 4}, 4),  # two of a pass's ten are dropped
        (9, 2, {"num_epochs": 1, "batch_size": 5}, 1),  # shares of five, one sample twice
        (10, 1, {"num_epochs": 3, "batch_size": 2, "accumulation_steps": 5}, 3),
        (10, 1, {"num_epochs": 100, "batch_size": 1, "max_steps": 7}, 7),
        (3, 1, {"num_epochs": 1, "batch_size": 1, "max_steps": 7}, 3),
    ],
)
def test_the_number_of_steps(
    samples: int, processes: int, training: dict[str, int], steps: int
) -> None:
    config = {"training": training, "deployment": {"trainer": {"nproc_per_node": processes}}}
    assert runconfig.optimizer_steps(config, samples) == steps


def test_too_few_samples_for_a_batch_are_refused() -> None:
    config = {"training": {"batch_size": 8}, "deployment": {"trainer": {"nproc_per_node": 2}}}
    with pytest.raises(UserError, match=r"14 samples .* --set training.batch_size=7"):
        runconfig.optimizer_steps(config, 14)
