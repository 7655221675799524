"""From conversations to a served head on a CPU, with a tiny budget and a kill on the way."""

import contextlib
import io
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.head.forward import HeadModel
from sglang_qwen3next_eagle3.model import hub
from sglang_qwen3next_eagle3.model.embeddings import vocabulary_rows
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train import evaluate
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.trainer import supervise
from tests.support.demo_server import NEW_TOKENS, Oracle
from tests.support.server import PATIENCE, free_port, generate, running

SAVE_INTERVAL, STEPS, LENGTH = 10, 60, 128
RECIPE: dict[str, Any] = {
    "description": "a head in seconds",
    "target": "demo",
    "aux-layers": "card",
    "data": {"samples": 40},
    "hardware": {"gpus": 1, "tp": 1, "dp": 1},
    "draft": {
        "vocab-size": 512, "num-attention-heads": 4, "num-key-value-heads": 2, "head-dim": 32,
        "intermediate-size": 128,
    },
    "specforge": {
        "data": {"max_length": LENGTH, "dataloader_num_workers": 1},
        "training": {
            "num_epochs": 100, "max_steps": STEPS, "batch_size": 2, "learning_rate": 1e-3,
            "save_interval": SAVE_INTERVAL, "eval_interval": STEPS, "log_interval": 1,
            "max_checkpoints": 2,
        },
    },
}  # fmt: skip


def conversations() -> list[dict[str, Any]]:
    """Forty questions of one kind, whose answers a small head can learn."""
    found = []
    for i in range(40):
        answer = "\n".join(
            f"def add_{i}_{j}(a, b):\n    return a + b + {j}" for j in range(2 + i % 3)
        )
        question = {"role": "user", "content": f"Write functions that add, number {i}."}
        found.append({"messages": [question, {"role": "assistant", "content": answer}]})
    return found


@dataclass
class Chain:
    """What each step left. killed_at: the checkpoint when `train run` was killed."""

    folder: Path
    killed_at: int
    resumed: str

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def head(self) -> Path:
        return self.folder / "head"

    def evaluate(self, features: str) -> tuple[int, dict[str, Any]]:
        words = ["train", "evaluate", "--head", str(self.head), "--target", "demo"]
        return _printed([*words, "--features", str(self.folder / features), "--json"])


