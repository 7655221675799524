import argparse
import json
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.cli import patches
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.contract import Installed, ReleaseManifest, Symbol
from sglang_qwen3next_eagle3.train.trainer import specforge

MODULE = "sglang.srt.models.qwen3_next"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked wheel of a release 9.9 with one of the two symbols that its manifest lists."""
    folder = tmp_path / "wheel" / "sglang" / "srt" / "models"
    folder.mkdir(parents=True)
    (folder / "qwen3_next.py").write_text("def f(a, b):\n    return a\n")
    contract._parse_module.cache_clear()
    root = tmp_path / "wheel"
    found = contract.read_symbol(root, f"{MODULE}:f")
    assert found is not None
    symbols = (
        Symbol(f"{MODULE}:f", "capture", "hooked", *found, "because"),
        Symbol(f"{MODULE}:g", "capture", "relied_on", (), "0" * 16, "it calls f"),
    )
    manifest = ReleaseManifest("9.9", "in a test", symbols)
    monkeypatch.setattr(contract, "read_manifest", lambda release: manifest)
    monkeypatch.setattr(contract, "installed_sglang", lambda: Installed("9.9", root))
    return root


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    patches.add_arguments(parser)
    return patches.run(parser.parse_args(words))


def test_verify_says_what_differs(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "--json") == 1
    data = json.loads(capsys.readouterr().out)
    assert [(s["target"], s["state"]) for s in data["symbols"]] == [
        (f"{MODULE}:f", "ok"), (f"{MODULE}:g", "missing"),
    ]  # fmt: skip
    assert run("verify") == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "SGLang 9.9: 1 of 2 symbols are as reviewed (capture 2)"
    assert f"  {MODULE}:g: " in printed
    assert f"{MODULE}:f" not in printed, "what is as reviewed is counted only"
    assert "reviewed: in a test" in printed
    assert run("verify", "--all") == 1
    assert "because" in capsys.readouterr().out


def test_verify_covers_the_trainer_where_it_is_installed(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = ReleaseManifest("1.0", "r", (Symbol("specforge.a:b", "training", "hooked", (), "0"),))
    monkeypatch.setattr(specforge, "read_manifest", lambda: lacking)
    monkeypatch.setattr(specforge, "installed", lambda: Installed("1.0", source))
    manifest = contract.read_manifest("9.9")
    whole = ReleaseManifest("9.9", "r", manifest.symbols[:1])
    monkeypatch.setattr(contract, "read_manifest", lambda release: whole)
    assert run("verify", "--json") == 1, "SGLang is as reviewed, the trainer is not"
    assert json.loads(capsys.readouterr().out)["specforge"]["symbols"][0]["state"] == "missing"
    assert run("verify") == 1
    assert "SpecForge 1.0" in capsys.readouterr().out
    monkeypatch.setattr(specforge, "installed", lambda: None)
    assert run("verify", "--json") == 0
    assert json.loads(capsys.readouterr().out)["specforge"] is None


def test_verify_reads_an_unpacked_wheel(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "sglang/srt/models/qwen3_next.py").write_text("def f(a, c):\n    return a\n")
    contract._parse_module.cache_clear()
    assert run("verify", "--json", "--source", str(source), "--release", "9.9") == 1
    states = {s["state"] for s in json.loads(capsys.readouterr().out)["symbols"]}
    assert states == {"parameters", "missing"}


def test_new_writes_a_manifest_for_review(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("new", "9.9", "--out", str(tmp_path)) == 0
    text = (tmp_path / "sglang-9.9.toml").read_text()
    written = contract.parse_manifest(text, "m")
    assert [symbol.target for symbol in written.symbols] == [f"{MODULE}:f"]
    assert written.symbols[0].parameters == ("a", "b")
    assert f"# REVIEW: {MODULE}:g is not in this release" in text
    assert "not yet" in written.reviewed
    assert "2 symbols, 1 differ" in capsys.readouterr().out
    with pytest.raises(UserError, match="is there already"):
        run("new", "9.9", "--out", str(tmp_path))


def test_another_release_than_the_installed_one_needs_its_source(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"SGLang 9\.9 is installed, not 8\.8"):
        run("new", "8.8")
    with pytest.raises(UserError, match="holds no folder sglang/"):
        run("verify", "--source", str(tmp_path))


def test_an_absent_sglang_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "installed_sglang", lambda: None)
    with pytest.raises(UserError, match="SGLang is not installed"):
        run("verify")


def test_a_release_from_the_index_gets_a_manifest_and_what_changed(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """pip hands out the wheel of 9.10, in which one symbol has changed and one is still absent."""
    monkeypatch.setattr(contract, "nearest_release", lambda release: "9.9")

    def pip(command: list[str], **_: object) -> SimpleNamespace:
        assert command[-1] == "sglang==9.10"
        assert "--no-deps" in command
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "sglang-9.10-py3-none-any.whl", "w") as wheel:
            wheel.writestr("sglang/srt/models/qwen3_next.py", "def f(a, b):\n    return b\n")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    out = tmp_path / "out"
    out.mkdir()
    assert run("new", "9.10", "--from-index", "--out", str(out)) == 0
    assert "# REVIEW: differs from 9.9" in (out / "sglang-9.10.toml").read_text()
    changes = (out / "sglang-9.10.changes.md").read_text()
    assert "-    return a\n+    return b\n" in changes
    assert changes.count("## ") == 1
    assert "changes.md" in capsys.readouterr().out


def test_a_release_that_the_index_does_not_have_is_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = SimpleNamespace(returncode=1, stderr="one line\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    with pytest.raises(UserError, match=r"pip could not download sglang==9\.10: ERROR: No match"):
        run("new", "9.10", "--from-index", "--out", str(tmp_path))
    with pytest.raises(UserError, match="leave --source out"):
        run("new", "9.10", "--from-index", "--source", str(source), "--out", str(tmp_path))
