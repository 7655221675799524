from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import check as head_check
from sglang_qwen3next_eagle3.head.head import Head, TensorInfo
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.checkpoints import (
    CODER_NEXT,
    SMALL_HEAD,
    SMALL_HEAD_SHAPES,
    SMALL_TARGET,
    write_config,
    write_head,
)

TARGET = Target.from_config(SMALL_TARGET)


def check(folder: Path) -> None:
    head_check.check(Head.from_path(folder), TARGET)


def test_a_head_of_the_contract_is_accepted(head_folder: Path) -> None:
    head = Head.from_path(head_folder)
    head_check.check(head, TARGET)
    assert head.aux_count == 3
    assert head.layer_ids is None
    assert head.tensors["d2t"] == TensorInfo((32,), "I64")


def test_the_published_head_has_the_shapes_that_are_expected() -> None:
    config = {**SMALL_HEAD, "hidden_size": 2048, "num_attention_heads": 16, "head_dim": 128,
              "num_key_value_heads": 4, "intermediate_size": 8192, "vocab_size": 151936,
              "draft_vocab_size": 32000}  # fmt: skip
    head = Head(Path("h"), config, {"fc.weight": TensorInfo((2048, 6144), "BF16")})
    shapes = head.expected_tensors()
    assert shapes["midlayer.self_attn.q_proj.weight"] == (2048, 4096)
    assert shapes["midlayer.self_attn.v_proj.weight"] == (512, 4096)
    floats = {name: shape for name, shape in shapes.items() if name != "d2t"}
    assert sum(TensorInfo(shape, "BF16").elements for shape in floats.values()) == 145_235_968


def test_sglang_s_own_names_are_the_published_ones(tmp_path: Path) -> None:
    renamed = {
        name if name == "lm_head.weight" else f"model.{name.replace('midlayer', 'layers.0')}": shape
        for name, shape in SMALL_HEAD_SHAPES.items()
    }
    check(write_head(tmp_path / "h", shapes=renamed))


def test_a_name_that_sglang_would_skip_is_not_taken_for_the_published_one(tmp_path: Path) -> None:
    shapes = {f"model.{name}": shape for name, shape in SMALL_HEAD_SHAPES.items()}
    with pytest.raises(UserError, match=r"lacks 1 tensor, lm_head\.weight,"):
        check(write_head(tmp_path / "h", shapes=shapes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "that of another architecture.*head convert"),
        ({"hidden_size": 16, "target_hidden_size": 16}, "belongs to another target"),
        ({"vocab_size": 128}, "vocabulary of 128, the target one of 64"),
        ({"tie_word_embeddings": True}, "set it to false"),
        ({"eagle_config": {"use_aux_hidden_state": False}}, "capture nothing"),
        ({"draft_vocab_size": 48}, r"lm_head\.weight is \(32, 8\).*\(48, 8\)"),
        ({"num_attention_heads": 4}, r"q_proj\.weight is \(8, 16\)"),
        ({"num_aux_hidden_states": 5}, "takes 3 states.*says 5"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 5, 7]}}, "says 4"),
        ({"intermediate_size": None}, "no intermediate_size"),
    ],
)
def test_a_config_that_would_serve_wrongly_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check(write_head(tmp_path / "h", config={**SMALL_HEAD, **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fc.weight": None}, "lacks 1 tensor, fc.weight,"),
        ({"midlayer.mlp.down_proj.weight": (16, 8)}, r"down_proj\.weight is \(16, 8\)"),
        ({"fc.weight": (24, 8)}, r"fc\.weight is \(24, 8\)"),
        ({"norm.weight": None, "lm_head.weight": None}, "lacks 2 tensors"),
    ],
)
def test_tensors_that_are_missing_or_of_another_shape_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    shapes = {k: v for k, v in {**SMALL_HEAD_SHAPES, **changes}.items() if v is not None}
    with pytest.raises(UserError, match=words):
        check(write_head(tmp_path / "h", shapes=shapes))


def test_a_head_of_another_target_is_refused(head_folder: Path) -> None:
    with pytest.raises(UserError, match="width 8, the target's are 2048 wide"):
        head_check.check(Head.from_path(head_folder), Target.from_config(CODER_NEXT))


def test_a_truncated_file_is_refused(head_folder: Path) -> None:
    file = head_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        check(head_folder)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "h", SMALL_HEAD)
    with pytest.raises(UserError, match=r"has no \.safetensors file$"):
        check(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="convert it to safetensors"):
        check(folder)


def test_a_head_with_more_states_is_a_head_of_more_states(tmp_path: Path) -> None:
    config = {**SMALL_HEAD, "num_aux_hidden_states": 4}
    folder = write_head(tmp_path / "h", config, {**SMALL_HEAD_SHAPES, "fc.weight": (8, 32)})
    head = Head.from_path(folder)
    head_check.check(head, TARGET)
    assert head.aux_count == 4
