"""In which form an EAGLE3 head is: the one that SGLang reads, or one of a trainer or of another
server, told by its config and the names of its tensors.

Read in their sources: vLLM's speculators (models/eagle3, convert/eagle), vLLM itself
(model_executor/models/llama_eagle3.py, transformers_utils/configs/speculators), NVIDIA's NeMo
AutoModel (components/speculative/eagle) and ModelOpt (torch/export/plugins/hf_spec_export.py, whose
export is the form that SGLang reads).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