def _printed(words: list[str]) -> tuple[int, dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(words)
    return status, json.loads(out.getvalue() or "{}")


def _killed(command: list[str], run: Path) -> int:
    """Start it, kill it once there is a checkpoint, and tell which."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + PATIENCE
        while supervise.latest_checkpoint(run) is None:
            assert process.poll() is None, (run / supervise.LOG).read_text()[-2000:]
            assert time.monotonic() < until
            time.sleep(0.05)
        process.kill()
    # Its trainer may save once more before it ends: the lock is free when it has.
    with supervise._locked(run):
        newest = supervise.latest_checkpoint(run)
    assert newest is not None
    return supervise.step_of(newest)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    at = {name: str(folder / name) for name in ("prepared", "features", "held-out", "run", "head")}
    source, recipe = folder / "source.jsonl", folder / "tiny.yaml"
    source.write_text("".join(json.dumps(c) + "\n" for c in conversations()))
    recipe.write_text(yaml.safe_dump(RECIPE))
    train, held_out = f"{at['prepared']}/train.jsonl", f"{at['prepared']}/eval.jsonl"
    prepare = ["--source", str(source), "--eval-samples", "4", "--out", at["prepared"]]
    assert main(["train", "prepare", *prepare]) == 0
    demo = ["--target", "demo", "--max-length", str(LENGTH)]
    vocab = ["--data", train, "--size", "512", "--out", str(folder)]
    assert main(["train", "vocab", *demo, *vocab]) == 0
    for data, out in ((train, at["features"]), (held_out, at["held-out"])):
        how = ["--backend", "transformers", "--device", "cpu"]
        assert main(["train", "capture", *demo, "--data", data, "--out", out, *how]) == 0
    run = ["train", "run", "--recipe", str(recipe), "--features", at["features"]]
    run += ["--eval-features", at["held-out"], "--vocab", str(folder / "vocab.pt")]
    run += ["--device", "cpu", "--out", at["run"]]
    killed_at = _killed([sys.executable, "-m", "sglang_qwen3next_eagle3", *run], Path(at["run"]))
    log = folder / "run" / supervise.LOG
    before = log.stat().st_size
    assert main(run) == 0
    resumed = log.read_bytes()[before:].decode()
    assert main(["train", "export", "--run", at["run"], "--out", at["head"]]) == 0
    return Chain(folder, killed_at, resumed)


def test_a_killed_run_goes_on_where_its_checkpoint_was(chain: Chain) -> None:
    steps = [int(step) for step in re.findall(r"^step (\d+): \{'acc_0", chain.resumed, re.M)]
    assert SAVE_INTERVAL <= chain.killed_at < STEPS
    assert steps == list(range(chain.killed_at + 1, STEPS + 1))
    assert supervise.read_record(chain.run)["finished"]


def test_the_head_passes_the_checks_of_head_inspect(chain: Chain) -> None:
    status, report = _printed(["head", "inspect", str(chain.head), "--target", "demo", "--json"])
    assert (status, report["verdict"]) == (0, "serves")
    assert report["facts"]["draft_vocab_size"] == 512
    assert report["facts"]["aux_ids"] == [3, 7, 11]
    assert not report["facts"]["own_embedding"]


def test_the_head_says_where_it_comes_from(chain: Chain) -> None:
    text = (chain.head / "provenance.json").read_text()
    written = json.loads(text)
    assert written["recipe"] == {"name": "tiny", "description": "a head in seconds"}
    assert written["data"]["train"]["selection"] == "output:3,7,11"
    assert written["data"]["train"]["samples"] == 36
    assert written["checkpoint"]["step"] == STEPS
    assert written["checkpoint"]["metrics"]["training"]["acc_0"] > 0
    assert str(chain.folder) not in text


def test_evaluation_is_that_of_the_trainer(chain: Chain) -> None:
    status, result = chain.evaluate("held-out")
    assert status == 0
    metrics = supervise.read_record(chain.run)["metrics"]["evaluation"]
    # In the trainer's own precision: in fp32, as the verb computes, near ties fall otherwise.
    folder = demo_pair().target
    embedding, lm_head = vocabulary_rows(folder, Target.from_path(folder))
    model = HeadModel.load(chain.head, embedding, torch.bfloat16)
    samples = features.iterate(chain.folder / "held-out")
    scored = evaluate.score(model, lm_head.to(torch.bfloat16), samples, len(result["accuracies"]))
    assert scored.positions == result["positions"]
    assert scored.accuracies == pytest.approx(
        metrics["per_position_acc"], abs=4 / result["positions"]
    )
    assert result["accuracies"][0] > 0.2, "it learned something"
    assert result["accept_lengths"] == sorted(result["accept_lengths"])


def test_the_exported_head_serves_the_target_s_own_text(
    chain: Chain, oracle: Oracle, tmp_path: Path
) -> None:
    port = free_port()
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--port", str(port)]
    command += ["--target", "demo", "--head", str(chain.head)]
    with running(command, port, tmp_path / "server.log") as server:
        answers = [generate(server, NEW_TOKENS, input_ids=ids) for ids in oracle.prompts[:2]]
    assert [answer["output_ids"] for answer in answers] == [oracle.answer(0), oracle.answer(1)]
    assert all(answer["meta_info"]["spec_verify_ct"] < NEW_TOKENS for answer in answers)


def test_the_target_of_one_file_was_given_an_index(chain: Chain) -> None:
    assert (chain.run / "target" / hub.INDEX).is_file()
