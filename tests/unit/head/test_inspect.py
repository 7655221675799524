"""`head inspect` on good and bad heads; what does not serve is refused by `launch` too."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3 import __main__, launch
from tests.support.checkpoints import CODER_NEXT, write_config, write_target
from tests.support.heads import BAD, CONFIG, TARGET, BadHead, published, random_tensors, write
from tests.support.server import free_port

SERVES, WARNS, REFUSES = 0, 1, 2
IDS = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [3, 23, 47]}}


@pytest.fixture(autouse=True)
def no_calibrations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write_target(tmp_path / "target", TARGET)


def report_of(
    capsys: pytest.CaptureFixture[str], head: Path, target: Path
) -> tuple[int, dict[str, Any]]:
    status = __main__.main(["head", "inspect", str(head), "--target", str(target), "--json"])
    return status, json.loads(capsys.readouterr().out)


def subjects(report: dict[str, Any], *levels: str) -> list[str]:
    return [found["subject"] for found in report["findings"] if found["level"] in levels]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_head_that_does_not_serve_is_told_why_and_what_to_do(
    bad: BadHead, tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = report_of(capsys, bad.make(tmp_path / "head"), target)
    assert status == report["status"] == REFUSES
    assert report["verdict"] == "does not serve"
    first = next(found for found in report["findings"] if found["level"] == "error")
    said = f"{first['text']}: {first['remedy']}"
    assert first["subject"] == bad.subject
    assert bad.words in said
    assert "\n" not in said


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_launch_refuses_what_does_not_serve_for_the_same_reason(
    bad: BadHead,
    tmp_path: Path,
    target: Path,
    capsys: pytest.CaptureFixture[str],
    executed: dict[str, Any],
) -> None:
    head = bad.make(tmp_path / "head")
    argv = ["--profile", "b1", "--target", str(target), "--head", str(head)]
    assert launch.main([*argv, "--port", str(free_port())]) == REFUSES
    said = capsys.readouterr().err
    assert bad.words in said
    assert said.count("\n") == 1
    assert not executed


def test_a_head_with_nothing_to_say_about_serves(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = write(tmp_path / "head", {**CONFIG, **IDS}, random_tensors(CONFIG))
    status, report = report_of(capsys, head, target)
    assert status == SERVES
    assert report["verdict"] == "serves"
    assert subjects(report, "note") == ["quantization", "aux-layers"]
    assert report["facts"]["draft_vocab_size"] == 24
    assert report["facts"]["coverage"] == 24 / 40
    assert report["facts"]["t2d_agrees"] is True
    assert report["facts"]["aux_states"] == 3
    assert report["facts"]["aux_ids"] == [3, 23, 47]
    assert report["tensors"]["fc.weight"] == {"shape": [16, 48], "dtype": "F32"}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("config", "tensors", "subject"),
    [
        ({"max_position_embeddings": 2048}, {}, "context"),
        ({"rope_theta": None}, {}, "rope"),
        ({"norm_output": True}, {}, "norm-output"),
        ({"quantization_config": {"quant_method": "fp8"}}, {}, "quantization"),
        ({"eagle_config": None}, {}, "aux-unknown"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [47, 23, 3]}}, {}, "aux-order"),
        ({}, {"midlayer.mlp.gate_proj.bias": torch.zeros(32)}, "tensor-unknown"),
        ({}, {"t2d": torch.arange(40) < 24}, "t2d"),
        ({}, {"d2t": torch.zeros(24, dtype=torch.int64).index_fill(0, torch.tensor(3), -1)}, "d2t"),
    ],
)
def test_what_should_be_looked_at_is_a_warning_and_serves(
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    subject: str,
    tmp_path: Path,
    target: Path,
    capsys: pytest.CaptureFixture[str],
    executed: dict[str, Any],
) -> None:
    merged = {**CONFIG, **IDS, **config}
    kept = {key: value for key, value in merged.items() if value is not None}
    head = write(tmp_path / "head", kept, {**random_tensors(CONFIG), **tensors})
    status, report = report_of(capsys, head, target)
    assert status == WARNS
    assert subject in subjects(report, "warning")
    assert not subjects(report, "error")
    argv = ["--profile", "b1", "--target", str(target), "--head", str(head)]
    launch.main([*argv, "--port", str(free_port())])
    assert executed


def test_an_end_of_text_that_cannot_be_drafted_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = random_tensors(CONFIG)["t2d"]
    absent = int((~known).nonzero()[0])
    present = int(known.nonzero()[0])
    head = write(tmp_path / "head", {**CONFIG, **IDS}, random_tensors(CONFIG))
    target = write_config(tmp_path / "t", {**TARGET, "eos_token_id": [absent, present]})
    status, report = report_of(capsys, head, target)
    assert status == WARNS
    assert subjects(report, "warning") == ["end-of-text"]
    assert f"end of text ({absent})" in report["findings"][0]["text"]


def test_an_embedding_in_the_file_is_not_used(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {**random_tensors(CONFIG), "embed_tokens.weight": torch.zeros(40, 16)}
    status, report = report_of(capsys, write(tmp_path / "head", {**CONFIG, **IDS}, tensors), target)
    assert status == SERVES
    assert "embedding" in subjects(report, "note")
    assert report["facts"]["own_embedding"] is True


def test_a_selection_under_our_own_key_is_what_the_config_names(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**CONFIG, "qwen3next_eagle3_aux_layers": "input:0,output:23,output:46"}
    status, report = report_of(
        capsys, write(tmp_path / "h", config, random_tensors(CONFIG)), target
    )
    assert status == SERVES
    said = next(f["text"] for f in report["findings"] if f["subject"] == "aux-layers")
    assert "input:0,output:23,output:46, source: the head's config" in said


def test_the_published_head_is_read_in_its_small_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = published(tmp_path / "head")
    target = write_config(tmp_path / "target", CODER_NEXT)
    status, report = report_of(capsys, head, target)
    assert status == WARNS
    assert subjects(report, "warning") == ["end-of-text", "context", "aux-unknown"]
    assert report["facts"]["parameters"] == 145_235_968
    assert report["facts"]["bytes"] == 290_879_872
    assert report["facts"]["coverage"] == pytest.approx(32000 / 151936)
    __main__.main(["head", "inspect", str(head), "--target", str(target)])
    assert "277.4 MiB" in capsys.readouterr().out


def test_the_table_names_every_finding_and_the_verdict(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = BAD["missing tensor"].make(tmp_path / "head")
    assert __main__.main(["head", "inspect", str(head), "--target", str(target)]) == REFUSES
    printed = capsys.readouterr().out
    assert "error it lacks 1 tensor, midlayer.mlp.up_proj.weight" in printed
    assert "-> export it again" in printed
    assert f"does not serve: {head} for {target}" in printed
    assert "24 of 40 tokens (60.0%), d2t and t2d agree" in printed
    assert "midlayer.mlp.gate_proj.weight" in printed


def test_a_path_that_is_not_there_is_one_line(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["head", "inspect", "./gone", "--target", str(target)]) == REFUSES
    assert "there is no folder ./gone" in capsys.readouterr().err


def test_a_head_that_is_not_there_is_said_before_its_target_is_looked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert __main__.main(["head", "inspect", "./typo", "--target", "./neither"]) == REFUSES
    assert "there is no folder ./typo" in capsys.readouterr().err
