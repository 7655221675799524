import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.overlay import contract, environment
from sglang_qwen3next_eagle3.overlay.fast import trials
from sglang_qwen3next_eagle3.serving import refusals
from tests.support.checkpoints import CODER_NEXT, FP8, SMALL_HEAD, SMALL_TARGET, write_config
from tests.support.launching import dry_run, error_of, without_switches


def test_the_printed_command_is_ready_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--profile", "demo", "--dry-run", "--", "--log-level", "a b"]) == 0
    printed = capsys.readouterr().out
    shell = "env() { printf '%s\\n' \"$@\"; }; python() { printf '%s\\n' \"$@\"; }\n" + printed
    words = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert words.splitlines()[:2] == ["-m", "sglang.launch_server"]
    assert words.splitlines()[-2:] == ["--log-level", "a b"]
    assert "SGLANG_USE_CPU_ENGINE=1" in printed


def test_flags_after_the_dashes_come_last(capsys: pytest.CaptureFixture[str]) -> None:
    data = dry_run(capsys, "--profile", "b1", "--tp", "2", "--", "--port", "1", "--log-requests")
    assert data["argv"][-3:] == ["--port", "1", "--log-requests"]
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
    assert without_switches(data) == {ENVIRONMENT_VARIABLE: "fork"}


def test_without_a_selection_the_rule_is_left_to_the_plugin(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert without_switches(dry_run(capsys, "--profile", "b1")) == {}


def test_local_checkpoints_are_looked_into_by_a_dry_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = write_config(tmp_path / "t", SMALL_TARGET)
    head = write_config(tmp_path / "h", {**SMALL_HEAD, "max_position_embeddings": 4096})
    data = dry_run(capsys, "--profile", "b1", "--target", str(target), "--head", str(head))
    assert without_switches(data) == {ENVIRONMENT_VARIABLE: "card", refusals.LONGER_CONTEXT: "1"}
    assert any("context of 4096, 262144 is served" in note for note in data["notes"])


def test_a_shorter_context_needs_no_override(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = write_config(tmp_path / "t", SMALL_TARGET)
    head = write_config(tmp_path / "h", {**SMALL_HEAD, "max_position_embeddings": 4096})
    argv = ("--profile", "b1", "--target", str(target), "--head", str(head))
    data = dry_run(capsys, *argv, "--", "--context-length", "4096")
    assert refusals.LONGER_CONTEXT not in data["environment"]


def test_an_explicit_quantization_spares_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    data = dry_run(capsys, "--profile", "b1", "--", "--quantization", "fp8")
    assert data["argv"][-2:] == ["--speculative-draft-model-quantization", "unquant"]
    assert any("target only" in note for note in data["notes"])
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


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        (None, "SGLang is not installed: pip install 'sglang-qwen3next-eagle3[serve]'"),
        (contract.Installed("0.5.20", Path("x")), "SGLang 0.5.20 is not supported: install one of"),
        (contract.Installed("0.5.17", Path("x")), "is not what this package hooks"),
    ],
    ids=["absent", "unknown release", "changed source"],
)
def test_an_sglang_that_is_not_a_reviewed_one_is_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    installed: contract.Installed | None,
    words: str,
) -> None:
    monkeypatch.setattr(contract, "installed_sglang", lambda: installed)
    error = error_of(capsys, "--profile", "b1")
    assert words in error
    assert "0.5.17, 0.5.23" in error


@pytest.mark.parametrize(("flag", "value"), [("--fast", "on"), ("--no-fast", "off")])
def test_the_fast_path_is_told_to_the_plugin(
    capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    data = dry_run(capsys, "--profile", "h200-fp8", flag)
    assert data["environment"][environment.FAST] == value


def test_without_a_word_the_environment_decides_on_the_fast_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.FAST, "off")
    assert environment.FAST not in dry_run(capsys, "--profile", "b1")["environment"]


