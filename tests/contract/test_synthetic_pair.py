"""The pair that `bench speed` writes for a GPU: its head has all 277 MB of the published one."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.head.check import check
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model.target import Target


def test_the_synthetic_pair_is_the_published_one_in_shape(tmp_path: Path) -> None:
    target = Target.from_path(synthetic.write_target(tmp_path / "t", "fp8"))
    head = Head.from_path(synthetic.write_head(tmp_path / "h"))
    check(head, target)
    assert target.tp_error(8) is not None, "the FP8 block rule"
    assert Target.from_path(synthetic.write_target(tmp_path / "b", "bf16")).tp_error(8) is None
    size = (tmp_path / "h" / "model.safetensors").stat().st_size
    assert size / 2**20 == pytest.approx(277.4, abs=0.1)
    with safe_open(tmp_path / "h" / "model.safetensors", "pt") as tensors:
        ids = tensors.get_tensor("d2t") + torch.arange(32000)
    assert ids.max() < 151936
    assert ids.unique().numel() == 32000
