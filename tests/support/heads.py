"""Small EAGLE3 heads with random weights, for tests."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sglang_qwen3next_eagle3.model.published import HEAD as PUBLISHED
from tests.support.checkpoints import CODER_NEXT, write_config

VOCAB, DRAFT_VOCAB, HIDDEN, TARGET_HIDDEN = 40, 24, 16, 16
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "vocab_size": VOCAB,
    "draft_vocab_size": DRAFT_VOCAB,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all floating-point tensors but the embedding."""
    hidden, target_hidden = config["hidden_size"], config.get("target_hidden_size")
    target_hidden = target_hidden or hidden
    states = config.get("num_aux_hidden_states", 3)
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    wide = config["intermediate_size"]
    found: dict[str, tuple[int, ...]] = {
        "fc.weight": (hidden, states * target_hidden),
        "norm.weight": (hidden,),
        "lm_head.weight": (config["draft_vocab_size"], hidden),
    }
    if config.get("bias"):
        found["fc.bias"] = (hidden,)
    if config.get("norm_before_fc"):
        found["input_norm.weight"] = (states * target_hidden,)
    if config.get("fc_norm"):
        found |= {f"fc_norm.{i}.weight": (target_hidden,) for i in range(states)}
    for layer in range(config["num_hidden_layers"]):
        name = f"layers.{layer}" if layer else "midlayer"
        into = hidden if layer else 2 * hidden
        found |= {
            f"{name}.self_attn.q_proj.weight": (queries, into),
            f"{name}.self_attn.k_proj.weight": (keys, into),
            f"{name}.self_attn.v_proj.weight": (keys, into),
            f"{name}.self_attn.o_proj.weight": (hidden, queries),
            f"{name}.mlp.gate_proj.weight": (wide, hidden),
            f"{name}.mlp.up_proj.weight": (wide, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, wide),
            f"{name}.hidden_norm.weight": (hidden,),
            f"{name}.post_attention_layernorm.weight": (hidden,),
        }
        if config.get("bias"):
            found[f"{name}.self_attn.o_proj.bias"] = (hidden,)
        if not layer:
            found["midlayer.input_layernorm.weight"] = (hidden,)
    return found


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Weights at which every part of the head has a say in its logits."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes(config).items():
        drawn = torch.randn(shape, generator=generator)
        scale = 1.5 / shape[-1] ** 0.5
        tensors[name] = 1 + 0.3 * drawn if name.endswith("norm.weight") else scale * drawn
    vocab, draft_vocab = config["vocab_size"], config["draft_vocab_size"]
    ids = torch.randperm(vocab, generator=generator)[:draft_vocab].sort().values
    tensors["d2t"] = ids - torch.arange(draft_vocab)
    tensors["t2d"] = torch.zeros(vocab, dtype=torch.bool).index_fill(0, ids, True)
    return tensors


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


def published(folder: Path) -> Path:
    """The published names, shapes and dtypes; the weights are a hole in the file."""
    rows = {
        "fc": (2048, 6144), "lm_head": (32000, 2048), "norm": (2048,),
        "midlayer.self_attn.q_proj": (2048, 4096), "midlayer.self_attn.k_proj": (512, 4096),
        "midlayer.self_attn.v_proj": (512, 4096), "midlayer.self_attn.o_proj": (2048, 2048),
        "midlayer.mlp.gate_proj": (8192, 2048), "midlayer.mlp.up_proj": (8192, 2048),
        "midlayer.mlp.down_proj": (2048, 8192), "midlayer.input_layernorm": (2048,),
        "midlayer.hidden_norm": (2048,), "midlayer.post_attention_layernorm": (2048,),
    }  # fmt: skip
    header: dict[str, Any] = {
        "d2t": {"dtype": "I64", "shape": [32000], "data_offsets": [0, 256000]},
        "t2d": {"dtype": "BOOL", "shape": [151936], "data_offsets": [256000, 407936]},
    }
    end = 407936
    for name, shape in rows.items():
        size = 2 * torch.Size(shape).numel()
        header[f"{name}.weight"] = {
            "dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size],
        }  # fmt: skip
        end += size
    text = json.dumps(header).encode()
    write_config(folder, PUBLISHED)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + bytes(256000))
        file.write(bytes([1]) * 32000 + bytes(151936 - 32000))
        file.truncate(8 + len(text) + end)
    return folder


TARGET: dict[str, Any] = {
    **CODER_NEXT,
    "hidden_size": TARGET_HIDDEN,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
    # Its draft vocabulary is drawn, so that the end of text may not be in it.
    "eos_token_id": None,
}


@dataclass(frozen=True)
class BadHead:
    """A head that does not serve. subject, words: of the finding that says so."""

    make: Callable[[Path], Path]
    subject: str
    words: str


def _changed(config: dict[str, Any] | None = None, **tensors: Tensor | None) -> Callable[..., Path]:
    """A head with these keys of its config and these tensors (`__` for a dot) other than right."""

    def make(folder: Path) -> Path:
        changes = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
        kept = {**random_tensors(CONFIG), **changes}
        found = {name: tensor for name, tensor in kept.items() if tensor is not None}
        return write(folder, {**CONFIG, **(config or {})}, found)

    return make