def test_a_profile_asks_for_the_fast_path_and_the_option_wins(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    text = (data_dir("launch") / "h200-fp8.yaml").read_text()
    own.write_text(f"{text}fast: true\n" if "\nfast:" not in text else text)
    assert dry_run(capsys, "--profile", str(own))["environment"][environment.FAST] == "on"
    off = dry_run(capsys, "--profile", str(own), "--no-fast")
    assert off["environment"][environment.FAST] == "off"


@pytest.mark.parametrize(("flag", "value"), [("--seams", "on"), ("--no-seams", "off")])
def test_the_seams_are_told_to_the_plugin(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str, value: str
) -> None:
    planned = dry_run(capsys, "--profile", "h200-fp8", flag)
    assert planned["environment"][environment.SEAMS] == value
    own = tmp_path / "own.yaml"
    own.write_text((data_dir("launch") / "h200-fp8.yaml").read_text() + "seams: true\n")
    assert dry_run(capsys, "--profile", str(own))["environment"][environment.SEAMS] == "on"


def test_seams_on_a_cpu_are_refused_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "--profile", "demo", "--seams")
    assert "serves on a CPU" in error
    assert "--no-seams" in error


@pytest.mark.parametrize("ranks", ["1", "2", "4"])
def test_the_fast_path_on_several_ranks(capsys: pytest.CaptureFixture[str], ranks: str) -> None:
    planned = dry_run(capsys, "--profile", "b1", "--fast", "--tp", ranks)
    assert planned["environment"][environment.FAST] == "on"


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("--profile", "b1", "--fast", "--tp", "8"), "a TP of 1, 2, 4, not 8"),
        (("--profile", "h200-fp8", "--fast", "--", "--tensor-parallel-size=3"), "not 3"),
        (("--profile", "h200-fp8", "--fast", "--", "--pp-size", "2"), "PP is 2"),
        (("--profile", "demo", "--fast"), "for GPUs, and this profile serves on a CPU"),
        (
            ("--profile", "h200-fp8", "--fast", "--allow-attention-backend",
             "--", "--attention-backend", "fa3"),
            "the attention backend triton, not fa3",
        ),
    ],
)  # fmt: skip
def test_the_fast_path_where_it_cannot_be_is_refused_with_the_way_out(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], reason: str
) -> None:
    error = error_of(capsys, *argv)
    assert reason in error
    assert "--no-fast" in error


def own_profile(tmp_path: Path, line: str, name: str = "h200-fp8") -> str:
    own = tmp_path / "own.yaml"
    data = yaml.safe_load((data_dir("launch") / f"{name}.yaml").read_text())
    own.write_text(yaml.safe_dump(data | (yaml.safe_load(line) or {})))
    return str(own)


@pytest.mark.parametrize(
    ("variable", "flag", "line", "value"),
    [
        (environment.FAST, ("--fast", "on,head"), "fast: [on, head]", "on,head"),
        (environment.FAST, ("--fast", "on,head_w8"), "fast: [on, head_w8]", "on,head_w8"),
        (environment.FAST, ("--fast=require",), "fast: require", "require"),
        (environment.FAST, ("--fast=gdn,moe,head",), "fast: [gdn, moe, head]", "gdn,moe,head"),
        (environment.FAST, ("--fast",), "fast: on", "on"),
        (environment.FAST, ("--no-fast",), "fast: off", "off"),
        (environment.SEAMS, ("--seams", "chain,slots"), "seams: [chain, slots]", "chain,slots"),
        (environment.SEAMS, ("--seams=cycle",), "seams: cycle", "cycle"),
        (environment.SEAMS, ("--no-seams",), "seams: off", "off"),
    ],
)
def test_stages_and_seams_are_named_by_an_option_and_by_a_profile(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    variable: str,
    flag: tuple[str, ...],
    line: str,
    value: str,
) -> None:
    by_option = dry_run(capsys, "--profile", "h200-fp8", *flag)["environment"]
    by_profile = dry_run(capsys, "--profile", own_profile(tmp_path, line))["environment"]
    assert by_option[variable] == by_profile[variable] == value
    contrary = f"{line.partition(':')[0]}: {'on' if value == 'off' else 'off'}"
    mixed = dry_run(capsys, "--profile", own_profile(tmp_path, contrary), *flag)["environment"]
    assert mixed[variable] == value


