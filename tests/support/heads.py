"""Small EAGLE3 heads with random weights, for tests."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

VOCAB, DRAFT_VOCAB, HIDDEN, TARGET_HIDDEN = 40, 24, 16, 16
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "vocab_size": VOCAB,
    "draft_vocab_size": DRAFT_VOCAB,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all floating-point tensors but the embedding."""
    hidden, target_hidden = config["hidden_size"], config.get("target_hidden_size")
    target_hidden = target_hidden or hidden
    states = config.get("num_aux_hidden_states", 3)
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    wide = config["intermediate_size"]
    found: dict[str, tuple[int, ...]] = {
        "fc.weight": (hidden, states * target_hidden),
        "norm.weight": (hidden,),
        "lm_head.weight": (config["draft_vocab_size"], hidden),
    }
    if config.get("bias"):
        found["fc.bias"] = (hidden,)
    if config.get("norm_before_fc"):
        found["input_norm.weight"] = (states * target_hidden,)
    if config.get("fc_norm"):
        found |= {f"fc_norm.{i}.weight": (target_hidden,) for i in range(states)}
    for layer in range(config["num_hidden_layers"]):
        name = f"layers.{layer}" if layer else "midlayer"
        into = hidden if layer else 2 * hidden
        found |= {
            f"{name}.self_attn.q_proj.weight": (queries, into),
            f"{name}.self_attn.k_proj.weight": (keys, into),
            f"{name}.self_attn.v_proj.weight": (keys, into),
            f"{name}.self_attn.o_proj.weight": (hidden, queries),
            f"{name}.mlp.gate_proj.weight": (wide, hidden),
            f"{name}.mlp.up_proj.weight": (wide, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, wide),
            f"{name}.hidden_norm.weight": (hidden,),
            f"{name}.post_attention_layernorm.weight": (hidden,),
        }
        if config.get("bias"):
            found[f"{name}.self_attn.o_proj.bias"] = (hidden,)
        if not layer:
            found["midlayer.input_layernorm.weight"] = (hidden,)
    return found


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Weights at which every part of the head has a say in its logits."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes(config).items():
        drawn = torch.randn(shape, generator=generator)
        scale = 1.5 / shape[-1] ** 0.5
        tensors[name] = 1 + 0.3 * drawn if name.endswith("norm.weight") else scale * drawn
    vocab, draft_vocab = config["vocab_size"], config["draft_vocab_size"]
    ids = torch.randperm(vocab, generator=generator)[:draft_vocab].sort().values
    tensors["d2t"] = ids - torch.arange(draft_vocab)
    tensors["t2d"] = torch.zeros(vocab, dtype=torch.bool).index_fill(0, ids, True)
    return tensors


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder
