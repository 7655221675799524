import subprocess
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.train import provenance

ROOT = Path(__file__).parents[3]


def test_no_path_of_the_machine_is_left() -> None:
    value = {
        "a": "/home/somebody/run/x.pt", "b": ["~/features", "org/name", 3], "c": {"d": ("/t",)},
        "e": "a/b", "f": None,
    }  # fmt: skip
    assert provenance.without_paths(value) == {
        "a": "x.pt", "b": ["features", "org/name", 3], "c": {"d": ["t"]}, "e": "a/b", "f": None,
    }  # fmt: skip


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone")
def test_the_commit_is_that_of_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    found = provenance.commit()
    assert found is not None
    assert found.removesuffix("-dirty") == head


def test_an_installed_package_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "a" / "b" / "provenance.py"))
    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    assert provenance.commit() is None


def test_a_copied_folder_can_be_told_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "a" / "b" / "provenance.py"))
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "abc123-dirty")
    assert provenance.commit() == "abc123-dirty"


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
    found = provenance.describe(record, {"name": "head-step3", "step": 3, "metrics": {}})
    assert found["target"] == "target"
    assert found["training"]["learning_rate"] == 1e-4
    assert found["training"]["processes"] == 2
    assert found["training"]["finished"] is None
    assert found["made_with"]["commit"] == "abc"
    assert found["data"]["train"]["data_sha256"] == "s"
    assert found["checkpoint"]["step"] == 3
    assert "/" not in str(found)
