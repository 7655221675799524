"""The published checkpoints' configs, for what has to be known of them before they are there.

Qwen/Qwen3-Coder-Next, Qwen/Qwen3-Coder-Next-FP8 and thoughtworks/Qwen3-Coder-Next-Eagle3, as far
as their config.json says what they are made of. Sources: of the targets, the repositories'
config.json; of the head, its model card's table "Model Architecture" for widths, layers and
vocabularies, and for the rest the config of the recipe that it was trained with.

A dry run checks against them on machines that have neither the checkpoints nor a network; a launch
reads the checkpoint's own, and says where the two differ.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.target import layer_kinds

LAYERS = 48
VOCABULARY, DRAFT_VOCABULARY = 151936, 32000
CODER_NEXT: dict[str, Any] = {
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
# What the FP8 checkpoint keeps in bf16.
_KEPT = ["lm_head", "model.embed_tokens"] + [
    f"model.layers.{layer}.{name}"
    for layer in range(LAYERS)
    for name in (
        "mlp.gate", "mlp.shared_expert_gate", "linear_attn.in_proj_ba", "linear_attn.conv1d",
    )
]  # fmt: skip
CODER_NEXT_FP8: dict[str, Any] = {
    **CODER_NEXT,
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": _KEPT,
    },
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
_BY_NAME = {
    "Qwen/Qwen3-Coder-Next": CODER_NEXT,
    "Qwen/Qwen3-Coder-Next-FP8": CODER_NEXT_FP8,
    "thoughtworks/Qwen3-Coder-Next-Eagle3": HEAD,
}


_INTERVAL = "full_attention_interval"
_CHECKED = {
    "architectures", "model_type", "hidden_size", "num_hidden_layers", _INTERVAL,
    "num_attention_heads", "num_key_value_heads", "head_dim", "linear_num_value_heads",
    "linear_num_key_heads", "linear_key_head_dim", "linear_value_head_dim",
    "linear_conv_kernel_dim", "vocab_size", "draft_vocab_size", "intermediate_size", "num_experts",
    "moe_intermediate_size", "shared_expert_intermediate_size", "tie_word_embeddings",
}  # fmt: skip
_CHECKED_OF_TARGETS = {*_CHECKED, "max_position_embeddings", "eos_token_id"}
_CHECKED_OF_BLOCKS = ("quant_method", "weight_block_size")


@dataclass(frozen=True)
class Difference:
    """One key of a config. known: what this package says; found: the checkpoint."""

    key: str
    known: object
    found: object

    def __str__(self) -> str:
        return f"{self.key} is {json.dumps(self.found)}, not {json.dumps(self.known)}"


def config(name: str) -> dict[str, Any] | None:
    """The config of a checkpoint by its name on the hub; None for any but these three."""
    return _BY_NAME.get(name)


def differences(name: str, found: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Where a checkpoint's config says something else than is known of it here.

    Only of what a check reads. A key that it leaves out is no difference: its model type's default
    stands for it.
    """
    known = config(name)
    return () if known is None else tuple(_differences(known, found))


def warnings(name: str | None, found: Mapping[str, Any]) -> list[str]:
    """The same in a sentence for people, if there is anything to say."""
    different = differences(name or "", found)
    if not different:
        return []
    told = "; ".join(map(str, different))
    return [
        f"warning: {name} is not as this package knows it: {told}; the checkpoint's is served, a "
        "dry run goes by the other"
    ]


def _differences(known: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Difference]:
    checked = _CHECKED if known is HEAD else _CHECKED_OF_TARGETS
    for key in (key for key in known if key in checked):
        if key == _INTERVAL and "layer_types" in found:
            # transformers writes the layers out; both may say the same in other words.
            if _kinds(known) != _kinds(found):
                yield Difference(
                    "layer_types", f"by {_INTERVAL} {known[key]}", found["layer_types"]
                )
        elif found.get(key) is not None and found[key] != known[key]:
            yield Difference(key, known[key], found[key])
    ours, theirs = (_quantization(one) for one in (known, found))
    for key in _CHECKED_OF_BLOCKS:
        if ours.get(key) != theirs.get(key):
            yield Difference(f"quantization_config.{key}", ours.get(key), theirs.get(key))


def _quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("quantization_config")
    return found if isinstance(found, Mapping) else {}


def _kinds(config: Mapping[str, Any]) -> object:
    try:
        return layer_kinds(config)
    except UserError as error:
        return str(error)
