"""Which precision a checkpoint has: by its config, whatever its folder is called."""

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import precision
from sglang_qwen3next_eagle3.model.published import CODER_NEXT, CODER_NEXT_FP8


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CODER_NEXT, "bf16"),
        (CODER_NEXT_FP8, "fp8"),
        ({}, "bf16"),
        ({"torch_dtype": "float16"}, "fp16"),
        ({"dtype": "torch.float32"}, "fp32"),
        ({"dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"quantization_config": None}, "bf16"),
    ],
)
def test_a_config_says_it(config: dict[str, Any], expected: str) -> None:
    assert precision.of_config(config) == expected


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [("coder-next", CODER_NEXT_FP8, "fp8"), ("not-fp8-any-more", CODER_NEXT, "bf16")],
)
def test_a_folder_s_name_does_not(
    tmp_path: Path, name: str, config: dict[str, Any], expected: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert precision.of_checkpoint(str(folder)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen3-Coder-Next-FP8", "fp8"),
        ("Qwen/Qwen3-Coder-Next", "bf16"),
        ("someone/tuned-Fp8", "fp8"),
        ("someone/tuned", "bf16"),
        ("demo", "bf16"),
    ],
)
def test_without_a_folder_the_name_is_all_there_is(name: str, expected: str) -> None:
    assert precision.of_checkpoint(name) == expected


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        precision.of_checkpoint(str(tmp_path))
