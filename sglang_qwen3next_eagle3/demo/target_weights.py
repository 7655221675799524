"""The demo target: every tensor of a Qwen3-Next checkpoint, and its config.json.

GDN layer 0 and one head of each attention layer do a job (recipe.py names the slots); all the
rest, the experts included, has random weights and perturbs the stream as real layers would, so
that a wrong state, a wrong position or a wrong expert changes the text.
"""

import math
from typing import Any

import numpy as np

from sglang_qwen3next_eagle3.demo import recipe as r
from sglang_qwen3next_eagle3.demo.recipe import Float, Int, Randomness

# Standard deviation that one block adds to an entry of the stream, before the final norm.
GDN_NOISE = 0.08
ATTENTION_NOISE = 0.13
MOE_NOISE = 0.055
# RMS of the stream that enters each attention layer, measured; undoes its norm in the copies.
STREAM_RMS = {3: 0.61, 7: 0.80, 11: 0.95}
# Which token back each attention layer copies, from which entries of its code, into which slot.
COPIES = {3: (1, r.B), 7: (2, r.C), 11: (3, r.D)}

ROTARY = int(r.HEAD_DIM * r.PARTIAL_ROTARY)
# Share of each frequency in the score of the copying heads, and the score at the wanted token:
# the next best token within CONTEXT scores more than 20 below it.
FREQUENCY_SHARE = (0.5, 0.25, 0.12, 0.08, 0.05, 0.0, 0.0, 0.0)
SHARPNESS = 150.0
# Largest logit of a typical position.
LOGIT_SCALE = 16.0


def config(ids: dict[str, int]) -> dict[str, Any]:
    """config.json. SGLang reads `rope_theta`, `partial_rotary_factor` and
    `full_attention_interval` at the top level, transformers 5 `rope_parameters` and
    `layer_types`."""
    rope = {
        "rope_type": "default",
        "rope_theta": r.ROPE_THETA,
        "partial_rotary_factor": r.PARTIAL_ROTARY,
    }
    return {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "decoder_sparse_step": 1,
        "dtype": "float32",
        "eos_token_id": ids["<|im_end|>"],
        "full_attention_interval": r.INTERVAL,
        "head_dim": r.HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": r.HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": 2 * r.HIDDEN,
        "layer_types": [
            "full_attention" if i in r.ATTENTION_LAYERS else "linear_attention"
            for i in range(r.LAYERS)
        ],
        "linear_conv_kernel_dim": r.CONV,
        "linear_key_head_dim": r.GDN_DIM,
        "linear_num_key_heads": r.KEY_HEADS,
        "linear_num_value_heads": r.VALUE_HEADS,
        "linear_value_head_dim": r.GDN_DIM,
        "max_position_embeddings": r.CONTEXT,
        "mlp_only_layers": [],
        "moe_intermediate_size": r.EXPERT_WIDTH,
        "norm_topk_prob": True,
        "num_attention_heads": r.HEADS,
        "num_experts": r.EXPERTS,
        "num_experts_per_tok": r.EXPERTS_PER_TOKEN,
        "num_hidden_layers": r.LAYERS,
        "num_key_value_heads": r.KV_HEADS,
        "output_router_logits": False,
        "pad_token_id": ids["<|endoftext|>"],
        "partial_rotary_factor": r.PARTIAL_ROTARY,
        "rms_norm_eps": r.EPS,
        "rope_parameters": rope,
        "rope_scaling": None,
        "rope_theta": r.ROPE_THETA,
        "router_aux_loss_coef": 0.001,
        "shared_expert_intermediate_size": r.SHARED_WIDTH,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": r.VOCAB,
    }


def generation_config(ids: dict[str, int]) -> dict[str, Any]:
    return {
        "bos_token_id": ids["<|endoftext|>"],
        "do_sample": False,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"],
    }


def logit_rows(lexicon: Int) -> Float:
    """lm_head of the target, and row by row of the head: the lexicon, scaled."""
    return (lexicon.astype(np.float64) * (LOGIT_SCALE / 24000.0 * r.UNIT)).astype(np.float32)


