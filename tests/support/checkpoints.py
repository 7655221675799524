"""Small checkpoints with the proportions of the published ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.model.published import CODER_NEXT

__all__ = [
    "CODER_NEXT",
    "FP8",
    "SMALL_HEAD",
    "SMALL_HEAD_SHAPES",
    "SMALL_TARGET",
    "write_config",
    "write_head",
]

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}

# A head of the published proportions for a target of hidden size 8.
# Its vocabulary ends before the published end of text.
SMALL_TARGET = {**CODER_NEXT, "hidden_size": 8, "vocab_size": 64, "eos_token_id": None}
SMALL_HEAD: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "intermediate_size": 16,
    "vocab_size": 64,
    "draft_vocab_size": 32,
    "tie_word_embeddings": False,
    "max_position_embeddings": 262144,
}
SMALL_HEAD_SHAPES: dict[str, tuple[int, ...]] = {
    "fc.weight": (8, 24),
    "midlayer.self_attn.q_proj.weight": (8, 16),
    "midlayer.self_attn.k_proj.weight": (4, 16),
    "midlayer.self_attn.v_proj.weight": (4, 16),
    "midlayer.self_attn.o_proj.weight": (8, 8),
    "midlayer.mlp.gate_proj.weight": (16, 8),
    "midlayer.mlp.up_proj.weight": (16, 8),
    "midlayer.mlp.down_proj.weight": (8, 16),
    "midlayer.hidden_norm.weight": (8,),
    "midlayer.input_layernorm.weight": (8,),
    "midlayer.post_attention_layernorm.weight": (8,),
    "norm.weight": (8,),
    "lm_head.weight": (32, 8),
}


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_target(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """A config, and a weight file that is whole; nobody loads it."""
    import numpy as np
    from safetensors.numpy import save_file

    write_config(folder, SMALL_TARGET if config is None else config)
    names = ("model.norm.weight", "mtp.norm.weight")
    save_file(dict.fromkeys(names, np.zeros(8, np.float32)), folder / "model.safetensors")
    return folder


def write_head(
    folder: Path,
    config: dict[str, Any] | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    write_config(folder, SMALL_HEAD if config is None else config)
    chosen = SMALL_HEAD_SHAPES if shapes is None else shapes
    tensors = {name: np.zeros(shape, np.float32) for name, shape in chosen.items()}
    tensors["d2t"] = np.arange(32, dtype=np.int64)
    tensors["t2d"] = np.arange(64) % 2 == 0
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_sharded(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """A target of two weight files, `a` in the first and `b` in the second, with their index."""
    import numpy as np
    from safetensors.numpy import save_file

    write_config(folder, SMALL_TARGET if config is None else config)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    places = {}
    for i, tensor in enumerate("ab", 1):
        places[tensor] = f"model-0000{i}-of-00002.safetensors"
        save_file({tensor: np.zeros(64, np.float32)}, folder / places[tensor])
    index = {"metadata": {"total_size": 512}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def shard_head(folder: Path, first: str, second: str) -> None:
    """Give the head in a folder two weight files, with an index and a tensor `b` in the second."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / first)
    save_file({"b": np.zeros(64, np.float32)}, folder / second)
    places = {**dict.fromkeys(tensors, first), "b": second}
    index = {"weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


POINTER = (
    f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4999999999\n"
).encode()


def break_files(first: str, second: str) -> dict[str, tuple[Callable[[Path], None], str]]:
    """Ways in which a folder of these two weight files is not whole, and what is said of each."""

    def content(name: str, content: bytes) -> Callable[[Path], None]:
        def replace(folder: Path) -> None:
            (folder / name).write_bytes(content)

        return replace

    def short(folder: Path) -> None:
        (folder / second).write_bytes((folder / second).read_bytes()[:-16])

    def dangling(folder: Path) -> None:
        """As a hub cache whose blobs were deleted."""
        (folder / first).unlink()
        (folder / first).symlink_to(folder / "blobs" / "gone")

    def swapped(folder: Path) -> None:
        (folder / second).write_bytes((folder / first).read_bytes())

    index = "model.safetensors.index.json"
    return {
        "missing": (lambda folder: (folder / second).unlink(), f"lacks {second} of its 2 weight"),
        "link to nothing": (dangling, f"lacks {first} of its 2 weight files: download"),
        "short": (short, f"{second} is not a whole safetensors file (it should be"),
        "pointer": (content(first, POINTER), f"{first} is a git LFS pointer, the file itself"),
        "empty": (content(first, b""), f"{first} is empty: download"),
        "of another": (swapped, f"{second} has no tensor b, which {index} says is in it"),
        "text": (content(first, b"<html>Not found</html>"), "is not a whole safetensors file"),
        "index a pointer": (content(index, POINTER), f"{index} is a git LFS pointer"),
        "index empty": (content(index, b""), f"{index} is empty"),
        "index damaged": (content(index, b'{"metadata": {}}'), f"{index} is damaged"),
        "tokenizer a pointer": (content("tokenizer.json", POINTER), "tokenizer.json is a git LFS"),
        "tokenizer empty": (content("tokenizer.json", b""), "tokenizer.json is empty"),
    }
