"""`train capture` on the demo pair: SGLang against transformers, and a real kill on the way."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.demo.pair import DemoPair, demo_pair
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay.prefill.runner import PrefillRunner
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture.encode import encode, load_format, read_conversations
from sglang_qwen3next_eagle3.train.capture.transformers_runner import TransformersRunner
from tests.support.actions import action
from tests.support.small_target import conversation

SELECTIONS = ("card", "fork", "sglang")


@pytest.fixture(scope="module")
def pair() -> DemoPair:
    return demo_pair()


def write(path: Path, count: int, words: int) -> Path:
    lines = []
    for i in range(count):
        text = " ".join(f"value_{j * i % 13} = {j}" for j in range(words + i % 5))
        lines.append(json.dumps(conversation(f"Write program {i}.", text, f"c{i}")) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "train.jsonl", count=5, words=6)


def words_of(data: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--data", str(data), "--target", "demo", "--out", str(out)),
        *("--device", "cpu", "--max-length", "512", *more),
    ]


def run(data: Path, out: Path, *more: str) -> Path:
    assert action("train", "capture", *words_of(data, out, *more)) == 0
    return out


@pytest.fixture(scope="module")
def by_sglang(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(data, tmp_path_factory.mktemp("sglang") / "features")


@pytest.fixture(scope="module")
def by_transformers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("transformers") / "features"
    return run(data, out, "--backend", "transformers")


def test_both_backends_write_the_same_features(by_sglang: Path, by_transformers: Path) -> None:
    """To the rounding: two fp32 values beside a bf16 boundary are one step apart."""
    pairs = list(zip(features.iterate(by_sglang), features.iterate(by_transformers), strict=True))
    assert len(pairs) == 5
    for ours, theirs in pairs:
        for key in ("input_ids", "loss_mask"):
            assert torch.equal(ours[key], theirs[key])
        for key in ("hidden_state", "aux_hidden_state"):
            torch.testing.assert_close(ours[key], theirs[key], rtol=2**-7, atol=1e-3)
            assert (ours[key] == theirs[key]).float().mean() > 0.95


@pytest.fixture(scope="module")
def runner(pair: DemoPair) -> Iterator[PrefillRunner]:
    with PrefillRunner(pair.target, device="cpu", max_length=512) as runner:
        yield runner


@pytest.mark.parametrize("text", SELECTIONS)
def test_the_backends_states_agree_in_fp32_for_each_selection(
    pair: DemoPair, runner: PrefillRunner, data: Path, text: str
) -> None:
    tokenizer = load_format(pair.target)
    samples = [encode(tokenizer, c.messages, 512) for c in read_conversations(data)]
    prompts = [sample.ids for sample in samples if sample is not None]
    selection = aux_layers.named(text, Target.from_path(pair.target))
    runner.select(selection)
    oracle = TransformersRunner(pair.target, selection)
    ours = runner.prefill(prompts, torch.float32)
    theirs = oracle.prefill_batches([[prompt] for prompt in prompts], torch.float32)
    for mine, (other,) in zip(ours, theirs, strict=True):
        assert mine.streams.shape == other.streams.shape
        assert (mine.streams - other.streams).abs().max() < 1e-4
        assert (mine.last_hidden - other.last_hidden).abs().max() < 1e-4
        between = (other.streams[1:] - other.streams[:-1]).abs().amax(dim=(1, 2))
        assert between.min() > 1e-2, "the streams of the selection are told apart"


def test_training_on_features_of_another_selection_is_refused(
    pair: DemoPair, by_sglang: Path
) -> None:
    target = Target.from_path(pair.target)
    manifest = features.read_manifest(by_sglang)
    features.check_selection(manifest, aux_layers.named("card", target), pair.target)
    with pytest.raises(UserError, match=r"are of auxiliary layers .*\(card\), not input:"):
        features.check_selection(manifest, aux_layers.named("fork", target), target)


def digests(folder: Path) -> dict[str, str]:
    paths = folder.glob("rows_*/*.ckpt")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


# So many that a busy machine's test sees the first long before the last is written.
ROWS = 100


def test_a_capture_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", count=ROWS, words=30)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(data, whole)
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3", "train", "capture"]
    with subprocess.Popen(
        [*command, *words_of(data, killed)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    ) as process:
        while not any(killed.glob("rows_*/*.ckpt")):
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
        process.kill()
    before = {path: path.stat().st_mtime_ns for path in killed.glob("rows_*/*.ckpt")}
    assert 0 < len(before) < ROWS
    run(data, killed)
    assert digests(killed) == digests(whole)
    assert all(path.stat().st_mtime_ns == at for path, at in before.items()), "kept as they were"
    assert features.read_manifest(killed).complete
    assert not (killed / features.SCRATCH).exists()
