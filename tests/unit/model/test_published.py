"""What ships about the published repositories, and where a checkpoint's config differs from it."""

from sglang_qwen3next_eagle3.model import published
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.serving import profile
from tests.support.checkpoints import CODER_NEXT, FP8

BF16, FP8_NAME = "Qwen/Qwen3-Coder-Next", "Qwen/Qwen3-Coder-Next-FP8"
HEAD = "thoughtworks/Qwen3-Coder-Next-Eagle3"


def test_every_repository_that_a_profile_names_ships() -> None:
    profiles = [profile.load(name) for name in profile.profile_names()]
    named = {name for one in profiles for name in (one.target, one.head) if name != "demo"}
    assert named == {BF16, FP8_NAME, HEAD}
    assert all(published.config(str(name)) for name in named)


def test_only_exact_names_are_known() -> None:
    for name in ("qwen/qwen3-coder-next", "Qwen/Qwen3-Coder-Next-Base", "", f"./{BF16}"):
        assert published.config(name) is None
        assert published.differences(name, {"hidden_size": 1}) == ()


def test_the_facts_are_the_published_ones() -> None:
    fp8 = Target.from_config(published.config(FP8_NAME) or {})
    assert fp8.fp8_block == (128, 128)
    assert fp8.attention_layers == tuple(range(3, 48, 4))
    known = published.config(BF16) or {}
    assert {key: known[key] for key in CODER_NEXT} == CODER_NEXT
    head = published.config(HEAD) or {}
    assert published.differences(HEAD, head) == ()
    assert "eagle_config" not in head, "whether it names layers could not be read"


def test_a_config_of_the_same_architecture_differs_in_nothing() -> None:
    assert published.differences(BF16, CODER_NEXT) == ()
    # As transformers 5 writes it: the layers themselves, and no interval.
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    written_out = {**CODER_NEXT, "layer_types": kinds * 12}
    del written_out["full_attention_interval"]
    assert published.differences(BF16, written_out) == ()
    assert published.differences(FP8_NAME, {**CODER_NEXT, "quantization_config": FP8}) == ()


def test_a_difference_names_the_key_and_both_values() -> None:
    def told(name: str, **changes: object) -> list[str]:
        quantized = {"quantization_config": FP8} if name == FP8_NAME else {}
        found = published.differences(name, {**CODER_NEXT, **quantized, **changes})
        return list(map(str, found))

    assert told(BF16, moe_intermediate_size=768) == ["moe_intermediate_size is 768, not 512"]
    block = {**FP8, "weight_block_size": [64, 64]}
    assert told(FP8_NAME, quantization_config=block) == [
        "quantization_config.weight_block_size is [64, 64], not [128, 128]"
    ]
    assert told(FP8_NAME, quantization_config=None) == [
        'quantization_config.quant_method is null, not "fp8"',
        "quantization_config.weight_block_size is null, not [128, 128]",
    ]
    assert told(FP8_NAME, rope_theta=1, use_cache=False) == [], "nothing is checked by these"
    (layers,) = told(BF16, layer_types=["full_attention"] * 48)
    assert layers.startswith("layer_types is [")
    assert layers.endswith('not "by full_attention_interval 4"')
