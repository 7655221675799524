"""What the weights take on one rank: of a checkpoint's headers, or of its config alone.

Which tensors SGLang splits over the ranks and which every rank holds whole is read in SGLang
0.5.17, models/qwen3_next.py, qwen2_moe.py and llama_eagle3.py.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.serving.refusals import MTP_PREFIX

FP8_DTYPES = frozenset({"F8_E4M3", "F8_E5M2"})
_SCALE = "weight_scale_inv"
_WHOLE = (
    "norm.weight", "layernorm.weight", ".mlp.gate.weight", "shared_expert_gate.weight",
    "fc.weight", "fc.bias", "pre_fc_norm_embedding.weight", "pre_fc_norm_hidden.weight",
)  # fmt: skip
"""Ends of the names of what is not split: norms, the router, and what mixes states."""
_KV = (".k_proj.weight", ".v_proj.weight", f".k_proj.{_SCALE}", f".v_proj.{_SCALE}")
D2T_BYTES = 8
"""Of the draft vocabulary's table, which SGLang keeps as int64."""


@dataclass(frozen=True)
class Tensor:
    """elements: of all tensors of this kind; dtype: as safetensors spells it."""

    name: str
    elements: int
    dtype: str


def target_bytes(tensors: Iterable[Tensor], target: Target, tp: int, dtype_bytes: int) -> int:
    """Of one of `tp` ranks, the MTP layer left out. dtype_bytes: of the model's dtype, which
    everything is loaded as that is not quantized."""
    kv_heads = int(target.config["num_key_value_heads"])
    return sum(
        _rank_bytes(tensor, kv_heads, tp, dtype_bytes)
        for tensor in tensors
        if not tensor.name.startswith(MTP_PREFIX)
    )


def mtp_bytes(tensors: Iterable[Tensor], target: Target, tp: int, dtype_bytes: int) -> int:
    """The same of the MTP layer alone."""
    kv_heads = int(target.config["num_key_value_heads"])
    return sum(
        _rank_bytes(tensor, kv_heads, tp, dtype_bytes)
        for tensor in tensors
        if tensor.name.startswith(MTP_PREFIX)
    )


def head_bytes(head: Head, tp: int, dtype_bytes: int) -> int:
    """Of an EAGLE3 head on one rank, without the embedding that it shares."""
    kv_heads = int(head.config.get("num_key_value_heads") or head.config["num_attention_heads"])
    shapes = (
        {name: info.shape for name, info in head.tensors.items()}
        if head.tensors
        else head.expected_tensors()
    )
    total = 0
    for name, shape in shapes.items():
        # t2d is not read, and an embedding in the file gives way to the target's.
        if name in ("t2d", "embed_tokens.weight"):
            continue
        if name == "d2t":
            total += math.prod(shape) * D2T_BYTES
            continue
        tensor = Tensor(name, math.prod(shape), "BF16")
        total += _rank_bytes(tensor, kv_heads, tp, dtype_bytes)
    return total


def embedding_bytes(config: Mapping[str, Any], tp: int, dtype_bytes: int) -> int:
    """Of an embedding of the target's vocabulary on one rank."""
    return int(config["vocab_size"]) * int(config["hidden_size"]) * dtype_bytes // tp


