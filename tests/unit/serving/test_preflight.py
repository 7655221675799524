"""The launcher for real, up to the moment at which SGLang takes its place."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.environment import FAST
from sglang_qwen3next_eagle3.serving import preflight
from tests.support.checkpoints import (
    CODER_NEXT,
    POINTER,
    SMALL_HEAD,
    SMALL_TARGET,
    break_files,
    shard_head,
    write_config,
    write_sharded,
)
from tests.support.launching import error_of
from tests.support.server import free_port

pytestmark = pytest.mark.usefixtures("installed")
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
BROKEN = break_files(FIRST, SECOND)


@pytest.fixture
def argv(target_folder: Path, head_folder: Path) -> list[str]:
    return [
        "--profile", "b1", "--target", str(target_folder), "--head", str(head_folder),
        "--port", str(free_port()),
    ]  # fmt: skip


def test_sglang_takes_the_place_of_the_launcher(
    argv: list[str], executed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    launch.main([*argv, "--", "--log-level", "debug"])
    assert executed["file"] == sys.executable
    assert executed["argv"][:3] == [sys.executable, "-m", "sglang.launch_server"]
    assert executed["argv"][-2:] == ["--log-level", "debug"]
    assert executed["environment"][ENVIRONMENT_VARIABLE] == "card"
    assert "PATH" in executed["environment"], "the caller's environment is kept"
    assert "auxiliary hidden states: output:3,23,47 (card)" in capsys.readouterr().err


def test_variables_that_do_not_count_are_told_before_it(
    argv: list[str],
    executed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "fork")
    monkeypatch.setenv(FAST, "on")
    launch.main([*argv, "--no-fast"])
    assert executed["environment"][FAST] == "off"
    assert executed["environment"][ENVIRONMENT_VARIABLE] == "card"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not used" in line]
    assert f"{FAST}=on is not used: --no-fast wins" in line
    assert f"{ENVIRONMENT_VARIABLE}=fork is not used" in line


@pytest.mark.parametrize("words", [["--api-key", "s3cret"], ["--", "--api-key=s3cret"]])
def test_the_key_is_not_logged(
    argv: list[str],
    executed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    launch.main([*argv, *words])
    behind = words[0] == "--"
    assert ("s3cret" in " ".join(executed["argv"])) == behind
    assert ("s3cret" in executed["environment"].values()) == (not behind)
    assert "s3cret" not in capsys.readouterr().err


def test_a_hub_name_stays_the_name_of_the_served_model(
    argv: list[str],
    executed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    target_folder: Path,
    head_folder: Path,
) -> None:
    folders = {"org/target": target_folder, "org/head": head_folder}
    asked = []

    def resolve(name: str, revision: str | None, what: str, *, only_config: bool = False) -> Path:
        asked.append((name, revision, "config" if only_config else what))
        return folders[name]

    monkeypatch.setattr(preflight.hub, "resolve", resolve)
    argv[3], argv[5] = "org/target", "org/head"
    launch.main([*argv, "--revision", "abc"])
    assert asked == [
        ("org/target", "abc", "config"), ("org/head", None, "head"),
        ("org/target", "abc", "target"),
    ], "a launch that cannot be must not cost a download of 160 GB"  # fmt: skip
    words = executed["argv"]
    assert words[words.index("--model-path") + 1] == str(target_folder)
    assert words[words.index("--served-model-name") + 1] == "org/target"
    assert "--revision" not in words, "the folder is the revision"


def test_the_head_s_own_ids_are_captured(
    argv: list[str], executed: dict[str, Any], head_folder: Path
) -> None:
    ids = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 23, 47]}}
    write_config(head_folder, {**SMALL_HEAD, **ids})
    launch.main(argv)
    assert executed["environment"][ENVIRONMENT_VARIABLE] == "output:1,23,47 allow-gdn"


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("output:3,23,48", "no layer 48"),
        ("output:2,23,47", "2 are GDN layers"),
        ("output:3,47", "2 named, the head's fc takes 3"),
    ],
)
def test_a_selection_that_does_not_fit_is_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str], selection: str, words: str
) -> None:
    assert words in error_of(capsys, *argv, "--aux-layers", selection)


def test_gdn_layers_are_captured_on_request(argv: list[str], executed: dict[str, Any]) -> None:
    launch.main([*argv, "--aux-layers", "output:2,23,47", "--allow-gdn-aux"])
    assert executed["environment"][ENVIRONMENT_VARIABLE] == "output:2,23,47 allow-gdn"


def test_a_head_of_another_target_is_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv[3] = str(write_config(tmp_path / "other", CODER_NEXT))
    assert "belongs to another target" in error_of(capsys, *argv)


def test_a_target_that_is_not_qwen3_next_is_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv[3] = str(write_config(tmp_path / "other", {**CODER_NEXT, "model_type": "llama"}))
    assert "of model_type 'llama', not 'qwen3_next'" in error_of(capsys, *argv)


def test_a_checkpoint_in_the_head_s_place_is_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv[5] = argv[3]
    assert "is not an EAGLE3 head" in error_of(capsys, *argv)


@pytest.mark.parametrize("option", ["--no-speculation", "--mtp"])
def test_without_a_head_none_is_resolved(
    argv: list[str],
    executed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    target_folder: Path,
    option: str,
) -> None:
    asked = []

    def resolve(name: str, revision: str | None, what: str, *, only_config: bool = False) -> Path:
        asked.append((name, "config" if only_config else what))
        return target_folder

    monkeypatch.setattr(preflight.hub, "resolve", resolve)
    argv[3] = "org/target"
    launch.main([*argv[:4], *argv[6:], option])
    assert asked == [("org/target", "config"), ("org/target", "target")]
    words = executed["argv"]
    assert words[words.index("--model-path") + 1] == str(target_folder)
    assert words[words.index("--served-model-name") + 1] == "org/target"
    assert "--speculative-draft-model-path" not in words
    assert ENVIRONMENT_VARIABLE not in executed["environment"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["b1"], ["capture"]),
        (["demo"], ["capture", "cpu_engine"]),
        (["demo", "--no-speculation"], ["capture", "cpu_engine"]),
    ],
)
def test_of_the_plugin_what_is_used_must_be_there(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    parts: list[str],
) -> None:
    required: list[list[str]] = []
    monkeypatch.setattr(contract, "require", required.append)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [])
    assert "SGLang would not find the plugin" in error_of(capsys, "--profile", *words)
    assert required == [parts]


def test_mtp_of_a_target_without_an_mtp_layer_is_refused(
    argv: list[str],
    capsys: pytest.CaptureFixture[str],
    executed: dict[str, Any],
    target_folder: Path,
) -> None:
    argv = [*argv[:4], *argv[6:], "--mtp"]
    tensors = {"model.norm.weight": np.zeros(8, np.float32)}
    save_file(tensors, target_folder / "model.safetensors")
    assert f"the target {target_folder} has no MTP layer (no tensor mtp.*)" in error_of(
        capsys, *argv
    )
    assert "has no MTP layer" in error_of(capsys, *argv, "--dry-run")
    launch.main([*argv, "--", "--load-format", "dummy"])
    assert executed.pop("argv"), "weights that are not loaded need not be there"
    save_file({"mtp.fc.weight": np.zeros(8, np.float32)}, target_folder / "model-2.safetensors")
    launch.main(argv)
    assert executed["argv"]


def test_the_demo_has_no_mtp_layer(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "--profile", "demo", "--mtp", "--port", str(free_port()))
    assert "has no MTP layer" in error
    assert "--no-speculation" in error


@pytest.mark.parametrize("option", ["--no-speculation", "--mtp"])
def test_this_machine_is_looked_at_without_a_head_too(
    argv: list[str], capsys: pytest.CaptureFixture[str], option: str
) -> None:
    argv = [*argv[:4], *argv[6:], option]
    assert "port '70000'" in error_of(capsys, *argv, "--", "--port", "70000")
    assert "not an address of this machine" in error_of(
        capsys, *argv, "--insecure", "--host", "no.such.host.invalid"
    )


def test_a_port_in_use_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        argv[-1] = str(other.getsockname()[1])
        assert "is another server running there?" in error_of(capsys, *argv)


def test_ports_and_hosts_that_are_none_are_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "port '70000'" in error_of(capsys, *argv, "--", "--port", "70000")
    assert "TP 'x'" in error_of(capsys, *argv, "--", "--tp", "x")


def test_a_plugin_that_is_filtered_out_is_refused(
    argv: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    executed: dict[str, Any],
) -> None:
    monkeypatch.setenv("SGLANG_PLUGINS", "other, more")
    assert "SGLANG_PLUGINS='other, more' keeps the plugin" in error_of(capsys, *argv)
    monkeypatch.setenv("SGLANG_PLUGINS", "other, qwen3next_eagle3")
    launch.main(argv)
    assert executed


def test_a_package_that_is_not_installed_is_refused(
    argv: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [])
    assert "SGLang would not find the plugin" in error_of(capsys, *argv)


@pytest.mark.parametrize(("damage", "told"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("what", ["target", "head", "hub"])
def test_files_that_are_not_whole_are_refused_before_anything_starts(
    argv: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    executed: dict[str, Any],
    damage: Callable[[Path], None],
    told: str,
    what: str,
) -> None:
    """hub: the snapshot in the cache is what is served of a hub name."""
    if what == "head":
        folder = tmp_path / "head"
        shard_head(folder, FIRST, SECOND)
    else:
        folder = write_sharded(tmp_path / "sharded")
        argv[3] = "org/target" if what == "hub" else str(folder)
    if what == "hub":
        places = {"org/target": folder, argv[5]: tmp_path / "head"}
        monkeypatch.setattr(preflight.hub, "resolve", lambda name, *_, **__: places[name])
    launch.main(argv)
    assert executed.pop("argv"), "whole, it is served"
    capsys.readouterr()
    executed.clear()
    damage(folder)
    assert told in error_of(capsys, *argv)
    assert not executed


def test_random_weights_need_no_files(
    argv: list[str], capsys: pytest.CaptureFixture[str], executed: dict[str, Any], tmp_path: Path
) -> None:
    argv[3] = str(write_config(tmp_path / "config-only", SMALL_TARGET))
    assert "config-only has no .safetensors file" in error_of(capsys, *argv)
    launch.main([*argv, "--", "--load-format", "dummy"])
    assert executed["argv"]


@pytest.mark.parametrize(("content", "told"), [(POINTER, "a git LFS pointer"), (b"", "is empty")])
@pytest.mark.parametrize("what", [3, 5])
def test_a_config_that_is_not_there_is_told(
    argv: list[str], capsys: pytest.CaptureFixture[str], content: bytes, told: str, what: int
) -> None:
    (Path(argv[what]) / "config.json").write_bytes(content)
    assert f"config.json is {told.removeprefix('is ')}" in error_of(capsys, *argv)
    assert f"config.json is {told.removeprefix('is ')}" in error_of(capsys, *argv, "--dry-run")


def test_offline_mode_is_honoured(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = error_of(capsys, *argv, "--target", "nobody/absent-target")
    assert "target nobody/absent-target is not in the local cache" in error
    error = error_of(capsys, *argv, "--head", "nobody/absent-head")
    assert "head nobody/absent-head is not in the local cache" in error


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("--profile ~no-such-user/x.yaml", "no profile file ~no-such-user/x.yaml"),
        ("--profile demo --target ~no-such-user/x", "there is no folder ~no-such-user/x"),
        ("--profile demo -- --config ~no-such-user/x.yaml", "there is no such .yaml file"),
    ],
)
def test_the_home_of_a_user_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], words: str, cause: str
) -> None:
    before, dashes, behind = words.partition(" -- ")
    assert cause in error_of(capsys, *before.split(), "--dry-run", *dashes.split(), *behind.split())


DEEP = "[" * 50_000
DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--json-model-override-args", '{"quantization_config": "fp8"}'], "an object is needed"),
        (["--json-model-override-args", '{"layer_types": 3}'], "a list of names is needed"),
        (["--json-model-override-args", '{"max_seq_len": Infinity}'], "not a possible number"),
        (["--json-model-override-args", '{"rope_scaling": {"factor": NaN}}'], "possible number"),
        (["--json-model-override-args", DEEP], "it is nested too deeply"),
        (["--extra-metric-labels", DEEP], "JSON is needed"),
        (["--tp-size", DIGITS], "a whole number of ranks from 1"),
        (["--port", DIGITS], "a number from 1 to 65535"),
        (["--context-length", DIGITS], "a number of tokens, as 131072"),
        (["--tokenizer-worker-num", DIGITS], "a whole number"),
        (["--speculative-num-draft-tokens", DIGITS], "write steps,topk,draft-tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_odd_values_are_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], cause: str
) -> None:
    assert cause in error_of(capsys, "--profile", "b1", "--dry-run", "--", *words)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"quantization_config": "fp8"}, "an object is needed"),
        ({"layer_types": 3}, "a list of names is needed"),
    ],
)
def test_an_odd_config_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: dict[str, Any], cause: str
) -> None:
    write_config(tmp_path, {**CODER_NEXT, **change})
    words = ["--profile", "b1", "--no-speculation", "--dry-run"]
    assert cause in error_of(capsys, *words, "--target", str(tmp_path))


def test_a_config_that_is_nested_too_deeply_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(DEEP)
    (tmp_path / "profile.yaml").write_text("target: " + "[" * 5000)
    (tmp_path / "digits.yaml").write_text(f"tp: {DIGITS}")
    words = ["--dry-run", "--profile"]
    assert "nested too deeply" in error_of(capsys, *words, "b1", "--target", str(tmp_path))
    assert "nested too deeply" in error_of(capsys, *words, str(tmp_path / "profile.yaml"))
    assert "is not YAML" in error_of(capsys, *words, str(tmp_path / "digits.yaml"))
