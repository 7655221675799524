"""tests/support/widened_demo.py: wider experts compute what the demo's do."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.widened_demo import widened_demo


def expert(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    gate, up, down = (
        weights[f"model.layers.5.mlp.experts.3.{name}_proj.weight"].double()
        for name in ("gate", "up", "down")
    )
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def test_wider_experts_compute_the_same(tmp_path: Path) -> None:
    source = demo_pair().target
    folder = widened_demo(source, tmp_path / "wide")
    config = json.loads((folder / "config.json").read_text())
    assert config["moe_intermediate_size"] == config["shared_expert_intermediate_size"] == 96
    narrow, wide = (load_file(path / "model.safetensors") for path in (source, folder))
    assert narrow.keys() == wide.keys()
    assert wide["model.layers.5.mlp.experts.3.down_proj.weight"].shape == (192, 96)
    x = torch.randn(4, 192, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(expert(narrow, x), expert(wide, x), rtol=0, atol=1e-12)
    assert (folder / "tokenizer.json").is_file()


def test_what_four_ranks_can_divide_computes_the_same(tmp_path: Path) -> None:
    from transformers import Qwen3NextForCausalLM

    source = demo_pair().target
    folder = widened_demo(source, tmp_path / "wide", ranks=4)
    assert all(Target.from_path(folder).tp_error(ranks) is None for ranks in (1, 2, 4))
    ids = torch.randint(0, 4000, (1, 24), generator=torch.Generator().manual_seed(0))
    logits = []
    for path in (source, folder):
        model = Qwen3NextForCausalLM.from_pretrained(path, dtype=torch.float32)
        with torch.no_grad():
            logits.append(model(ids).logits)
    assert torch.allclose(logits[0], logits[1], rtol=0, atol=2e-3)
    assert logits[0].std() > 1