UNKNOWN_STAGE = "'turbo' is not one of on, off, auto, require and the stages dense, moe"
UNKNOWN_SEAM = "'turbo' is not one of on, off, auto and the seams requests, commit"


@pytest.mark.parametrize(
    ("words", "line", "set_here", "said"),
    [
        (("--fast", "on,turbo"), "", {}, f"--fast on,turbo: {UNKNOWN_STAGE}"),
        (("--fast=",), "", {}, "--fast: it names nothing"),
        ((), "fast: [on, turbo]", {}, f"fast: on,turbo: {UNKNOWN_STAGE}"),
        ((), "fast: []", {}, "fast: say on, off, or which, as a list"),
        ((), "fast: 3", {}, "fast: say on, off, or which, as a list"),
        ((), "", {environment.FAST: "turbo"}, f"{environment.FAST}=turbo: {UNKNOWN_STAGE}"),
        (
            (),
            f"environment: {{{environment.FAST}: turbo}}",
            {},
            f"{environment.FAST}=turbo: {UNKNOWN_STAGE}",
        ),
        (
            (),
            "",
            {trials.TRY: "wide,turbo"},
            f"{trials.TRY}=wide,turbo: 'turbo' is not one of rows, wide",
        ),
        (("--seams", "turbo"), "", {}, f"--seams turbo: {UNKNOWN_SEAM}"),
        (("--seams=",), "", {}, "--seams: it names nothing"),
        ((), "seams: [turbo]", {}, f"seams: turbo: {UNKNOWN_SEAM}"),
        ((), "seams: ''", {}, "seams: say on, off, or which, as a list"),
        ((), "", {environment.SEAMS: "turbo"}, f"{environment.SEAMS}=turbo: {UNKNOWN_SEAM}"),
    ],
)
def test_an_unknown_stage_or_seam_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    line: str,
    set_here: dict[str, str],
    said: str,
) -> None:
    for name, value in set_here.items():
        monkeypatch.setenv(name, value)
    error = error_of(capsys, "--profile", own_profile(tmp_path, line, "b1"), *words, "--dry-run")
    assert said in error


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--mtp",), "the stage head is the EAGLE3 head's, and this server has none"),
        (("--no-speculation",), "the stage head is the EAGLE3 head's, and this server has none"),
    ],
)
def test_the_stage_head_where_it_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    asked = ("--profile", "h200-fp8", *words, "--dry-run")
    assert reason in error_of(capsys, *asked, "--fast", "on,head")
    rounded = reason.replace("stage head", "stage head_w8")
    assert rounded in error_of(capsys, *asked, "--fast", "on,head_w8")
    for line, said in (("fast: [on, head]", reason), ("fast: [dense, head_w8]", rounded)):
        own = own_profile(tmp_path, line)
        assert said in error_of(capsys, "--profile", own, *asked[2:])
    assert environment.FAST in dry_run(capsys, *asked[:-1], "--fast")["environment"]


