"""The published configurations, written out: nothing is downloaded. And small checkpoints."""

import json
from pathlib import Path
from typing import Any

# Qwen/Qwen3-Coder-Next, as its config.json says.
CODER_NEXT: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "full_attention_interval": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "vocab_size": 151936,
    "intermediate_size": 5120,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "max_position_embeddings": 262144,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}

# A head of the published proportions for a target of hidden size 8.
SMALL_TARGET = {**CODER_NEXT, "hidden_size": 8, "vocab_size": 64}
SMALL_HEAD: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "intermediate_size": 16,
    "vocab_size": 64,
    "draft_vocab_size": 32,
    "tie_word_embeddings": False,
    "max_position_embeddings": 262144,
}
SMALL_HEAD_SHAPES: dict[str, tuple[int, ...]] = {
    "fc.weight": (8, 24),
    "midlayer.self_attn.q_proj.weight": (8, 16),
    "midlayer.self_attn.k_proj.weight": (4, 16),
    "midlayer.self_attn.v_proj.weight": (4, 16),
    "midlayer.self_attn.o_proj.weight": (8, 8),
    "midlayer.mlp.gate_proj.weight": (16, 8),
    "midlayer.mlp.up_proj.weight": (16, 8),
    "midlayer.mlp.down_proj.weight": (8, 16),
    "midlayer.hidden_norm.weight": (8,),
    "midlayer.input_layernorm.weight": (8,),
    "midlayer.post_attention_layernorm.weight": (8,),
    "norm.weight": (8,),
    "lm_head.weight": (32, 8),
}


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_head(
    folder: Path,
    config: dict[str, Any] | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    write_config(folder, SMALL_HEAD if config is None else config)
    chosen = SMALL_HEAD_SHAPES if shapes is None else shapes
    tensors = {name: np.zeros(shape, np.float32) for name, shape in chosen.items()}
    tensors["d2t"] = np.arange(32, dtype=np.int64)
    tensors["t2d"] = np.arange(64) % 2 == 0
    save_file(tensors, folder / "model.safetensors")
    return folder
