"""What `train run` is given in tests: a small target, a recipe for it, and the steps before."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture.features import FeaturesManifest
from tests.support.checkpoints import write_target
from tests.support.small_target import CONFIG

DRAFT_VOCAB = 64
MINIMAL: dict[str, Any] = {
    "description": "of a test",
    "target": "demo",
    "aux-layers": "card",
    "data": {"samples": 10},
    "hardware": {"gpus": 1, "tp": 1, "dp": 1},
    "draft": {
        "vocab-size": 64, "num-attention-heads": 4, "num-key-value-heads": 2, "head-dim": 8,
        "intermediate-size": 32,
    },
    "specforge": {"training": {"num_epochs": 1}},
}  # fmt: skip
ErrorOf = Callable[..., str]
"""`train run` with these words: its one line of error."""


class Made:
    """A small target, a recipe for it, and what the steps before `run` leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = write_target(folder / "target", CONFIG)
        self.recipe = folder / "small.yaml"
        content = {**MINIMAL, "target": str(self.target)}
        self.recipe.write_text(yaml.safe_dump(content))
        self.vocab = folder / "vocab.pt"
        size = CONFIG["vocab_size"]
        torch.save({"d2t": torch.zeros(DRAFT_VOCAB), "t2d": torch.zeros(size)}, self.vocab)
        self.vocab.with_name("vocab.json").write_text('{"coverage": 1.0}')
        self.out = folder / "run"

    def features(self, name: str = "features", **changes: Any) -> Path:
        selection = aux_layers.named("card", Target(CONFIG))
        manifest = FeaturesManifest(
            selection=str(selection), selection_name="card", depths=selection.depths,
            target="t", config_sha256=features.config_sha256(CONFIG),
            weights_sha256=features.weights_sha256(self.target), hidden_size=8, data_sha256="d",
            max_length=64, max_samples=None, backend="sglang", device="cpu", compute_dtype="auto",
            tp=1, flags=(), versions={}, samples=10, tokens=100, samples_done=10, tokens_done=100,
        )  # fmt: skip
        folder = self.folder / name
        folder.mkdir()
        content = replace(manifest, **changes).as_json()
        (folder / features.MANIFEST).write_text(json.dumps(content))
        return folder

    def run(self, *more: str) -> int:
        words = ["train", "run", "--recipe", str(self.recipe), "--out", str(self.out)]
        return main([*words, *more])

    def trainable(self, *more: str) -> list[str]:
        return ["--vocab", str(self.vocab), "--device", "cpu", *more]