def tensors(lexicon: Int) -> dict[str, Float]:
    """The state dict, named as transformers saves it (one tensor an expert)."""
    found = {
        "model.embed_tokens.weight": r.embedding(),
        "model.norm.weight": np.zeros(r.HIDDEN, dtype=np.float32),
        "lm_head.weight": logit_rows(lexicon),
    }
    for layer in range(r.LAYERS):
        random = Randomness.of(f"layer {layer}")
        if layer in r.ATTENTION_LAYERS:
            mixer = {f"self_attn.{k}": v for k, v in _attention(layer, random).items()}
        else:
            block = _topic() if layer == 0 else _delta_net(random)
            mixer = {f"linear_attn.{k}": v for k, v in block.items()}
        block = mixer | {f"mlp.{k}": v for k, v in _experts(random).items()}
        block["input_layernorm.weight"] = np.zeros(r.HIDDEN, dtype=np.float32)
        block["post_attention_layernorm.weight"] = random.noise((r.HIDDEN,), 0.1)
        found |= {f"model.layers.{layer}.{name}": value for name, value in block.items()}
    return found


def _zeros(*shape: int) -> Float:
    return np.zeros(shape, dtype=np.float32)


def _topic() -> dict[str, Float]:
    """GDN layer 0: one constant key, so that each value head's state is a running average of its
    16 entries of the code. Values come in pairs (x, -x), because silu(x) - silu(-x) = x."""
    per_key = r.VALUE_HEADS // r.KEY_HEADS
    group = 2 * r.GDN_DIM + 2 * per_key * r.GDN_DIM
    qkvz, ba = _zeros(r.KEY_HEADS * group, r.HIDDEN), _zeros(2 * r.VALUE_HEADS, r.HIDDEN)
    out = _zeros(r.HIDDEN, r.VALUE_HEADS * r.GDN_DIM)
    one = r.EMBED_RMS  # what undoes the norm on the constant
    gate = 2.0 / (1.0 + math.exp(-2.0))  # silu(2)
    for head, rate in enumerate(r.TOPIC_RATES):
        key_head, inner = divmod(head, per_key)
        base = key_head * group
        qkvz[base : base + 2 * r.GDN_DIM, r.ONE] = one
        value = base + (2 + inner) * r.GDN_DIM
        z = base + (2 + per_key + inner) * r.GDN_DIM
        qkvz[z : z + r.GDN_DIM, r.ONE] = 2.0 * one
        logit = round(256 * math.log(rate / (1 - rate))) / 256
        ba[2 * per_key * key_head + inner, r.ONE] = logit * one
        for i in range(16):
            qkvz[value + i, 16 * head + i] = 1.0
            qkvz[value + 16 + i, 16 * head + i] = -1.0
            slot = r.E.start + 16 * head + i
            if slot < r.ONE:
                gain = np.float32(round(r.TOPIC_GAIN / gate * 1024) / 1024)
                out[slot, head * r.GDN_DIM + i] = gain
                out[slot, head * r.GDN_DIM + 16 + i] = -gain
    conv = _zeros(2 * r.KEY_HEADS * r.GDN_DIM + r.VALUE_HEADS * r.GDN_DIM, 1, r.CONV)
    conv[:, 0, -1] = 1.0
    return {
        "in_proj_qkvz.weight": qkvz,
        "in_proj_ba.weight": ba,
        "conv1d.weight": conv,
        "dt_bias": np.full(r.VALUE_HEADS, -5.0, dtype=np.float32),
        "A_log": _zeros(r.VALUE_HEADS),
        "norm.weight": np.ones(r.GDN_DIM, dtype=np.float32),
        "out_proj.weight": out,
    }


def _delta_net(random: Randomness) -> dict[str, Float]:
    keys, values = r.KEY_HEADS * r.GDN_DIM, r.VALUE_HEADS * r.GDN_DIM
    return {
        "in_proj_qkvz.weight": random.noise((2 * keys + 2 * values, r.HIDDEN), 1 / 16),
        "in_proj_ba.weight": random.noise((2 * r.VALUE_HEADS, r.HIDDEN), 1 / 16),
        "conv1d.weight": random.noise((2 * keys + values, 1, r.CONV), 0.5),
        "dt_bias": random.noise((r.VALUE_HEADS,), 1.0) - np.float32(3.0),
        "A_log": random.noise((r.VALUE_HEADS,), 0.5),
        "norm.weight": np.float32(1.0) + random.noise((r.GDN_DIM,), 0.1),
        "out_proj.weight": _write(random.noise((r.HIDDEN, values), GDN_NOISE / 5)),
    }


