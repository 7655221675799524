"""The demo target as the fast path takes it: its routed experts as wide as the shared one.

SGLang computes a shared expert together with the routed ones only if all are of one width, and the
fast path knows no other. What is added is zero and contributes nothing: the function is the same.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

OF_A_RANK = 128
"""The least width of an expert's part where there are several ranks."""


def widened_demo(source: Path, folder: Path, ranks: int = 1) -> Path:
    """A copy of the checkpoint in `source` with wider experts; folder: is made.

    ranks: that it can be divided among, 1, 2 or 4. For four, every key head of the linear layers is
    there twice, half of its value heads each, with as many that are zero; and the attention has as
    many queries again.
    """
    folder.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    width = max(config["shared_expert_intermediate_size"], OF_A_RANK * ranks * (ranks > 1))
    config["moe_intermediate_size"] = config["shared_expert_intermediate_size"] = width
    weights = load_file(source / "model.safetensors")
    for name, weight in weights.items():
        if ".experts." in name or ".shared_expert." in name:
            wider = (weight.shape[0], width) if "down_proj" in name else (width, weight.shape[1])
            weights[name] = torch.zeros(wider, dtype=weight.dtype)
            weights[name][: weight.shape[0], : weight.shape[1]] = weight
        elif ranks == 4:
            weights[name] = _of_more_heads(name, weight, config)
    if ranks == 4:
        for key in ("linear_num_key_heads", "linear_num_value_heads", "num_attention_heads"):
            config[key] *= 2
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for path in source.glob("*.json"):
        if path.name != "config.json":
            shutil.copy(path, folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def _of_more_heads(name: str, weight: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """config: the demo's."""
    key_heads, heads = config["linear_num_key_heads"], config["num_attention_heads"]
    each = config["linear_num_value_heads"] // key_heads
    keys = config["linear_key_head_dim"]
    if name.endswith("in_proj_qkvz.weight"):
        parts = _heads(weight, key_heads)
        twice = parts[:, : 2 * keys].repeat_interleave(each, 0)
        value, gate = (
            _beside_zeros(_heads(part.flatten(0, 1), key_heads * each), each)
            for part in parts[:, 2 * keys :].chunk(2, 1)
        )
        return torch.cat((twice, value, gate), 1).flatten(0, 1)
    if name.endswith("in_proj_ba.weight"):
        beta, decay = (
            _beside_zeros(_heads(part.flatten(0, 1), key_heads * each), each)
            for part in _heads(weight, key_heads).chunk(2, 1)
        )
        return torch.cat((beta, decay), 1).flatten(0, 1)
    if name.endswith("conv1d.weight"):
        of_keys = 2 * key_heads * keys
        twice = _heads(weight[:of_keys], 2 * key_heads).repeat_interleave(each, 0)
        value = _beside_zeros(_heads(weight[of_keys:], key_heads * each), each)
        return torch.cat((twice.flatten(0, 1), value.flatten(0, 1)))
    if name.endswith(("A_log", "dt_bias")):
        return _beside_zeros(weight[:, None], each).flatten()
    if name.endswith("linear_attn.out_proj.weight"):
        return _beside_zeros(_heads(weight.T, key_heads * each), each).flatten(0, 1).T.contiguous()
    if name.endswith("self_attn.q_proj.weight"):
        return _beside_zeros(_heads(weight, heads), 2).flatten(0, 1)
    if name.endswith("self_attn.o_proj.weight"):
        return _beside_zeros(_heads(weight.T, heads), 2).flatten(0, 1).T.contiguous()
    return weight


def _heads(weight: torch.Tensor, count: int) -> torch.Tensor:
    """[H * D, ...] to [H, D, ...]."""
    return weight.reshape(count, -1, *weight.shape[1:])


def _beside_zeros(heads: torch.Tensor, of: int) -> torch.Tensor:
    """[H, D, ...] to [H, of * D, ...]: behind each head so much that is zero."""
    shape = (heads.shape[0], (of - 1) * heads.shape[1], *heads.shape[2:])
    return torch.cat((heads, heads.new_zeros(shape)), 1)