def _rank_bytes(tensor: Tensor, kv_heads: int, tp: int, dtype_bytes: int) -> int:
    if tensor.dtype in FP8_DTYPES:
        item = 1
    elif tensor.name.endswith(_SCALE):
        item = 4
    else:
        item = dtype_bytes
    if tensor.name.endswith(_WHOLE):
        return tensor.elements * item
    if tensor.name.endswith(_KV):
        return tensor.elements * item * max(1, kv_heads // tp) // kv_heads
    return tensor.elements * item // tp


def of_config(target: Target, *, mtp: bool = False) -> list[Tensor]:
    """The tensors of a checkpoint of this config; an expert's stand for all of their kind.

    mtp: with those of its MTP layer, which a config does not tell of.
    """
    c = target.config
    hidden, vocabulary = target.hidden_size, target.vocab_size
    of = _Builder(c)
    of.add("model.embed_tokens.weight", vocabulary * hidden)
    for layer, kind in enumerate(target.kinds):
        _layer(of, c, f"model.layers.{layer}", kind)
    of.add("model.norm.weight", hidden)
    if not c.get("tie_word_embeddings"):
        of.add("lm_head.weight", vocabulary * hidden)
    if mtp:
        _layer(of, c, f"{MTP_PREFIX}layers.0", "attention")
        of.add(f"{MTP_PREFIX}fc.weight", 2 * hidden * hidden)
        for norm in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
            of.add(f"{MTP_PREFIX}{norm}.weight", hidden)
    return of.tensors


class _Builder:
    """Adds tensors, quantized ones with their scales."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        quantization = config.get("quantization_config") or {}
        self.block = quantization.get("weight_block_size")
        self.fp8 = quantization.get("quant_method") == "fp8" and self.block is not None
        self.kept = frozenset(quantization.get("modules_to_not_convert") or ())
        self.tensors: list[Tensor] = []

    def add(self, name: str, elements: int) -> None:
        """One that stays in the model's dtype."""
        self.tensors.append(Tensor(name, elements, "BF16"))

    def linear(self, module: str, rows: int, columns: int, count: int = 1) -> None:
        """`count` matrices [rows, columns] of one kind."""
        name = f"{module}.weight"
        if not self.fp8 or module in self.kept:
            self.add(name, rows * columns * count)
            return
        assert self.block is not None
        blocks = -(-rows // int(self.block[0])) * -(-columns // int(self.block[1]))
        self.tensors.append(Tensor(name, rows * columns * count, "F8_E4M3"))
        self.tensors.append(Tensor(f"{module}.{_SCALE}", blocks * count, "F32"))


def _layer(of: _Builder, c: Mapping[str, Any], at: str, kind: str) -> None:
    hidden = int(c["hidden_size"])
    if kind == "attention":
        width, heads = int(c["head_dim"]), int(c["num_attention_heads"])
        kv = int(c["num_key_value_heads"]) * width
        # Queries come with a gate of the same width.
        of.linear(f"{at}.self_attn.q_proj", 2 * heads * width, hidden)
        of.linear(f"{at}.self_attn.k_proj", kv, hidden)
        of.linear(f"{at}.self_attn.v_proj", kv, hidden)
        of.linear(f"{at}.self_attn.o_proj", hidden, heads * width)
        of.add(f"{at}.self_attn.q_norm.weight", width)
        of.add(f"{at}.self_attn.k_norm.weight", width)
    else:
        key = int(c["linear_num_key_heads"]) * int(c["linear_key_head_dim"])
        value_heads = int(c["linear_num_value_heads"])
        value = value_heads * int(c["linear_value_head_dim"])
        of.linear(f"{at}.linear_attn.in_proj_qkvz", 2 * key + 2 * value, hidden)
        of.linear(f"{at}.linear_attn.in_proj_ba", 2 * value_heads, hidden)
        kernel = int(c["linear_conv_kernel_dim"])
        of.add(f"{at}.linear_attn.conv1d.weight", (2 * key + value) * kernel)
        of.linear(f"{at}.linear_attn.out_proj", hidden, value)
        of.add(f"{at}.linear_attn.A_log", value_heads)
        of.add(f"{at}.linear_attn.dt_bias", value_heads)
        of.add(f"{at}.linear_attn.norm.weight", int(c["linear_value_head_dim"]))
    experts, inner = int(c["num_experts"]), int(c["moe_intermediate_size"])
    of.add(f"{at}.mlp.gate.weight", experts * hidden)
    for name, rows, columns in (
        ("gate_proj", inner, hidden),
        ("up_proj", inner, hidden),
        ("down_proj", hidden, inner),
    ):
        of.linear(f"{at}.mlp.experts.{name}", rows, columns, experts)
    shared = int(c["shared_expert_intermediate_size"])
    of.linear(f"{at}.mlp.shared_expert.gate_proj", shared, hidden)
    of.linear(f"{at}.mlp.shared_expert.up_proj", shared, hidden)
    of.linear(f"{at}.mlp.shared_expert.down_proj", hidden, shared)
    of.add(f"{at}.mlp.shared_expert_gate.weight", hidden)
    of.add(f"{at}.input_layernorm.weight", hidden)
    of.add(f"{at}.post_attention_layernorm.weight", hidden)
