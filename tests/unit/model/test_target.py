import json
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.target import Target, end_tokens, layer_kinds
from tests.support.checkpoints import CODER_NEXT, FP8, write_config


@pytest.fixture
def coder_next() -> Target:
    return Target.from_config(CODER_NEXT)


def test_every_fourth_layer_is_attention(coder_next: Target) -> None:
    assert coder_next.attention_layers == (3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47)
    assert len(coder_next.gdn_layers) == 36


def test_layer_types_win_over_the_interval() -> None:
    types = ["full_attention", "linear_attention", "linear_attention"]
    config = {"num_hidden_layers": 3, "layer_types": types, "full_attention_interval": 3}
    assert layer_kinds(config) == ("attention", "gdn", "gdn")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer_types": ["full_attention"] * 47}, "47 layers, num_hidden_layers says 48"),
        ({"layer_types": ["sliding_attention"] * 48}, "sliding_attention"),
        ({"full_attention_interval": None}, "full_attention_interval = None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"head_dim": "256"}, "head_dim = '256'"),
        ({"model_type": "qwen3_moe"}, "'qwen3_moe', not 'qwen3_next'"),
        ({"layer_types": 3}, "layer_types are 3: a list of names"),
        ({"layer_types": [["full_attention"]] * 48}, "a list of names"),
        ({"quantization_config": "fp8"}, "quantization_config is 'fp8': an object"),
        ({"quantization_config": {"weight_block_size": 128}}, "weight_block_size = 128"),
        ({"quantization_config": {"weight_block_size": [128, 0]}}, "weight_block_size = "),
        ({"quantization_config": {"modules_to_not_convert": 3}}, "modules_to_not_convert = 3"),
    ],
)
def test_a_config_that_is_not_a_whole_qwen3_next_is_refused(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        Target.from_config({**CODER_NEXT, **changes})


def test_a_config_without_any_layer_pattern_names_the_key_to_add() -> None:
    config = {k: v for k, v in CODER_NEXT.items() if k != "full_attention_interval"}
    with pytest.raises(UserError, match="add one of them"):
        Target.from_config(config)


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_fp8_fits_up_to_four_ranks(tp: int) -> None:
    assert Target.from_config({**CODER_NEXT, "quantization_config": FP8}).tp_error(tp) is None


def test_fp8_does_not_fit_eight_ranks_but_bf16_does(coder_next: Target) -> None:
    fp8 = Target.from_config({**CODER_NEXT, "quantization_config": FP8})
    assert "512 / TP 8 = 64 is not divisible by the FP8 block of 128" in str(fp8.tp_error(8))
    assert coder_next.tp_error(8) is None
    assert "num_attention_heads = 16" in str(coder_next.tp_error(3))


@pytest.mark.parametrize(
    ("configs", "ends"),
    [
        ([{}], set()),
        ([{"eos_token_id": 3}], {3}),
        ([{"eos_token_id": [3, 5]}, {"eos_token_id": 7}], {3, 5, 7}),
    ],
)
def test_all_configs_say_what_ends_an_answer(
    configs: list[dict[str, object]], ends: set[int]
) -> None:
    assert end_tokens(*configs) == ends


def test_a_folder_is_read_and_its_defects_are_named(tmp_path: Path) -> None:
    assert Target.from_path(write_config(tmp_path / "ok", CODER_NEXT)).hidden_size == 2048
    with pytest.raises(UserError, match="is not a folder"):
        Target.from_path(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        Target.from_path(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Target.from_path(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="no JSON object"):
        Target.from_path(tmp_path / "empty")
