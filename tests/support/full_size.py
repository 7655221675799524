"""The full-size models without their weights: `--load-format dummy` fills them in."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.conftest import CODER_NEXT

LAYERS = 48
# What the published FP8 checkpoint keeps in bf16.
KEPT = ["lm_head", "model.embed_tokens"] + [
    f"model.layers.{layer}.{name}"
    for layer in range(LAYERS)
    for name in (
        "mlp.gate", "mlp.shared_expert_gate", "linear_attn.in_proj_ba", "linear_attn.conv1d",
    )
]  # fmt: skip
HEAD = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 8192,
    "vocab_size": 151936,
    "draft_vocab_size": 32000,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000000,
    "max_position_embeddings": 4096,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}


def write_fp8_target(folder: Path) -> Path:
    """`config.json` of Qwen/Qwen3-Coder-Next-FP8; for SGLang with --skip-tokenizer-init."""
    config = {
        **CODER_NEXT,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "norm_topk_prob": True,
        "attention_bias": False,
        "partial_rotary_factor": 0.25,
        "rope_theta": 5000000,
        "rope_scaling": None,
        "initializer_range": 0.02,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": KEPT,
        },
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def write_random_head(folder: Path) -> Path:
    """A head of the published names, shapes and size (277.4 MiB) with random bf16 weights."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.02).bfloat16()

    def ones() -> torch.Tensor:
        return torch.ones(2048, dtype=torch.bfloat16)

    ids = torch.arange(0, 151936, 4)[:32000]
    known = torch.zeros(151936, dtype=torch.bool)
    known[ids] = True
    tensors = {
        "fc.weight": random(2048, 3 * 2048),
        "midlayer.self_attn.q_proj.weight": random(2048, 4096),
        "midlayer.self_attn.k_proj.weight": random(512, 4096),
        "midlayer.self_attn.v_proj.weight": random(512, 4096),
        "midlayer.self_attn.o_proj.weight": random(2048, 2048),
        "midlayer.mlp.gate_proj.weight": random(8192, 2048),
        "midlayer.mlp.up_proj.weight": random(8192, 2048),
        "midlayer.mlp.down_proj.weight": random(2048, 8192),
        "midlayer.input_layernorm.weight": ones(),
        "midlayer.hidden_norm.weight": ones(),
        "midlayer.post_attention_layernorm.weight": ones(),
        "norm.weight": ones(),
        "lm_head.weight": random(32000, 2048),
        "d2t": ids - torch.arange(32000),
        "t2d": known,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(HEAD, indent=1))
    save_file(tensors, folder / "model.safetensors")
    return folder