def _without_key(folder: Path) -> Path:
    config = {key: value for key, value in CONFIG.items() if key != "draft_vocab_size"}
    return write(folder, config, random_tensors(CONFIG))


def _eagle1(folder: Path) -> Path:
    config = {**CONFIG, "architectures": ["LlamaForCausalLMEagle"]}
    fc, query = torch.zeros(HIDDEN, 2 * HIDDEN), torch.zeros(32, HIDDEN)
    return write(folder, config, {"fc.weight": fc, "layers.0.self_attn.q_proj.weight": query})


def _eagle1_inside(folder: Path) -> Path:
    write(folder, CONFIG, random_tensors(CONFIG))
    _eagle1(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


def _truncated(folder: Path) -> Path:
    file = write(folder, CONFIG, random_tensors(CONFIG)) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    return folder


def _pickle(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write(folder, CONFIG, {})
        (folder / "model.safetensors").unlink()
        torch.save(random_tensors(CONFIG), folder / name)
        return folder

    return make


BAD: dict[str, BadHead] = {
    "missing tensor": BadHead(
        _changed(midlayer__mlp__up_proj__weight=None), "tensor-missing",
        "it lacks 1 tensor, midlayer.mlp.up_proj.weight",
    ),
    "transposed tensor": BadHead(
        _changed(midlayer__mlp__down_proj__weight=torch.zeros(32, 16)), "tensor-transposed",
        "down_proj.weight is (32, 16), its config.json and the target ask for (16, 32): it is "
        "transposed",
    ),
    "tensor of another shape": BadHead(
        _changed(norm__weight=torch.zeros(8)), "tensor-shape", "norm.weight is (8)"
    ),
    "quantized tensor": BadHead(
        _changed(fc__weight=torch.zeros(16, 48, dtype=torch.int8)), "tensor-dtype",
        "fc.weight is stored as I8",
    ),
    "d2t out of range": BadHead(
        _changed(d2t=torch.full((DRAFT_VOCAB,), 20)), "d2t",
        "d2t maps 4 draft tokens out of the vocabulary of 40, first draft token 20 to 40",
    ),
    "d2t of target ids": BadHead(
        _changed(d2t=random_tensors(CONFIG)["t2d"].nonzero().flatten()), "d2t",
        "d2t holds the target's token ids",
    ),
    "d2t of floats": BadHead(
        _changed(d2t=torch.zeros(DRAFT_VOCAB)), "d2t", "d2t is stored as F32"
    ),
    "tied embeddings": BadHead(
        _changed({"tie_word_embeddings": True}), "tie-word-embeddings",
        "tie_word_embeddings is true",
    ),
    "draft_vocab_size too large": BadHead(
        _changed({"draft_vocab_size": 32}), "draft-vocab-size",
        "its config.json says draft_vocab_size 32: set draft_vocab_size to 24",
    ),
    "no draft_vocab_size": BadHead(_without_key, "config-key", "has no draft_vocab_size"),
    "no num_hidden_layers": BadHead(
        _changed({"num_hidden_layers": None}), "config-key", "has no num_hidden_layers"
    ),
    "ids beyond the target": BadHead(
        _changed({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [3, 23, 48]}}), "aux-layers",
        "the target has no layer 48",
    ),
    "ids that are none": BadHead(
        _changed({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [3, 23, -1]}}), "aux-layers",
        "layer numbers from 0 are expected",
    ),
    "four states of a default of three": BadHead(
        _changed({"num_aux_hidden_states": 4}, fc__weight=torch.zeros(16, 64)), "aux-layers",
        "3 named, the head's fc takes 4",
    ),
    "wrong count of states": BadHead(
        _changed({"num_aux_hidden_states": 4}), "aux-count",
        "its fc takes 3 states, its config.json says 4",
    ),
    "capture switched off": BadHead(
        _changed({"eagle_config": {"use_aux_hidden_state": False}}), "use-aux-hidden-state",
        "SGLang would capture nothing",
    ),
    "head of a wider target": BadHead(
        _changed({"target_hidden_size": 32}, fc__weight=torch.zeros(16, 96)), "target",
        "it reads states of width 32, the target's are 16 wide: it belongs to another target",
    ),
    "head of another vocabulary": BadHead(
        _changed({"vocab_size": 64}), "target", "a vocabulary of 64, the target one of 40"
    ),
    "another activation": BadHead(
        _changed({"hidden_act": "gelu"}), "architecture", "hidden_act is 'gelu'"
    ),
    "EAGLE-1 head": BadHead(_eagle1, "file", "is an EAGLE-1 head"),
    "EAGLE-1 tensors": BadHead(_eagle1_inside, "eagle1", "its tensors are an EAGLE-1 head's"),
    "a language model": BadHead(
        _changed({"architectures": ["LlamaForCausalLM"]}, midlayer__hidden_norm__weight=None),
        "file", "is not an EAGLE3 head",
    ),
    "truncated file": BadHead(_truncated, "file", "it is truncated"),
    "pickle": BadHead(
        _pickle("pytorch_model.bin"), "file", "it has pytorch_model.bin, a pickle: convert it"
    ),
    "renamed pickle": BadHead(
        _pickle("model.safetensors"), "file", "is a pickle under the name of a safetensors file"
    ),
}  # fmt: skip
"""Heads for `TARGET` that do not serve, each with the one cause that is reported."""