def _attention(layer: int, random: Randomness) -> dict[str, Float]:
    """Query head 0 copies the token `back` places earlier; head 1 reads one further back and
    adds noise; heads 2 and 3 attend by content."""
    size, half = r.HEAD_DIM, ROTARY // 2
    query, key = _zeros(r.HEADS * 2 * size, r.HIDDEN), _zeros(r.KV_HEADS * size, r.HIDDEN)
    value, out = _zeros(r.KV_HEADS * size, r.HIDDEN), _zeros(r.HIDDEN, r.HEADS * size)
    back, slot = COPIES[layer]
    for head, distance in ((0, back), (1, back + 3)):
        for i, share in enumerate(FREQUENCY_SHARE):
            amplitude = math.sqrt(share)
            angle = distance * r.ROPE_THETA ** (-2 * i / ROTARY)
            query[2 * size * head + i, r.ONE] = _grid(amplitude * math.cos(angle))
            query[2 * size * head + half + i, r.ONE] = _grid(-amplitude * math.sin(angle))
            key[i, r.ONE] = _grid(amplitude)
        query[2 * size * head + size : 2 * size * (head + 1), r.ONE] = 3 * STREAM_RMS[layer]
    for head in (2, 3):
        block = random.noise((2 * size, r.HIDDEN), 1 / 16)
        block[:ROTARY] /= 8
        block[:, r.ONE] = 0
        query[2 * size * head : 2 * size * (head + 1)] = block
    value[:size, r.A] = np.eye(size, dtype=np.float32)
    key[size:] = _write(random.noise((size, r.HIDDEN), 1 / 16).T).T
    key[size : size + ROTARY] /= 8
    value[size:] = random.noise((size, r.HIDDEN), 1 / 16)
    open_gate = 1 / (1 + math.exp(-3))
    width = slot.stop - slot.start
    gain = round(STREAM_RMS[layer] / open_gate * 1024) / 1024
    out[:, size : 2 * size] = random.noise((r.HIDDEN, size), ATTENTION_NOISE / 24)
    out[:, 2 * size :] = random.noise((r.HIDDEN, 2 * size), ATTENTION_NOISE / 3)
    out[slot.start : slot.stop, :width] = np.float32(gain) * np.eye(width, dtype=np.float32)
    # Rotary entries are scaled up for the copying heads; content heads shrink theirs to match.
    norm = _zeros(size)
    norm[:ROTARY] = _grid(math.sqrt(SHARPNESS / math.sqrt(size)) - 1)
    return {
        "q_proj.weight": query,
        "k_proj.weight": key,
        "v_proj.weight": value,
        "o_proj.weight": _write(out),
        "q_norm.weight": norm,
        "k_norm.weight": norm.copy(),
    }


def _experts(random: Randomness) -> dict[str, Float]:
    found = {
        "gate.weight": random.noise((r.EXPERTS, r.HIDDEN), 2 / 16),
        "shared_expert_gate.weight": random.noise((1, r.HIDDEN), 1 / 16),
    }
    widths = {f"experts.{i}": r.EXPERT_WIDTH for i in range(r.EXPERTS)}
    for name, width in (widths | {"shared_expert": r.SHARED_WIDTH}).items():
        for part in ("gate_proj", "up_proj"):
            found[f"{name}.{part}.weight"] = random.noise((width, r.HIDDEN), 1.5 / 16)
        down = random.noise((r.HIDDEN, width), MOE_NOISE / math.sqrt(width))
        found[f"{name}.down_proj.weight"] = _write(down)
    return found


def _write(weight: Float) -> Float:
    """A matrix that writes to the stream ([HIDDEN, n]) leaves the constant as it is."""
    weight[r.ONE] = 0
    return weight


def _grid(number: float) -> float:
    """Rounded, so that the last bit of a libm's sine does not reach the file."""
    return round(number * 2**16) / 2**16
