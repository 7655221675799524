"""The demo's EAGLE3 head: what a draft can know of the target's stream, and its config.json.

`fc` picks each slot of recipe.py's stream from the state in which the target has just written
it: A, B and E from the first, C from the second, D from the third. Another selection of
layers finds those slots empty, as with a trained head.

The one layer attends from every position to itself and moves the stream on by a token: the new
token's code replaces A, A moves to B, and as far as the value heads reach, B to C. The rest
stays as it was when the target last ran, so later draft steps know less than the first.
"""

import math
from typing import Any

import numpy as np

from sglang_qwen3next_eagle3.demo import recipe as r
from sglang_qwen3next_eagle3.demo.recipe import Float, Int, Randomness
from sglang_qwen3next_eagle3.demo.target_weights import logit_rows

HEAD_DIM = 64
HEADS = 4
KV_HEADS = 2
WIDTH = 512
SHARPNESS = 200.0
MLP_NOISE = 0.05
# RMS of the stream that enters the head, measured; undoes the norm in what is subtracted.
STREAM_RMS = 0.94


def config(ids: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": ids["<|endoftext|>"],
        "draft_vocab_size": r.DRAFT_VOCAB,
        "dtype": "float32",
        "eos_token_id": ids["<|im_end|>"],
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": r.HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": WIDTH,
        "max_position_embeddings": r.CONTEXT,
        "mlp_bias": False,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 1,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": ids["<|endoftext|>"],
        "rms_norm_eps": r.EPS,
        "rope_scaling": None,
        "rope_theta": r.ROPE_THETA,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": r.VOCAB,
    }


def draft_ids(counts: dict[int, int], special: list[int]) -> Int:
    """The draft vocabulary as ascending target ids: the special tokens, then the most frequent
    ones, then the lowest ids."""
    ranked = sorted(range(r.VOCAB), key=lambda token: (-counts.get(token, 0), token))
    chosen = special + [token for token in ranked if token not in special]
    return np.array(sorted(chosen[: r.DRAFT_VOCAB]), dtype=np.int64)


def tensors(lexicon: Int, ids: Int) -> dict[str, np.ndarray[Any, Any]]:
    """The head's file: the names that SGLang loads, without an embedding."""
    random = Randomness.of("head")
    norm = np.ones(r.HIDDEN, dtype=np.float32)
    in_draft = np.zeros(r.VOCAB, dtype=np.bool_)
    in_draft[ids] = True
    return {
        "d2t": ids - np.arange(len(ids), dtype=np.int64),
        "t2d": in_draft,
        "fc.weight": _fc(),
        **{f"midlayer.self_attn.{k}.weight": v for k, v in _attention().items()},
        "midlayer.mlp.gate_proj.weight": random.noise((WIDTH, r.HIDDEN), 1.5 / 16),
        "midlayer.mlp.up_proj.weight": random.noise((WIDTH, r.HIDDEN), 1.5 / 16),
        "midlayer.mlp.down_proj.weight": _mlp_down(random),
        "midlayer.input_layernorm.weight": norm,
        "midlayer.hidden_norm.weight": norm.copy(),
        "midlayer.post_attention_layernorm.weight": norm.copy(),
        "norm.weight": norm.copy(),
        "lm_head.weight": logit_rows(lexicon)[ids],
    }


def _mlp_down(random: Randomness) -> Float:
    down = random.noise((r.HIDDEN, WIDTH), MLP_NOISE / math.sqrt(WIDTH))
    down[r.ONE] = 0
    return down


def _fc() -> Float:
    """[HIDDEN, 3 * HIDDEN]. What the layer will not move is moved here already."""
    fc = np.zeros((r.HIDDEN, 3 * r.HIDDEN), dtype=np.float32)

    def pick(to: slice, state: int, start: int) -> None:
        for i in range(to.stop - to.start):
            fc[to.start + i, state * r.HIDDEN + start + i] = 1.0

    moved = HEAD_DIM - r.B_WIDTH  # entries of C that the second value head reaches
    pick(r.A, 0, r.A.start)
    pick(r.B, 0, r.B.start)
    pick(slice(r.C.start, r.C.start + moved), 1, r.C.start)
    pick(slice(r.C.start + moved, r.C.stop), 0, r.B.start + moved)
    pick(r.D, 1, r.C.start)
    pick(r.E, 0, r.E.start)
    fc[r.ONE, r.ONE] = 1.0
    return fc


def _attention() -> dict[str, Float]:
    """Values: [new A - old A] in the first head, [A - B, B - C] in the second."""
    wide = 2 * r.HIDDEN  # the embedding, then the hidden state
    query = np.zeros((HEADS * HEAD_DIM, wide), dtype=np.float32)
    key = np.zeros((KV_HEADS * HEAD_DIM, wide), dtype=np.float32)
    value = np.zeros((KV_HEADS * HEAD_DIM, wide), dtype=np.float32)
    out = np.zeros((r.HIDDEN, HEADS * HEAD_DIM), dtype=np.float32)
    # Score at distance 0: HEAD_DIM / 2 equal cosines over sqrt(HEAD_DIM).
    amplitude = math.sqrt(SHARPNESS * math.sqrt(HEAD_DIM) / (HEAD_DIM / 2)) * r.EMBED_RMS
    for matrix, count in ((query, HEADS), (key, KV_HEADS)):
        for head in range(count):
            matrix[head * HEAD_DIM : head * HEAD_DIM + HEAD_DIM // 2, r.ONE] = (
                round(amplitude * 1024) / 1024
            )
    hidden = r.HIDDEN
    for i in range(r.A.stop):
        value[i, i] = r.EMBED_RMS
        value[i, hidden + i] = -STREAM_RMS
    for i in range(r.B_WIDTH):
        value[HEAD_DIM + i, hidden + i] = STREAM_RMS
        value[HEAD_DIM + i, hidden + r.B.start + i] = -STREAM_RMS
    for i in range(HEAD_DIM - r.B_WIDTH):
        value[HEAD_DIM + r.B_WIDTH + i, hidden + r.B.start + i] = STREAM_RMS
        value[HEAD_DIM + r.B_WIDTH + i, hidden + r.C.start + i] = -STREAM_RMS
    # Two query heads share a value head and carry half of it each.
    for head in range(HEADS):
        start = r.A.start if head < HEADS // 2 else r.B.start
        for i in range(HEAD_DIM):
            out[start + i, head * HEAD_DIM + i] = KV_HEADS / HEADS
    return {"q_proj": query, "k_proj": key, "v_proj": value, "o_proj": out}
