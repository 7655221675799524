"""Export around a stand-in for SpecForge's; tests/e2e/test_train_chain.py has the real one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.head.head import AUX_LAYERS_KEY
from sglang_qwen3next_eagle3.model import hub
from sglang_qwen3next_eagle3.train import export
from sglang_qwen3next_eagle3.train.trainer import specforge, supervise
from tests.support.checkpoints import (
    SMALL_HEAD,
    SMALL_HEAD_SHAPES,
    SMALL_TARGET,
    write_config,
    write_head,
)

EAGLE = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [3, 23, 47]}
DRAFT = {**SMALL_HEAD, "rope_theta": 5000000.0, "eagle_config": EAGLE}


@dataclass
class Run:
    folder: Path
    target: Path
    head: Path

    def export(self, *more: str) -> int:
        words = ["train", "export", "--run", str(self.folder), "--out", str(self.head)]
        return main([*words, *more])


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with two checkpoints, and a SpecForge that exports zeros."""
    target = write_config(tmp_path / "target", SMALL_TARGET)
    folder = tmp_path / "run"
    for step in (10, 20):
        checkpoint = folder / supervise.CHECKPOINTS / f"head-step{step}"
        checkpoint.mkdir(parents=True)
        torch.save({"global_step": step, "epoch": 1}, checkpoint / "training_state.pt")
        torch.save({}, checkpoint / "training_state_rank0.pt")
    (folder / supervise.LOG).write_text(
        "step 10: {'loss': 3.0}\nstep 10: {'eval/avg_loss': 2.5}\nstep 20: {'loss': 2.0}\n"
    )
    record = {
        "config": {
            "model": {"target_model_path": str(target), "torch_dtype": "bfloat16"},
            "data": {"max_length": 64},
            "training": {"learning_rate": 1e-4},
            "deployment": {"trainer": {"nproc_per_node": 1}},
        },
        "draft": DRAFT, "aux_layers": "output:3,23,47", "versions": {}, "target": str(target),
        "finished": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    (folder / supervise.RUN).write_text(json.dumps(record))

    def exported(run: Path, checkpoint: Path, out: Path) -> None:
        # As transformers leaves it: keys of its own, weights for their owner alone.
        config = {**DRAFT, "architectures": ["LlamaForCausalLMEagle3"], "num_beams": 1}
        write_head(out, {**config, "transformers_version": "5"})
        (out / "model.safetensors").chmod(0o600)
        (out / "generation_config.json").write_text("{}")

    monkeypatch.setattr(export, "_specforge_export", exported)
    monkeypatch.setattr(specforge, "require", lambda: None)
    return Run(folder, target, tmp_path / "out" / "head")


def test_the_head_has_our_config_and_its_provenance(trained: Run) -> None:
    assert trained.export() == 0
    assert {path.name for path in trained.head.iterdir()} == {
        "config.json", "model.safetensors", "provenance.json",
    }  # fmt: skip
    config = json.loads((trained.head / "config.json").read_text())
    assert config == {**DRAFT, "transformers_version": "5"}
    assert (trained.head / "model.safetensors").stat().st_mode & 0o777 == 0o644
    written = json.loads((trained.head / export.PROVENANCE).read_text())
    assert written["checkpoint"] == {
        "name": "head-step20", "step": 20, "epoch": 1,
        "metrics": {
            "training": {"step": 20, "loss": 2.0}, "evaluation": {"step": 10, "avg_loss": 2.5},
        },
    }  # fmt: skip
    assert written["target"] == "target"
    assert str(trained.folder.parent) not in json.dumps(written)


def test_of_the_target_only_the_config_is_needed(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def resolve(name: str, **options: Any) -> Path:
        asked.append({"name": name, **options})
        return trained.target

    monkeypatch.setattr(hub, "resolve", resolve)
    assert trained.export("--target", "org/name") == 0
    assert asked == [{"name": "org/name", "what": "target", "only_config": True}]


def test_head_inspect_finds_nothing_wrong(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    trained.export()
    capsys.readouterr()
    status = main(["head", "inspect", str(trained.head), "--target", str(trained.target), "--json"])
    report = json.loads(capsys.readouterr().out)
    levels = {finding["level"] for finding in report["findings"]}
    assert (status, report["verdict"], levels) == (0, "serves", {"note"})


def test_a_chosen_checkpoint_of_an_unfinished_run_is_said_to_be_one(
    trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    record = supervise.read_record(trained.folder)
    del record["finished"]
    (trained.folder / supervise.RUN).write_text(json.dumps(record))
    older = trained.folder / supervise.CHECKPOINTS / "head-best"
    older.symlink_to("head-step10")
    assert trained.export("--checkpoint", str(older)) == 0
    assert "from head-step10 of a run that is not finished" in capsys.readouterr().out
    written = json.loads((trained.head / export.PROVENANCE).read_text())
    assert written["checkpoint"]["metrics"]["training"]["step"] == 10


def test_a_selection_without_ids_is_spelled_and_launched(
    trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    spelled = "input:0,output:3,output:47"
    record: dict[str, Any] = supervise.read_record(trained.folder)
    record["draft"] = {
        **SMALL_HEAD, "rope_theta": 1e4, "eagle_config": {"use_aux_hidden_state": True},
        AUX_LAYERS_KEY: spelled,
    }  # fmt: skip
    (trained.folder / supervise.RUN).write_text(json.dumps(record))
    assert trained.export() == 0
    capsys.readouterr()
    words = ["launch", "--profile", "b1", "--target", str(trained.target), "--dry-run", "--json"]
    assert main([*words, "--tp", "1", "--head", str(trained.head)]) == 0
    environment = json.loads(capsys.readouterr().out)["environment"]
    assert environment["SGLANG_QWEN3NEXT_EAGLE3_AUX_LAYERS"].startswith(spelled)


def error_of(trained: Run, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert trained.export(*more) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed


def test_nothing_is_overwritten(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    trained.head.mkdir(parents=True)
    (trained.head / "mine").write_text("")
    assert "is not an empty folder" in error_of(trained, capsys)
    (trained.head / "mine").unlink()
    assert trained.export() == 0


def test_a_folder_without_a_run_or_a_checkpoint_is_refused(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no checkpoint" in error_of(trained, capsys, "--checkpoint", str(tmp_path))
    assert "no folder of `train run`" in error_of(trained, capsys, "--run", str(tmp_path))


def test_a_head_that_would_not_serve_is_not_left_behind(
    trained: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(run: Path, checkpoint: Path, out: Path) -> None:
        write_head(out, DRAFT, {k: v for k, v in SMALL_HEAD_SHAPES.items() if k != "fc.weight"})

    monkeypatch.setattr(export, "_specforge_export", exported)
    assert "it lacks" in error_of(trained, capsys)
    assert not trained.head.exists()
    assert list(trained.head.parent.iterdir()) == []


def test_a_head_s_record_says_on_what_it_was_trained_and_how_it_went() -> None:
    record = {
        "config": {
            "model": {"torch_dtype": "bfloat16", "target_model_path": "/t"},
            "data": {"max_length": 512, "hidden_states_path": "/f"},
            "training": {"learning_rate": 1e-4, "ttt_length": 7},
            "deployment": {"trainer": {"nproc_per_node": 2}},
        },
        "aux_layers": "output:3,7,11", "commit": "abc", "versions": {"torch": "2"},
        "recipe": {"name": "card", "description": "d"}, "target": "/models/target",
        "data": {"train": {"data_sha256": "s"}}, "hardware": "2 x H200", "seconds": 3.5,
    }  # fmt: skip
    found = export.provenance_of(record, {"name": "head-step3", "step": 3, "metrics": {}})
    assert found["target"] == "target"
    assert found["training"]["learning_rate"] == 1e-4
    assert found["training"]["processes"] == 2
    assert found["training"]["finished"] is None
    assert found["made_with"]["commit"] == "abc"
    assert found["data"]["train"]["data_sha256"] == "s"
    assert found["checkpoint"]["step"] == 3
    assert "/" not in str(found)
