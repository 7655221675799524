"""A target of many layers with weights by chance, for what depends on its depth."""

import json
import shutil
from pathlib import Path

import torch


def write_deep_target(like: Path, folder: Path, layers: int) -> Path:
    """A Qwen3-Next in fp32 as narrow as `like`, whose tokenizer it has, but with so many layers."""
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    spelled = json.loads((like / "config.json").read_text(encoding="utf-8"))
    every = spelled["full_attention_interval"]
    kinds = ["linear_attention", "full_attention"]
    spelled |= {
        "num_hidden_layers": layers,
        "layer_types": [kinds[(layer + 1) % every == 0] for layer in range(layers)],
        "dtype": "float32",
        # Every layer changes the stream by 0.1 or more. From 0.06 on, rounding grows from layer to
        # layer until the last one's stream is another (transformers' own, too).
        "initializer_range": 0.03,
    }
    torch.manual_seed(0)
    Qwen3NextForCausalLM(Qwen3NextConfig(**spelled)).float().save_pretrained(folder)
    # transformers leaves full_attention_interval out, by which SGLang tells the layers.
    (folder / "config.json").write_text(json.dumps(spelled), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(like / name, folder / name)
    return folder
