"""The head's config.json, before training (for SpecForge) and after it (for SGLang)."""

from collections.abc import Mapping
from typing import Any

from sglang_qwen3next_eagle3.head.head import ARCHITECTURE, AUX_LAYERS_KEY
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train.trainer.recipe import Draft


def layer_ids(selection: AuxSelection) -> list[int] | None:
    """The selection as `eagle_aux_hidden_state_layer_ids` (id i is output@i), or None: the
    embedding's stream is no layer's output."""
    if 0 in selection.depths:
        return None
    return [depth - 1 for depth in selection.depths]


def config(draft: Draft, target: Target, selection: AuxSelection) -> dict[str, Any]:
    """config.json of a head for this target.

    The context is the target's: SGLang builds the draft with the target's context and refuses a
    head that declares less. `norm_output` stays unset, since SpecForge and SGLang agree on the
    state that feeds the next step only then.
    """
    theirs = target.config
    eagle: dict[str, Any] = {"use_aux_hidden_state": True}
    ids = layer_ids(selection)
    if ids is not None:
        eagle["eagle_aux_hidden_state_layer_ids"] = ids
    spelled = {} if ids is not None else {AUX_LAYERS_KEY: str(selection)}
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_size": target.hidden_size,
        "target_hidden_size": target.hidden_size,
        "num_aux_hidden_states": len(selection.taps),
        "num_hidden_layers": 1,
        "num_attention_heads": draft.num_attention_heads,
        "num_key_value_heads": draft.num_key_value_heads,
        "head_dim": draft.head_dim,
        "intermediate_size": draft.intermediate_size,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bias": False,
        "rms_norm_eps": theirs.get("rms_norm_eps", 1e-6),
        "rope_theta": _rope_theta(theirs),
        "max_position_embeddings": target.context_length,
        "vocab_size": target.vocab_size,
        "draft_vocab_size": draft.vocab_size,
        "tie_word_embeddings": False,
        **{name: theirs[name] for name in tokens if theirs.get(name) is not None},
        "torch_dtype": "bfloat16",
        "eagle_config": eagle,
        **spelled,
    }


def _rope_theta(config: Mapping[str, Any]) -> float:
    nested = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return float(config.get("rope_theta") or nested.get("rope_theta") or 10000.0)
