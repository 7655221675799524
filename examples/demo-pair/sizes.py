"""The demo target's sizes, and the config.json that names them."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """The sizes that config.json names, under its names."""

    vocab_size: int = 4096
    hidden_size: int = 192
    num_hidden_layers: int = 12
    full_attention_interval: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    partial_rotary_factor: float = 0.25
    rope_theta: float = 10000.0
    linear_num_key_heads: int = 2
    linear_num_value_heads: int = 4
    linear_key_head_dim: int = 32
    linear_value_head_dim: int = 32
    linear_conv_kernel_dim: int = 4
    num_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 48
    shared_expert_intermediate_size: int = 96
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6

    def config(self, end_of_text: int, turn_end: int) -> dict[str, Any]:
        """config.json. SGLang reads `rope_theta`, `partial_rotary_factor` and
        `full_attention_interval` at the top level, transformers 5 `rope_parameters` and
        `layer_types`."""
        interval = self.full_attention_interval
        rope = {"rope_theta": self.rope_theta, "partial_rotary_factor": self.partial_rotary_factor}
        return {
            "architectures": ["Qwen3NextForCausalLM"],
            "model_type": "qwen3_next",
            **asdict(self),
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": end_of_text,
            "decoder_sparse_step": 1,
            "dtype": "bfloat16",
            "eos_token_id": turn_end,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "intermediate_size": 2 * self.hidden_size,
            "layer_types": [
                "linear_attention" if (i + 1) % interval else "full_attention"
                for i in range(self.num_hidden_layers)
            ],
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "output_router_logits": False,
            "pad_token_id": end_of_text,
            "rope_parameters": {"rope_type": "default", **rope},
            "router_aux_loss_coef": 0.001,
            "tie_word_embeddings": False,
            "use_cache": True,
        }
