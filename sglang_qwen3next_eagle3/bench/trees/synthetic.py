"""The full-size target and head without anybody's weights, for what speed alone depends on.

SGLang fills the target in (`--load-format dummy`); the head gets random weights of the published
names and shapes.
"""

import random
from pathlib import Path
from typing import Literal

from sglang_qwen3next_eagle3.base.files import write_json
from sglang_qwen3next_eagle3.bench.load import Dialogue
from sglang_qwen3next_eagle3.model.published import (
    CODER_NEXT,
    CODER_NEXT_FP8,
    DRAFT_VOCABULARY,
    HEAD,
    VOCABULARY,
)

Precision = Literal["fp8", "bf16"]

FLAGS = ("--load-format", "dummy", "--skip-tokenizer-init")
"""SGLang's flags for this target."""
HEAD_FLAGS = ("--speculative-draft-load-format", "auto")
"""For its head, which dummy weights would fill too; the target's own MTP layer has to be filled."""


def write_target(folder: Path, precision: Precision) -> Path:
    """The target's `config.json`, all that `FLAGS` need of it."""
    config = CODER_NEXT if precision == "bf16" else CODER_NEXT_FP8
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    return folder


def write_head(folder: Path, seed: int = 0) -> Path:
    """A head of the published names and shapes, 277.4 MiB."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    width, inner, heads, kv, head_dim = 2048, 8192, 16, 4, 128

    def normal(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.02).bfloat16()

    def ones() -> torch.Tensor:
        return torch.ones(width, dtype=torch.bfloat16)

    ids = torch.arange(0, VOCABULARY, VOCABULARY // DRAFT_VOCABULARY)[:DRAFT_VOCABULARY]
    known = torch.zeros(VOCABULARY, dtype=torch.bool)
    known[ids] = True
    layer = "midlayer"
    tensors = {
        "fc.weight": normal(width, 3 * width),
        f"{layer}.self_attn.q_proj.weight": normal(heads * head_dim, 2 * width),
        f"{layer}.self_attn.k_proj.weight": normal(kv * head_dim, 2 * width),
        f"{layer}.self_attn.v_proj.weight": normal(kv * head_dim, 2 * width),
        f"{layer}.self_attn.o_proj.weight": normal(width, heads * head_dim),
        f"{layer}.mlp.gate_proj.weight": normal(inner, width),
        f"{layer}.mlp.up_proj.weight": normal(inner, width),
        f"{layer}.mlp.down_proj.weight": normal(width, inner),
        f"{layer}.input_layernorm.weight": ones(),
        f"{layer}.hidden_norm.weight": ones(),
        f"{layer}.post_attention_layernorm.weight": ones(),
        "norm.weight": ones(),
        "lm_head.weight": normal(DRAFT_VOCABULARY, width),
        "d2t": ids - torch.arange(DRAFT_VOCABULARY),
        "t2d": known,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", HEAD)
    save_file(tensors, folder / "model.safetensors")
    return folder


def dialogues(count: int, tokens: int, vocabulary: int, seed: int) -> list[Dialogue]:
    """`count` prompts of random tokens, below the special ones at the vocabulary's end."""
    drawn = random.Random(seed)
    ordinary = vocabulary - max(1, vocabulary // 100)

    def one(place: int) -> Dialogue:
        ids = [drawn.randrange(ordinary) for _ in range(tokens)]
        return Dialogue(str(place), lambda answers: None if answers else ids)

    return [one(place) for place in range(count)]
