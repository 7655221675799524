"""The weights of a Qwen3-Next target by kind: how many, how they are split, which are quantized.

Names and shapes are those of transformers' Qwen3NextForCausalLM; the split over ranks and what
stays in bf16 are SGLang's (0.5.17, models/qwen3_next.py and models/qwen2_moe.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

LayerKind = Literal["attention", "gdn"]
# SGLang pads the vocabulary to this before it splits it over ranks
# (layers/vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE).
VOCAB_PADDING = 64


@dataclass(frozen=True)
class Weights:
    """Weights of one kind over the whole model.

    elements: parameters in all.
    per_rank: parameters on one tensor-parallel rank.
    quantized: FP8 checkpoints store these in blocks; the others stay in bf16.
    """

    name: str
    elements: int
    per_rank: int
    quantized: bool


def of(config: Mapping[str, Any], kinds: Sequence[LayerKind], tp: int) -> Iterator[Weights]:
    """The weights of a Qwen3-Next config whose layers are of these kinds, over `tp` ranks."""
    c = {key: value for key, value in config.items() if isinstance(value, int)}
    hidden, attention, gdn = c["hidden_size"], kinds.count("attention"), kinds.count("gdn")
    tied = bool(config.get("tie_word_embeddings", False))

    def split(name: str, elements: int, quantized: bool = False, ways: int = tp) -> Weights:
        return Weights(name, elements, elements // ways, quantized)

    padded = -(-c["vocab_size"] // VOCAB_PADDING) * VOCAB_PADDING
    vocab = c["vocab_size"] * hidden
    per_rank = padded * hidden // tp if tp > 1 else vocab
    yield Weights("embed_tokens", vocab, per_rank, False)
    if not tied:
        yield Weights("lm_head", vocab, per_rank, False)

    heads, kv_heads, width = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    # q_proj carries the output gate beside the queries (Qwen3-Next's attn_output_gate).
    yield split("attention.q_proj", attention * 2 * heads * width * hidden, quantized=True)
    # More ranks than KV heads: every rank holds one head, replicated.
    kv = attention * 2 * kv_heads * width * hidden
    yield split("attention.kv_proj", kv, quantized=True, ways=min(tp, kv_heads))
    yield split("attention.o_proj", attention * heads * width * hidden, quantized=True)
    yield split("attention.qk_norm", attention * 2 * width, ways=1)

    key = c["linear_num_key_heads"] * c["linear_key_head_dim"]
    value = c["linear_num_value_heads"] * c["linear_value_head_dim"]
    channels = 2 * key + value
    value_heads = c["linear_num_value_heads"]
    yield split("gdn.in_proj_qkvz", gdn * (2 * key + 2 * value) * hidden, quantized=True)
    yield split("gdn.in_proj_ba", gdn * 2 * value_heads * hidden)
    yield split("gdn.conv1d", gdn * channels * c["linear_conv_kernel_dim"])
    yield split("gdn.A_log, dt_bias", gdn * 2 * value_heads)
    yield split("gdn.norm", gdn * c["linear_value_head_dim"], ways=1)
    yield split("gdn.out_proj", gdn * value * hidden, quantized=True)

    sparse = sum(_is_sparse(config, i) for i in range(len(kinds)))
    dense = len(kinds) - sparse
    expert = 3 * c["moe_intermediate_size"] * hidden
    shared = 3 * c["shared_expert_intermediate_size"] * hidden
    yield split("moe.gate", sparse * c["num_experts"] * hidden, ways=1)
    yield split("moe.experts", sparse * c["num_experts"] * expert, quantized=True)
    yield split("moe.shared_expert", sparse * shared, quantized=True)
    yield split("moe.shared_expert_gate", sparse * hidden, ways=1)
    if dense:
        yield split("mlp", dense * 3 * c["intermediate_size"] * hidden, quantized=True)
    yield split("layernorms", (2 * len(kinds) + 1) * hidden, ways=1)


def _is_sparse(config: Mapping[str, Any], layer: int) -> bool:
    if layer in (config.get("mlp_only_layers") or ()):
        return False
    return (layer + 1) % int(config.get("decoder_sparse_step") or 1) == 0
