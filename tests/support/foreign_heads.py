"""One head in the forms of other trainers and servers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support.heads import CONFIG, random_tensors, write

IDS = "eagle_aux_hidden_state_layer_ids"
OUTPUTS, INPUTS = [3, 23, 46], [4, 24, 47]
"""The same three streams: those that leave the first layers and enter the second."""
OF_SGLANG: dict[str, Any] = {**CONFIG, "eagle_config": {IDS: OUTPUTS, "use_aux_hidden_state": True}}
LAYER_KEYS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "vocab_size", "max_position_embeddings",
)  # fmt: skip


def sglang(folder: Path, layers: int = 1) -> Path:
    config = {**OF_SGLANG, "num_hidden_layers": layers}
    return write(folder, config, random_tensors(config))


def _layers_0(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("midlayer", "layers.0"): tensor for name, tensor in tensors.items()}


def _embedding() -> Tensor:
    return torch.full((CONFIG["vocab_size"], CONFIG["hidden_size"]), 9.0)


def speculators(folder: Path, layers: int = 1, **changes: Any) -> Path:
    """As its `save_pretrained` writes it: of the layer's config what differs from LlamaConfig."""
    own = {**CONFIG, "num_hidden_layers": layers}
    config = {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": "0.4.0",
        "speculators_config": {
            "algorithm": "eagle3",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
            "verifier": {"architectures": [], "name_or_path": "Qwen/Qwen3-Coder-Next"},
        },
        "transformer_layer_config": {
            "model_type": "llama",
            **{key: own[key] for key in LAYER_KEYS},
        },
        "draft_vocab_size": CONFIG["draft_vocab_size"],
        "norm_before_residual": False,
        "norm_before_fc": False,
        "embed_requires_grad": False,
        "target_hidden_size": None,
        "tie_word_embeddings": False,
        IDS: INPUTS,
        **changes,
    }
    tensors = _layers_0(random_tensors(own))
    for i in range(1, layers):
        # Its later layers are those of transformers.
        tensors[f"layers.{i}.input_layernorm.weight"] = tensors.pop(
            f"layers.{i}.hidden_norm.weight"
        )
    return write(folder, config, {**tensors, "embed_tokens.weight": _embedding()})


def vllm(folder: Path, **changes: Any) -> Path:
    """Fused, with the name that vLLM gives d2t."""
    tensors = _layers_0(random_tensors(CONFIG))
    layer = "layers.0.self_attn"
    qkv = [tensors.pop(f"{layer}.{kind}_proj.weight") for kind in "qkv"]
    gate_up = [tensors.pop(f"layers.0.mlp.{kind}_proj.weight") for kind in ("gate", "up")]
    tensors[f"{layer}.qkv_proj.weight"] = torch.cat(qkv)
    tensors["layers.0.mlp.gate_up_proj.weight"] = torch.cat(gate_up)
    tensors["draft_id_to_target_id"] = tensors.pop("d2t")
    config = {**CONFIG, "architectures": ["Eagle3LlamaForCausalLM"], IDS: INPUTS, **changes}
    return write(folder, config, tensors)


def _of_nemo() -> dict[str, Any]:
    """Its recipe takes the target's config and writes over it."""
    config = {**CONFIG, "model_type": "qwen3_next", "num_hidden_layers": 48}
    return {**config, "architectures": ["LlamaEagle3DraftModel"], "target_hidden_size": 16}


def nemo(folder: Path, **changes: Any) -> Path:
    tensors = _layers_0(random_tensors(CONFIG))
    outer = {"lm_head.weight", "d2t", "t2d"}
    named = {name if name in outer else f"model.{name}": t for name, t in tensors.items()}
    named["model.embed_tokens.weight"] = _embedding()
    return write(folder, {**_of_nemo(), **changes}, named)


def nemo_checkpoint(folder: Path) -> Path:
    """As its first recipe saved one: pickles, and the draft's tokens beside the weights."""
    tensors = _layers_0(random_tensors(CONFIG))
    ids = tensors.pop("d2t") + torch.arange(CONFIG["draft_vocab_size"])
    del tensors["t2d"]
    named = {
        name if name == "lm_head.weight" else f"model.{name}": t for name, t in tensors.items()
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_of_nemo()), encoding="utf-8")
    torch.save(named, folder / "draft_model.pt")
    torch.save({"selected_token_ids": ids, "epoch": 1}, folder / "eagle3_meta.pt")
    return folder


def without_model_type(folder: Path) -> Path:
    config = {key: value for key, value in OF_SGLANG.items() if key != "model_type"}
    return write(folder, config, random_tensors(CONFIG))


def top_level_ids(folder: Path) -> Path:
    return write(folder, {**CONFIG, IDS: OUTPUTS}, random_tensors(CONFIG))


def unnamed(folder: Path) -> Path:
    """A plain Llama by its config, with a draft vocabulary under a name of its own."""
    config = {key: v for key, v in OF_SGLANG.items() if key != "draft_vocab_size"}
    config |= {"architectures": ["LlamaForCausalLM"], "truncated_vocab_size": 24}
    return write(folder, config, random_tensors(CONFIG))


def ids_in_d2t(folder: Path) -> Path:
    tensors = random_tensors(CONFIG)
    tensors["d2t"] = tensors["d2t"] + torch.arange(CONFIG["draft_vocab_size"])
    return write(folder, OF_SGLANG, tensors)


def only_t2d(folder: Path) -> Path:
    tensors = random_tensors(CONFIG)
    del tensors["d2t"]
    return write(folder, OF_SGLANG, tensors)


FORMS: dict[str, Callable[[Path], Path]] = {
    "speculators": speculators,
    "vLLM": vllm,
    "NeMo AutoModel": nemo,
    "NeMo AutoModel, a checkpoint": nemo_checkpoint,
    "no model_type": without_model_type,
    "another architecture's name": unnamed,
    "token ids in d2t": ids_in_d2t,
    "t2d without d2t": only_t2d,
}
"""The head that `sglang` writes, in forms that SGLang does not read."""
