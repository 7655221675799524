"""The full-size target and head without anybody's weights, for what speed alone depends on.

SGLang fills the target in (`--load-format dummy`); the head gets random weights of the published
names and shapes.
"""

import random
from pathlib import Path
from typing import Any, Literal

from sglang_qwen3next_eagle3.base.files import write_json
from sglang_qwen3next_eagle3.bench.load.load import Dialogue

Precision = Literal["fp8", "bf16"]

LAYERS = 48
VOCABULARY, DRAFT_VOCABULARY = 151936, 32000
# Qwen/Qwen3-Coder-Next's config.json (shared facts: the published checkpoint).
TARGET: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "hidden_size": 2048,
    "num_hidden_layers": LAYERS,
    "full_attention_interval": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "vocab_size": VOCABULARY,
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
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "norm_topk_prob": True,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "partial_rotary_factor": 0.25,
    "rope_theta": 5000000,
    "rope_scaling": None,
    "initializer_range": 0.02,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "use_cache": True,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
# What the published FP8 checkpoint keeps in bf16.
KEPT = ["lm_head", "model.embed_tokens"] + [
    f"model.layers.{layer}.{name}"
    for layer in range(LAYERS)
    for name in (
        "mlp.gate", "mlp.shared_expert_gate", "linear_attn.in_proj_ba", "linear_attn.conv1d",
    )
]  # fmt: skip
FP8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "modules_to_not_convert": KEPT,
}
HEAD: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 8192,
    "vocab_size": VOCABULARY,
    "draft_vocab_size": DRAFT_VOCABULARY,
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
FLAGS = ("--load-format", "dummy", "--skip-tokenizer-init")
"""SGLang's flags for this target."""
HEAD_FLAGS = ("--speculative-draft-load-format", "auto")
"""For its head, which dummy weights would fill too; the target's own MTP layer has to be filled."""


def write_target(folder: Path, precision: Precision) -> Path:
    """The target's `config.json`, all that `FLAGS` need of it."""
    config = TARGET if precision == "bf16" else {**TARGET, "quantization_config": FP8}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    return folder


def write_head(folder: Path, seed: int = 0) -> Path:
    """A head of the published names and shapes, 277.4 MiB."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    width, inner, heads, kv, head_dim = 2048, 8192, 16, 4, 128

    def normal(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.02).bfloat16()

    def ones() -> torch.Tensor:
        return torch.ones(width, dtype=torch.bfloat16)

    ids = torch.arange(0, VOCABULARY, VOCABULARY // DRAFT_VOCABULARY)[:DRAFT_VOCABULARY]
    known = torch.zeros(VOCABULARY, dtype=torch.bool)
    known[ids] = True
    layer = "midlayer"
    tensors = {
        "fc.weight": normal(width, 3 * width),
        f"{layer}.self_attn.q_proj.weight": normal(heads * head_dim, 2 * width),
        f"{layer}.self_attn.k_proj.weight": normal(kv * head_dim, 2 * width),
        f"{layer}.self_attn.v_proj.weight": normal(kv * head_dim, 2 * width),
        f"{layer}.self_attn.o_proj.weight": normal(width, heads * head_dim),
        f"{layer}.mlp.gate_proj.weight": normal(inner, width),
        f"{layer}.mlp.up_proj.weight": normal(inner, width),
        f"{layer}.mlp.down_proj.weight": normal(width, inner),
        f"{layer}.input_layernorm.weight": ones(),
        f"{layer}.hidden_norm.weight": ones(),
        f"{layer}.post_attention_layernorm.weight": ones(),
        "norm.weight": ones(),
        "lm_head.weight": normal(DRAFT_VOCABULARY, width),
        "d2t": ids - torch.arange(DRAFT_VOCABULARY),
        "t2d": known,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", HEAD)
    save_file(tensors, folder / "model.safetensors")
    return folder


def dialogues(count: int, tokens: int, vocabulary: int, seed: int) -> list[Dialogue]:
    """`count` prompts of random tokens, below the special ones at the vocabulary's end."""
    drawn = random.Random(seed)
    ordinary = vocabulary - max(1, vocabulary // 100)

    def one(place: int) -> Dialogue:
        ids = [drawn.randrange(ordinary) for _ in range(tokens)]
        return Dialogue(str(place), lambda answers: None if answers else ids)

    return [one(place) for place in range(count)]