def test_the_stage_head_follows_our_costs_and_not_sglang_s_rule(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("--profile", "h200-fp8", "--tree", "3,1,4", "--fast", "on,head")
    error = error_of(capsys, *asked, "--dry-run", "--", "--speculative-adaptive")
    assert "the stage head does not go with steps that follow SGLang's own rule" in error
    ours = ("--profile", "auto", "--adaptive", "measured", "--fast", "on,head")
    assert dry_run(capsys, *ours)["environment"][environment.FAST] == "on,head"


@pytest.mark.parametrize(
    ("option", "line", "reason"),
    [
        (
            ("--seams", "on,sampled"),
            "seams: [on, sampled]",
            "seams: sampled is for one GPU, and TP is 2",
        ),
        (
            ("--seams=sampled,cycle",),
            f"environment: {{{environment.SEAMS}: 'cycle,sampled'}}",
            "seams: sampled is for one GPU, and TP is 2",
        ),
        (
            ("--fast", "allreduce"),
            "fast: allreduce",
            "the stage allreduce is for sums around experts that are ours: name moe, too",
        ),
        (
            ("--fast=dense,allreduce",),
            f"environment: {{{environment.FAST}: 'allreduce,dense'}}",
            "the stage allreduce is for sums around experts that are ours: name moe, too",
        ),
    ],
)
def test_what_would_be_dropped_on_several_gpus_is_refused(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    option: tuple[str, ...],
    line: str,
    reason: str,
) -> None:
    own = own_profile(tmp_path, line)
    for words in (("--tp", "2"), ("--", "--tensor-parallel-size=2")):
        for asked in (("--profile", "h200-fp8", *option), ("--profile", own)):
            assert reason in error_of(capsys, *asked, "--dry-run", *words)
    if "seams" in reason:
        dry_run(capsys, "--profile", "h200-fp8", *option)
    dry_run(capsys, "--profile", "h200-fp8", "--seams", "on", "--fast", "moe", "--tp", "2")
    dry_run(capsys, "--profile", "h200-fp8", "--fast", "allreduce,moe", "--tp", "2")


def test_trials_of_a_fast_path_that_nobody_asks_for_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.FAST, raising=False)
    reason = f"{trials.TRY}: what it tries is the fast path's, and nothing asks for that"
    own = own_profile(tmp_path, f"environment: {{{trials.TRY}: wide}}")
    assert reason in error_of(capsys, "--profile", own, "--dry-run")
    for words in (("--fast",), ("--no-fast",)):
        dry_run(capsys, "--profile", own, *words)
    monkeypatch.setenv(trials.TRY, "wide")
    assert reason in error_of(capsys, "--profile", "b1", "--dry-run")
    monkeypatch.setenv(environment.FAST, "on")
    dry_run(capsys, "--profile", "b1")


def test_sums_over_ranks_want_several(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--profile", "b1", "--fast", "on,allreduce", "--dry-run", "--tp")
    assert "adds up what several GPUs have" in error_of(capsys, *asked, "1")
    planned = dry_run(capsys, *asked[:4], "--tp", "2")
    assert planned["environment"][environment.FAST] == "on,allreduce"


def test_what_the_environment_requires_is_refused_and_what_it_asks_for_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.FAST, "on")
    dry_run(capsys, "--profile", "demo")
    monkeypatch.setenv(environment.FAST, "require")
    assert "serves on a CPU" in error_of(capsys, "--profile", "demo", "--dry-run")


@pytest.mark.parametrize(
    ("lacks", "noted"), [((), []), (("seams",), ["seams"]), (("fast", "seams"), ["fast", "seams"])]
)
def test_what_a_release_serves_without_is_told(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lacks: tuple[str, ...],
    noted: list[str],
) -> None:
    read = contract.read_manifest

    def lacking(release: str) -> contract.ReleaseManifest:
        whole = read(release)
        left = tuple(symbol for symbol in whole.symbols if symbol.part not in lacks)
        return replace(whole, symbols=left)

    installed = contract.Installed("0.5.17", Path("x"))
    monkeypatch.setattr(contract, "installed_sglang", lambda: installed)
    monkeypatch.setattr(contract, "read_manifest", lacking)
    found = dry_run(capsys, "--profile", "b1", "--fast", "--seams")["notes"]
    told = [note for note in found if "not for SGLang 0.5.17, which serves without" in note]
    assert [note.split(": ")[1] for note in told] == noted


@pytest.mark.parametrize(
    ("release", "asked", "noted"),
    [
        ("0.5.23", ("--fast", "--seams"), ["fast", "seams"]),
        ("0.5.23", ("--seams", "chain"), ["seams"]),
        ("0.5.23", (), []),
        ("0.5.17", ("--fast", "--seams"), []),
    ],
)
def test_what_no_gpu_has_run_with_a_release_is_told(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    release: str,
    asked: tuple[str, ...],
    noted: list[str],
) -> None:
    monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed(release, Path()))
    found = dry_run(capsys, "--profile", "b1", *asked)["notes"]
    told = [note for note in found if "no GPU has run them with SGLang" in note]
    assert [note.split(": ")[1] for note in told] == noted


def test_caches_that_are_no_folder_are_refused_by_a_dry_run_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    dry = ("--profile", "b1", "--dry-run", "--caches")
    assert "is a file, a folder is needed" in error_of(capsys, *dry, str(file))
    assert "the name of a folder is needed" in error_of(capsys, *dry, "")
