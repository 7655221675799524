"""In which form an EAGLE3 head is: the one that SGLang reads, or one of a trainer or of another
server, told by its config and the names of its tensors.

Read in their sources: vLLM's speculators (models/eagle3, convert/eagle), vLLM itself
(model_executor/models/llama_eagle3.py, transformers_utils/configs/speculators), NVIDIA's NeMo
AutoModel (components/speculative/eagle) and ModelOpt (torch/export/plugins/hf_spec_export.py, whose
export is the form that SGLang reads).
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sglang_qwen3next_eagle3.base.errors import UserError

ARCHITECTURE = "LlamaForCausalLMEagle3"
IDS = "eagle_aux_hidden_state_layer_ids"
Tap = Literal["outputs", "inputs"]


@dataclass(frozen=True)
class HeadFormat:
    """name: for people. ids: what its layer ids count, the states that leave those layers or that
    enter them; None: that is not known of it. default: the selection that its trainer uses where no
    ids are named, by the name that `aux_layers` gives it."""

    name: str
    ids: Tap | None = None
    default: str | None = None


SGLANG = HeadFormat("SGLang", ids="outputs")
SPECULATORS = HeadFormat("speculators", ids="inputs", default="sglang")
VLLM = HeadFormat("vLLM", ids="inputs", default="sglang")
NEMO = HeadFormat("NeMo AutoModel", ids="outputs", default="sglang")
UNNAMED = HeadFormat("that of another architecture")


_NUMBERS = (
    "hidden_size", "target_hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
    "num_key_value_heads", "intermediate_size", "vocab_size", "draft_vocab_size",
    "num_aux_hidden_states", "max_position_embeddings",
)  # fmt: skip
_MAPPINGS = ("eagle_config", "transformer_layer_config", "rope_scaling", "rope_parameters")
_MOST = {"num_hidden_layers": 1000, "num_aux_hidden_states": 1000}
"""So many are gone through one by one; of other sizes any that a tensor could have."""


def check_types(config: Mapping[str, Any], where: str) -> None:
    """Raises UserError: a key that is read is of another kind than in any head, as where a file is
    damaged or was written by hand."""
    for key in _NUMBERS:
        value, most = config.get(key), _MOST.get(key, 10**9)
        if value is not None and (type(value) is not int or not 0 <= value <= most):
            raise UserError(
                f"{where}: {key} in its config.json is {shown(value)}: a whole number from 0 to "
                f"{most} is needed"
            )
    for key in _MAPPINGS:
        if not isinstance(value := config.get(key), dict | None):
            raise UserError(
                f"{where}: {key} in its config.json is {shown(value)}: an object is needed"
            )
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(type(n) is str for n in names)):
        raise UserError(
            f"{where}: architectures in its config.json is {shown(names)}: a list of names is "
            "needed"
        )
    for place in (config, config.get("eagle_config") or {}):
        if not isinstance(ids := place.get(IDS), list | None):
            raise UserError(f"{where}: {IDS} in its config.json is {shown(ids)}: a list is needed")
    if nested := config.get("transformer_layer_config"):
        check_types(nested, where)


def shown(value: object) -> str:
    """As JSON has it, cut short."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def recognise(config: Mapping[str, Any], tensors: Collection[str] = ()) -> HeadFormat | None:
    """tensors: their names, by which a head is known whose config does not say so. None: no EAGLE3
    head of Llama's network."""
    architectures = config.get("architectures") or []
    if "speculators_model_type" in config:
        return SPECULATORS if config["speculators_model_type"] == "eagle3" else None
    if ARCHITECTURE in architectures:
        return SGLANG
    if "LlamaEagle3DraftModel" in architectures:
        return NEMO
    if "Eagle3LlamaForCausalLM" in architectures:
        return VLLM
    names = {name.removeprefix("model.") for name in tensors}
    first = ("midlayer.hidden_norm.weight", "layers.0.hidden_norm.weight")
    return UNNAMED if "fc.weight" in names and names & set(first) else None


def unservable(config: Mapping[str, Any], tensors: Collection[str] = ()) -> str | None:
    """What of a head SGLang 0.5.17 has no code for, whatever its names; None: nothing.

    SGLang would not fail: it skips keys and tensors that it does not know, and drafts with another
    network than was trained.
    """
    kind = config.get("speculators_model_type", "eagle3")
    if kind != "eagle3":
        return f"its speculators_model_type is {kind!r}, no EAGLE3"
    if config.get("parallel_drafting") or any("mask_hidden" in name for name in tensors):
        return "it is a P-EAGLE head, which drafts in parallel"
    if config.get("norm_before_residual"):
        return "norm_before_residual is true, SGLang adds the state without that norm"
    if config.get("embed_requires_grad"):
        return "its embedding was trained with it, SGLang drafts with the target's"
    eagle = config.get("eagle_config") or {}
    if eagle.get("use_mtp_layernorm"):
        return "eagle_config.use_mtp_layernorm is true"
    for key in ("use_input_layernorm_in_first_layer", "use_last_layernorm"):
        if eagle.get(key) is False:
            return f"eagle_config.{key} is false, SGLang's network has that norm"
    for part, what in (("q_norm", "norms of queries and keys"), ("_proj.bias", "biases")):
        found = [name for name in tensors if part in name and "self_attn" in name]
        if part == "_proj.bias":
            found = [name for name in found if "o_proj" not in name]
        if found:
            return f"its attention has {what} ({found[0]})"
    return None
