import json
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.target import Target, layer_kinds
from tests.conftest import CODER_NEXT, FP8, write_config

GIB = 2**30


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


def test_parameters_equal_those_of_the_transformers_model(coder_next: Target) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for changes in ({}, {"mlp_only_layers": [1, 2], "num_hidden_layers": 8, "num_experts": 16}):
        config = {**CODER_NEXT, **changes}
        with torch.device("meta"):
            model = transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(**config))
        counted = sum(parameter.numel() for parameter in model.parameters())
        assert Target.from_config(config).parameters == counted
    assert coder_next.parameters == 79_674_391_296


def test_weight_bytes_agree_with_what_was_measured_on_an_h200(coder_next: Target) -> None:
    fp8 = Target.from_config({**CODER_NEXT, "quantization_config": FP8})
    assert fp8.dtype == "fp8"
    assert fp8.weight_bytes() / GIB == pytest.approx(74.97, abs=0.2)
    assert coder_next.weight_bytes() == 2 * coder_next.parameters
    assert coder_next.weight_bytes("float32") == 4 * coder_next.parameters


def test_a_rank_holds_its_share_and_what_is_replicated(coder_next: Target) -> None:
    whole, quarter = coder_next.weight_bytes(), coder_next.weight_bytes(tp=4)
    replicated = {w.name for w in coder_next.weights(4) if w.per_rank == w.elements}
    assert replicated == {
        "attention.qk_norm", "gdn.norm", "moe.gate", "moe.shared_expert_gate", "layernorms",
    }  # fmt: skip
    assert whole / 4 < quarter < whole / 4 * 1.01
    kv = {w.name: w for w in coder_next.weights(4)}["attention.kv_proj"]
    assert kv.per_rank == kv.elements // 2, "two KV heads cannot be split four ways"


def test_state_bytes_are_those_of_the_card_s_model(coder_next: Target) -> None:
    # 36 layers x (32 heads x 128 x 128 fp32 + 8192 channels x 3 bf16), by hand.
    assert coder_next.gdn_state_bytes() == 36 * (32 * 128 * 128 * 4 + 8192 * 3 * 2)
    assert coder_next.gdn_state_bytes() * 32 / GIB == pytest.approx(2.3, abs=0.05)
    assert coder_next.gdn_state_bytes(draft_tokens=8) == 9 * coder_next.gdn_state_bytes()
    assert coder_next.gdn_state_bytes(tp=4) * 4 == coder_next.gdn_state_bytes()
    # 12 layers x (K and V) x 2 heads x 256 x bf16, by hand.
    assert coder_next.kv_bytes_per_token() == 12 * 2 * 2 * 256 * 2
    assert coder_next.kv_bytes_per_token(tp=4) == 12 * 2 * 1 * 256 * 2


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_fp8_fits_up_to_four_ranks(tp: int) -> None:
    assert Target.from_config({**CODER_NEXT, "quantization_config": FP8}).tp_error(tp) is None


def test_fp8_does_not_fit_eight_ranks_but_bf16_does(coder_next: Target) -> None:
    fp8 = Target.from_config({**CODER_NEXT, "quantization_config": FP8})
    assert "512 / TP 8 = 64 is not divisible by the FP8 block of 128" in str(fp8.tp_error(8))
    assert coder_next.tp_error(8) is None
    assert "num_attention_heads = 16" in str(coder_next.tp_error(3))


def test_unknown_dtypes_are_refused(coder_next: Target) -> None:
    with pytest.raises(UserError, match="int3"):
        coder_next.weight_bytes("int3")


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
