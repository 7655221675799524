import os
import subprocess
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base import provenance

ROOT = Path(__file__).parents[3]


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


def test_the_versions_are_those_that_are_installed() -> None:
    assert provenance.version("no-such-distribution") is None
    assert provenance.versions(["no-such-distribution", "pydantic"]).keys() == {"pydantic"}


def test_the_environment_is_told_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("TOKEN", "PASSWORD", "SECRET", "KEY", "API_KEYS"):
        monkeypatch.setenv(f"SGLANG_SOME_{word}", "S3CRET")
    monkeypatch.setenv("SGLANG_SOME_FLAGS", "--api-key S3CRET --tp 2")
    monkeypatch.setenv("SGLANG_SOME_LIMIT", "7")
    described = provenance.describe(["bench"])
    assert "S3CRET" not in str(described)
    assert described["environment"]["SGLANG_SOME_TOKEN"] == "***"
    assert described["environment"]["SGLANG_SOME_FLAGS"] == "--api-key *** --tp 2"
    assert described["environment"]["SGLANG_SOME_LIMIT"] == "7"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("NVIDIA H200, 143771 MiB, 580.1\n\n", ["NVIDIA H200"]),
        ("No devices were found\n", []),
        ("", []),
    ],
)
def test_gpus_are_those_that_nvidia_smi_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, found: list[str]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{said}END\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert [gpu["name"] for gpu in provenance.gpus()] == found
