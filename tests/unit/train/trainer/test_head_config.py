from typing import Any

import pytest

from sglang_qwen3next_eagle3.head.head import AUX_LAYERS_KEY
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.published import HEAD
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train.trainer import recipe, runconfig
from tests.support.checkpoints import CODER_NEXT

TARGET = Target({**CODER_NEXT, "rope_theta": 5000000, "bos_token_id": 151643})


def config(spelled: str = "card", target: Target = TARGET) -> dict[str, Any]:
    selection = aux_layers.on_target(spelled, target, allow_gdn=True)
    return runconfig.head_config(recipe.load("card").draft, target, selection)


def test_the_card_s_recipe_gives_the_published_head() -> None:
    made = config()
    sizes = {key: value for key, value in HEAD.items() if isinstance(value, int)}
    # The published recipe's own config stops at 4096; SGLang serves the target's context.
    sizes |= {"max_position_embeddings": 262144}
    del sizes["eos_token_id"]
    assert {key: made[key] for key in sizes} == sizes
    assert made["architectures"] == HEAD["architectures"]
    assert made["eagle_config"] == {
        "use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [3, 23, 47],
    }  # fmt: skip
    assert made["num_aux_hidden_states"] == 3
    assert "norm_output" not in made
    assert AUX_LAYERS_KEY not in made


@pytest.mark.parametrize(
    ("spelled", "ids"),
    [
        ("fork", [2, 26, 46]),
        ("sglang", [1, 23, 44]),
        ("input:3,output:23,output:47", [2, 23, 47]),
        ("input:0,output:5,output:9", None),
    ],
)
def test_ids_name_outputs(spelled: str, ids: list[int] | None) -> None:
    selection = aux_layers.on_target(spelled, TARGET, allow_gdn=True)
    assert runconfig.layer_ids(selection) == ids


def test_the_embedding_s_stream_is_spelled_under_our_own_key() -> None:
    made = config("input:0,output:5,output:9")
    assert "eagle_aux_hidden_state_layer_ids" not in made["eagle_config"]
    assert made[AUX_LAYERS_KEY] == "input:0,output:5,output:9"
    assert made["num_aux_hidden_states"] == 3


@pytest.mark.parametrize(
    ("theirs", "theta"),
    [
        ({"rope_theta": 5000000}, 5e6),
        ({"rope_parameters": {"rope_theta": 1e7, "rope_type": "default"}}, 1e7),
        ({}, 1e4),
    ],
)
def test_the_rotary_base_is_the_target_s(theirs: dict[str, Any], theta: float) -> None:
    published = {key: value for key, value in CODER_NEXT.items() if key != "rope_theta"}
    assert config(target=Target({**published, **theirs}))["rope_theta"] == theta


def test_tokens_that_the_target_does_not_name_are_left_out() -> None:
    made = config()
    assert made["bos_token_id"] == 151643
    assert "pad_token_id" not in made
