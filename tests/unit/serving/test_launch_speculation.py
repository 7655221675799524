"""What the launcher makes of a profile with another speculation than EAGLE3, or none."""

import itertools
import json
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.serving import profile
from tests.support.checkpoints import CODER_NEXT, FP8, write_config
from tests.support.launching import dry_run, error_of, without_switches


def test_a_profile_without_a_tree_is_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = "{description: d, hardware: h, target: a/b, sglang: {port: 7}, "
    ways = {
        "plain": "algorithm: none}",
        "mtp": "algorithm: nextn}",
        "mtp-wide": "algorithm: nextn, tree: {steps: 3, topk: 4, draft-tokens: 8}}",
        "free": "head: c/d}",
    }
    files = [tmp_path / f"{name}.yaml" for name in ways]
    for file, way in zip(files, ways.values(), strict=True):
        file.write_text(base + way, encoding="utf-8")
    monkeypatch.setattr(profile, "profile_names", lambda: tuple(map(str, files)))
    assert launch.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()[1::2]
    assert [line.strip() for line in lines] == [
        "h; a/b; no speculation; port 7",
        "h; a/b; MTP, SGLang's own tree; port 7",
        "h; a/b; MTP, steps 3, topk 4, draft 8; port 7",
        "h; a/b; SGLang's own tree; port 7",
    ]
    assert launch.main(["--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(p["algorithm"], p["head"], p["tree"] is None) for p in listed.values()] == [
        ("none", None, True), ("nextn", None, True), ("nextn", None, False), ("eagle3", "c/d", True)
    ]  # fmt: skip


def speculative(argv: list[str]) -> list[str]:
    """The flags of speculation with their values."""
    return [
        f"{flag.removeprefix('--speculative-')} {value}"
        for flag, value in itertools.pairwise(argv)
        if flag.startswith("--speculative")
    ]


def test_the_demo_s_baseline_is_its_profile_without_speculation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = dry_run(capsys, "--profile", "demo")
    data = dry_run(capsys, "--profile", "demo", "--no-speculation")
    assert not any("speculative" in word for word in data["argv"])
    first = next(i for i, word in enumerate(whole["argv"]) if word.startswith("--speculative"))
    end = whole["argv"].index("--tp")
    assert data["argv"] == [*whole["argv"][:first], *whole["argv"][end:]]
    environment = {k: v for k, v in whole["environment"].items() if k != ENVIRONMENT_VARIABLE}
    assert data["environment"] == environment, "the CPU engine is needed, a selection is not"
    assert data["notes"] == []


def test_mtp_takes_neither_head_nor_selection(capsys: pytest.CaptureFixture[str]) -> None:
    data = dry_run(capsys, "--profile", "b1", "--mtp")
    chain = ["algorithm NEXTN", "num-steps 3", "num-draft-tokens 4", "eagle-topk 1"]
    assert speculative(data["argv"]) == chain
    assert without_switches(data) == {}
    data = dry_run(capsys, "--profile", "b1", "--mtp", "--tree", "2,4,8")
    assert speculative(data["argv"])[1:] == ["num-steps 2", "num-draft-tokens 8", "eagle-topk 4"]


def test_a_profile_of_mtp_keeps_its_own_tree(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mtp.yaml"
    text = "{description: d, hardware: h, target: a/b, algorithm: nextn, %s"
    text += "sglang: {attention-backend: triton}}"
    file.write_text(text % "tree: {steps: 5, topk: 1, draft-tokens: 6}, ", encoding="utf-8")
    data = dry_run(capsys, "--profile", str(file), "--mtp")
    assert speculative(data["argv"])[1:] == ["num-steps 5", "num-draft-tokens 6", "eagle-topk 1"]
    file.write_text(text % "", encoding="utf-8")
    data = dry_run(capsys, "--profile", str(file), "--mtp")
    assert speculative(data["argv"]) == ["algorithm NEXTN"]


def test_another_tree_keeps_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    data = dry_run(capsys, "--profile", "b1", "--tree", "5,1,6", "--head", "c/d")
    assert speculative(data["argv"]) == [
        "algorithm EAGLE3", "draft-model-path c/d", "num-steps 5", "num-draft-tokens 6",
        "eagle-topk 1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mtp", "--no-speculation"], "--no-speculation and --mtp contradict each other"),
        (["--no-speculation", "--tree", "3,1,4"], "algorithm none takes no tree"),
        (["--no-speculation", "--head", "c/d"], "algorithm none takes no head"),
        (["--no-speculation", "--aux-layers", "card"], "algorithm none takes no aux-layers"),
        (["--mtp", "--head", "c/d"], "algorithm nextn takes no head"),
        (["--mtp", "--head-revision", "r"], "algorithm nextn takes no head-revision"),
        (["--tree", "3;1;4"], "tree '3;1;4': write steps,topk,draft-tokens"),
        (["--mtp", "--tree", "3,1,5"], "of 3 steps verifies 4 draft tokens, not 5"),
        (
            ["--mtp", "--", "--speculative-algorithm=EAGLE3"],
            "EAGLE3 after -- contradicts algorithm nextn",
        ),
        (
            ["--no-speculation", "--", "--speculative-algorithm", "NEXTN"],
            "NEXTN after -- contradicts algorithm none",
        ),
    ],
)
def test_contradictions_about_speculation_are_refused(
    capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert words in error_of(capsys, "--profile", "b1", "--dry-run", *options)


@pytest.mark.parametrize("option", ["--no-speculation", "--mtp"])
def test_only_a_head_is_spared_the_quantization_of_the_target(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    # The checkpoint's MTP layer is quantized like the rest of it.
    data = dry_run(capsys, "--profile", "b1", option, "--", "--quantization", "fp8")
    assert "--speculative-draft-model-quantization" not in data["argv"]


@pytest.mark.parametrize("option", ["--no-speculation", "--mtp"])
def test_what_is_not_about_the_head_is_checked_without_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
) -> None:
    target = write_config(tmp_path / "fp8", {**CODER_NEXT, "quantization_config": FP8})
    argv = ("--profile", "h200-fp8", "--dry-run", option, "--target", str(target))
    assert "use --tp 1 or 2 or 4" in error_of(capsys, *argv, "--tp", "8")
    assert "pass --api-key" in error_of(capsys, *argv, "--host", "0.0.0.0")
    assert "the model card names Triton" in error_of(
        capsys, *argv, "--", "--attention-backend", "fa3"
    )
