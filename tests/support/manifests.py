"""Of features of the small target: what a manifest says in tests."""

from dataclasses import replace

from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture.features import FeaturesManifest
from tests.support.small_target import CONFIG

TARGET = Target(CONFIG)
CARD = aux_layers.named("card", TARGET)


def manifest_of(
    config_sha256: str = features.config_sha256(CONFIG), **changes: object
) -> FeaturesManifest:
    manifest = FeaturesManifest(
        selection=str(CARD), selection_name="card", depths=CARD.depths, target="some/target",
        config_sha256=config_sha256, weights_sha256="w", hidden_size=8, data_sha256="d",
        max_length=64, max_samples=None, backend="sglang", device="cpu", compute_dtype="auto",
        tp=1, flags=("--a",), versions={"sglang": "1"}, samples=2, tokens=30,
    )  # fmt: skip
    return replace(manifest, **changes)  # type: ignore[arg-type]
