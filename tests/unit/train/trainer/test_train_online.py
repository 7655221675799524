"""`train run --online`: what is written for a trainer elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_qwen3next_eagle3.model import hub
from sglang_qwen3next_eagle3.train.trainer import specforge, supervise
from tests.support.train_runs import DRAFT_VOCAB, ErrorOf, Made


def test_online_writes_what_a_trainer_elsewhere_needs(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    data = made.folder / "train.jsonl"
    assert made.run("--online", "--vocab", str(made.vocab)) == 2
    assert "--data is missing; `train prepare` makes it" in capsys.readouterr().err
    data.write_text("")
    (made.target / specforge.INDEX).write_text("{}")
    assert made.run("--online", "--vocab", str(made.vocab), "--data", str(data)) == 0
    config = yaml.safe_load((made.out / supervise.CONFIG).read_text())
    assert config["data"]["train_data_path"] == str(data)
    draft = json.loads((made.out / supervise.DRAFT).read_text())
    assert config["model"]["draft_model_config"] == str(made.out / supervise.DRAFT)
    assert draft["draft_vocab_size"] == DRAFT_VOCAB
    assert str(made.out / supervise.CONFIG) in capsys.readouterr().out


def test_online_reads_the_config_of_a_target_on_the_hub_and_no_weights(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def resolve(name: str, **options: Any) -> Path:
        asked.update(options, name=name)
        return made.target

    monkeypatch.setattr(hub, "resolve", resolve)
    (made.folder / "train.jsonl").write_text("")
    words = ["--online", "--vocab", str(made.vocab), "--data", str(made.folder / "train.jsonl")]
    assert made.run(*words, "--target", "org/name") == 0
    assert asked["only_config"]
    config = yaml.safe_load((made.out / supervise.CONFIG).read_text())
    assert config["model"]["target_model_path"] == "org/name"


def test_online_knows_outputs_only(made: Made, error_of: ErrorOf) -> None:
    words = ["--online", "--dry-run", "--aux-layers", "input:0,output:3,7", "--allow-gdn-aux"]
    assert "capture servers know outputs of layers only" in error_of(*words)
