import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import launch, preflight
from sglang_qwen3next_eagle3.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.overlay import contract
from tests.conftest import (
    CODER_NEXT,
    FP8,
    SMALL_HEAD,
    SMALL_TARGET,
    write_config,
)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a supported SGLang were there, with the plugin visible."""
    monkeypatch.setattr(contract, "require", lambda parts: None)
    monkeypatch.delenv("SGLANG_PLUGINS", raising=False)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would have replaced this process."""
    seen: dict[str, Any] = {}

    def record(file: str, argv: list[str], environment: dict[str, str]) -> None:
        seen.update(file=file, argv=argv, environment=environment)

    monkeypatch.setattr("os.execvpe", record)
    return seen


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert launch.main(list(argv)) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, "one line"
    return printed.err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def dry_run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert launch.main([*argv[:2], "--dry-run", "--json", *argv[2:]]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_dry_run_imports_neither_torch_nor_sglang() -> None:
    script = (
        "import sys; from sglang_qwen3next_eagle3 import launch;"
        "assert launch.main(['--profile', 'b1', '--dry-run']) == 0;"
        "print(sorted({'torch', 'sglang', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines()[-1] == "[]"


def test_the_printed_command_is_ready_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--profile", "demo", "--dry-run", "--", "--log-level", "a b"]) == 0
    printed = capsys.readouterr().out
    shell = "env() { printf '%s\\n' \"$@\"; }; python() { printf '%s\\n' \"$@\"; }\n" + printed
    words = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert words.splitlines()[:2] == ["-m", "sglang.launch_server"]
    assert words.splitlines()[-2:] == ["--log-level", "a b"]
    assert "SGLANG_USE_CPU_ENGINE=1" in printed


def test_flags_after_the_dashes_come_last(capsys: pytest.CaptureFixture[str]) -> None:
    data = dry_run(capsys, "--profile", "b1", "--tp", "2", "--", "--port", "1", "--new-flag")
    assert data["argv"][-3:] == ["--port", "1", "--new-flag"]
    assert data["argv"][data["argv"].index("--tp") + 1] == "2"


def test_options_replace_the_profile_s_values(capsys: pytest.CaptureFixture[str]) -> None:
    data = dry_run(
        capsys, "--profile", "b1", "--target", "a/b", "--head", "c/d", "--revision", "r1",
        "--head-revision", "r2", "--port", "7", "--aux-layers", "fork",
    )  # fmt: skip
    text = " ".join(data["argv"])
    assert "--model-path a/b --revision r1" in text
    assert "--speculative-draft-model-path c/d --speculative-draft-model-revision r2" in text
    assert "--port 7" in text
    assert data["environment"] == {ENVIRONMENT_VARIABLE: "fork"}


def test_without_a_selection_the_rule_is_left_to_the_plugin(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dry_run(capsys, "--profile", "b1")["environment"] == {}


def test_local_checkpoints_are_looked_into_by_a_dry_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = write_config(tmp_path / "t", SMALL_TARGET)
    head = write_config(tmp_path / "h", {**SMALL_HEAD, "max_position_embeddings": 4096})
    data = dry_run(capsys, "--profile", "b1", "--target", str(target), "--head", str(head))
    assert data["environment"] == {ENVIRONMENT_VARIABLE: "card", preflight.LONGER_CONTEXT: "1"}
    assert any("context of 4096, 262144 is served" in note for note in data["notes"])


def test_a_shorter_context_needs_no_override(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = write_config(tmp_path / "t", SMALL_TARGET)
    head = write_config(tmp_path / "h", {**SMALL_HEAD, "max_position_embeddings": 4096})
    argv = ("--profile", "b1", "--target", str(target), "--head", str(head))
    data = dry_run(capsys, *argv, "--", "--context-length", "4096")
    assert preflight.LONGER_CONTEXT not in data["environment"]


def test_an_explicit_quantization_spares_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    data = dry_run(capsys, "--profile", "b1", "--", "--quantization", "fp8")
    assert data["argv"][-2:] == ["--speculative-draft-model-quantization", "unquant"]
    assert "target only" in data["notes"][0]
    own = ("--speculative-draft-model-quantization", "fp8")
    data = dry_run(capsys, "--profile", "b1", "--", "--quantization", "fp8", *own)
    assert "unquant" not in data["argv"]


def test_profiles_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--list"]) == 0
    assert "b32-wide  Chat load" in capsys.readouterr().out
    assert launch.main(["--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["b1"]["tree"]["draft-tokens"] == 8


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_listening_beyond_this_machine_needs_a_key(
    capsys: pytest.CaptureFixture[str], host: str
) -> None:
    assert "pass --api-key" in error_of(capsys, "--profile", "b1", "--host", host)
    assert "pass --api-key" in error_of(capsys, "--profile", "b1", "--", "--host", host)
    assert dry_run(capsys, "--profile", "b1", "--host", host, "--insecure")
    assert dry_run(capsys, "--profile", "b1", "--host", host, "--api-key", "k")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_this_machine_needs_no_key(capsys: pytest.CaptureFixture[str], host: str) -> None:
    assert dry_run(capsys, "--profile", "b1", "--host", host)


def test_another_attention_backend_is_refused_with_the_card_s_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ("--profile", "b1", "--", "--attention-backend", "fa3")
    error = error_of(capsys, *argv)
    assert "attention backend fa3: the model card names Triton" in error
    assert "--allow-attention-backend" in error
    assert dry_run(capsys, "--profile", "b1", "--allow-attention-backend", *argv[2:])


def test_fp8_at_tp_8_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = write_config(tmp_path / "fp8", {**CODER_NEXT, "quantization_config": FP8})
    argv = ("--profile", "h200-fp8", "--target", str(target))
    for tp in (("--tp", "8"), ("--", "--tp-size", "8"), ("--", "--tensor-parallel-size=8")):
        error = error_of(capsys, *argv, *tp)
        assert "512 / TP 8 = 64 is not divisible by the FP8 block of 128" in error
        assert "use --tp 1 or 2 or 4" in error


def test_missing_profiles_and_checkpoints_are_named(
    capsys: pytest.CaptureFixture[str], target_folder: Path
) -> None:
    assert "which profile?" in error_of(capsys)
    assert "no profile 'b3'" in error_of(capsys, "--profile", "b3")
    assert "there is no folder ./gone" in error_of(
        capsys, "--profile", "b1", "--target", "./gone", "--dry-run"
    )
    assert "head: there is no folder /gone" in error_of(
        capsys, "--profile", "b1", "--head", "/gone", "--dry-run"
    )


@pytest.mark.usefixtures("installed")
class TestForReal:
    @pytest.fixture
    def argv(self, target_folder: Path, head_folder: Path) -> list[str]:
        return [
            "--profile", "b1", "--target", str(target_folder), "--head", str(head_folder),
            "--port", str(free_port()),
        ]  # fmt: skip

    def test_sglang_takes_the_place_of_the_launcher(
        self, argv: list[str], executed: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        launch.main([*argv, "--", "--log-level", "debug"])
        assert executed["file"] == sys.executable
        assert executed["argv"][:3] == [sys.executable, "-m", "sglang.launch_server"]
        assert executed["argv"][-2:] == ["--log-level", "debug"]
        assert executed["environment"][ENVIRONMENT_VARIABLE] == "card"
        assert "PATH" in executed["environment"], "the caller's environment is kept"
        assert "auxiliary hidden states: output:3,23,47 (card)" in capsys.readouterr().err

    def test_a_hub_name_stays_the_name_of_the_served_model(
        self,
        argv: list[str],
        executed: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        target_folder: Path,
        head_folder: Path,
    ) -> None:
        folders = {"org/target": target_folder, "org/head": head_folder}
        asked = []

        def resolve(
            name: str, revision: str | None, what: str, *, only_config: bool = False
        ) -> Path:
            asked.append((name, revision, "config" if only_config else what))
            return folders[name]

        monkeypatch.setattr(preflight.hub, "resolve", resolve)
        argv[3], argv[5] = "org/target", "org/head"
        launch.main([*argv, "--revision", "abc"])
        assert asked == [
            ("org/head", None, "head"), ("org/target", "abc", "config"),
            ("org/target", "abc", "target"),
        ], "a launch that cannot be must not cost a download of 160 GB"  # fmt: skip
        words = executed["argv"]
        assert words[words.index("--model-path") + 1] == str(target_folder)
        assert words[words.index("--served-model-name") + 1] == "org/target"
        assert "--revision" not in words, "the folder is the revision"

    def test_the_head_s_own_ids_are_captured(
        self, argv: list[str], executed: dict[str, Any], head_folder: Path
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
        self, argv: list[str], capsys: pytest.CaptureFixture[str], selection: str, words: str
    ) -> None:
        assert words in error_of(capsys, *argv, "--aux-layers", selection)

    def test_gdn_layers_are_captured_on_request(
        self, argv: list[str], executed: dict[str, Any]
    ) -> None:
        launch.main([*argv, "--aux-layers", "output:2,23,47", "--allow-gdn-aux"])
        assert executed["environment"][ENVIRONMENT_VARIABLE] == "output:2,23,47 allow-gdn"

    def test_a_head_of_another_target_is_refused(
        self, argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        argv[3] = str(write_config(tmp_path / "other", CODER_NEXT))
        assert "belongs to another target" in error_of(capsys, *argv)

    def test_a_target_that_is_not_qwen3_next_is_refused(
        self, argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        argv[3] = str(write_config(tmp_path / "other", {**CODER_NEXT, "model_type": "llama"}))
        assert "of model_type 'llama', not 'qwen3_next'" in error_of(capsys, *argv)

    def test_a_checkpoint_in_the_head_s_place_is_refused(
        self, argv: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        argv[5] = argv[3]
        assert "is not an EAGLE3 head" in error_of(capsys, *argv)

    def test_a_port_in_use_is_refused(
        self, argv: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            argv[-1] = str(other.getsockname()[1])
            assert "is another server running there?" in error_of(capsys, *argv)

    def test_ports_and_hosts_that_are_none_are_refused(
        self, argv: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "port '70000'" in error_of(capsys, *argv, "--", "--port", "70000")
        assert "TP 'x'" in error_of(capsys, *argv, "--", "--tp", "x")

    def test_a_plugin_that_is_filtered_out_is_refused(
        self,
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
        self,
        argv: list[str],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [])
        assert "SGLang would not find the plugin" in error_of(capsys, *argv)


@pytest.mark.usefixtures("installed")
def test_offline_mode_is_honoured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    argv = ("--profile", "b1", "--port", str(free_port()))
    error = error_of(capsys, *argv, "--head", "nobody/absent-head")
    assert "head nobody/absent-head is not in the local cache" in error
