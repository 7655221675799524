"""`doctor` as it is typed, and what `launch` asks of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.serving.doctor import host, ours
from sglang_qwen3next_eagle3.serving.doctor.host import Host
from sglang_qwen3next_eagle3.serving.gpus import Gpus
from tests.support.hosts import h200
from tests.support.proofs import as_it_was_proved
from tests.support.server import free_port

pytestmark = pytest.mark.usefixtures("installed")
Becomes = Callable[[Host], None]
NO_GPU = h200(gpus=Gpus(), has_device=False)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def becomes(monkeypatch: pytest.MonkeyPatch) -> Becomes:
    """Let the machine be another."""

    def set_to(machine: Host) -> None:
        monkeypatch.setattr(host, "probe", lambda whole=True: machine)

    return set_to


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    port = ["--port", str(free_port())] if "--profile" in words else []
    at = words.index("--") if "--" in words else len(words)
    status = main(["doctor", "--json", *words[:at], *port, *words[at:]])
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert data["status"] == status
    return status, data


def of(data: dict[str, Any], subject: str) -> dict[str, Any]:
    return next(found for found in data["findings"] if found["subject"] == subject)


def test_a_good_machine_and_a_profile_are_fine(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = asked(capsys, "--profile", "b1")
    assert status == 0, [found for found in data["findings"] if found["level"] != "note"]
    plan = data["plan"]
    assert plan["max_running_requests"] == 48
    assert plan["longest_request"] == 262144
    assert plan["bytes"]["weights"] == pytest.approx(37.18 * 2**30, rel=0.001)
    assert any(choice["flag"] == "--kv-cache-dtype fp8_e4m3" for choice in plan["choices"])


def test_a_plan_says_whose_arithmetic_it_is_where_another_release_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(release: str) -> list[str]:
        monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed(release, here))
        _, data = asked(capsys, "--profile", "b1", "--gpu", "H200")
        return [found["text"] for found in data["findings"] if "its pools" in found["text"]]

    here = Path()
    monkeypatch.setattr(ours, "_no_fast_path", lambda *_: "it is not asked about here")
    assert told("0.5.17") == []
    assert told("0.5.99") == ["as SGLang 0.5.17 sizes its pools; 0.5.99 was not compared"]


def test_the_demo_pair_is_read_whole(becomes: Becomes, capsys: pytest.CaptureFixture[str]) -> None:
    becomes(NO_GPU)
    status, data = asked(capsys, "--profile", "demo")
    assert status == 0
    assert "456 tensors in one file, whole" in of(data, "checkpoint")["text"]
    assert of(data, "tokenizer")["level"] == "note"
    assert "fits the target" in of(data, "head")["text"]
    assert data["plan"]["max_total_num_tokens"] == 32768
    assert data["plan"]["max_running_requests"] == 8


def test_the_machine_alone_misses_nothing(
    becomes: Becomes, capsys: pytest.CaptureFixture[str]
) -> None:
    becomes(NO_GPU)
    status, data = asked(capsys)
    assert status == 0
    assert "plan" not in data
    assert of(data, "gpus")["level"] == "note"


def test_a_profile_for_gpus_on_a_laptop_is_an_error_with_a_plan_for_its_hardware(
    becomes: Becomes, capsys: pytest.CaptureFixture[str]
) -> None:
    becomes(NO_GPU)
    status, data = asked(capsys, "--profile", "b1")
    assert status == 2
    assert of(data, "gpus")["level"] == "error"
    assert "H200" in data["plan"]["basis"]
    status, data = asked(capsys, "--profile", "b1", "--gpu", "H100")
    assert status == 0, "the plan is for another machine"
    assert data["plan"]["bytes"]["before_weights"] < 80 * 2**30
    subjects = {found["subject"] for found in data["findings"]}
    assert not subjects & {"sglang", "plugin", "gpus", "port"}, "these are this machine's"


def test_what_memory_does_not_hold_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = asked(capsys, "--profile", "h200-fp8", "--gpu", "H100")
    assert status == 2
    assert "leave no room" in of(data, "memory-plan")["text"]
    assert data["plan"]["fits"] is False


def test_requests_that_wait_are_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = asked(capsys, "--profile", "h200-fp8", "--", "--max-running-requests", "256")
    assert status == 1
    found = of(data, "memory-plan")
    assert "of 256 asked for: GDN states" in found["text"]
    assert found["means"]
    assert found["remedy"]


def test_options_that_launch_refuses_are_told_with_the_same_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--profile", "h200-fp8", "--tp", "8"]
    status, data = asked(capsys, *words)
    assert status == 2
    assert launch.main([*words, "--dry-run"]) == 2
    assert of(data, "options")["text"] in capsys.readouterr().err


def test_a_port_in_use_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["doctor", "--json", "--profile", "b1", "--port", str(port)]) == 2
    assert "another server" in of(json.loads(capsys.readouterr().out), "port")["text"]


@pytest.mark.parametrize("content", [None, "", "two words\nand lines\n"])
def test_a_key_that_launch_could_not_read_is_an_error(
    becomes: Becomes, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None
) -> None:
    becomes(NO_GPU)
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    words = ["--profile", "demo", "--api-key-file", str(file)]
    status, data = asked(capsys, *words)
    assert status == 2
    assert of(data, "keys")["level"] == "error"
    assert launch.main(words) == 2
    assert of(data, "keys")["text"] in capsys.readouterr().err
    _, elsewhere = asked(capsys, *words, "--gpu", "H200")
    assert not [found for found in elsewhere["findings"] if found["subject"] == "keys"]


def test_an_unknown_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--profile", "b1", "--gpu", "potato"]) == 2
    assert "H200" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_whole(
    target_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (weights,) = target_folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-3])
    words = ["--profile", "b1", "--target", str(target_folder)]
    status, data = asked(capsys, *words, "--no-speculation")
    assert status == 2
    assert "truncated" in of(data, "checkpoint")["text"]
    status, data = asked(capsys, *words)
    assert "belongs to another target" in of(data, "options")["text"], "that is not all"
    assert "truncated" in of(data, "checkpoint")["text"]


def test_a_target_without_tokenizer_and_template(
    target_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--profile", "b1", "--target", str(target_folder), "--no-speculation"]
    _, data = asked(capsys, *words)
    assert of(data, "tokenizer")["level"] == "error"
    (target_folder / "tokenizer.json").write_text("{}")
    _, data = asked(capsys, *words)
    assert of(data, "chat-template")["level"] == "warning"
    (target_folder / "chat_template.jinja").write_text("{{ messages }}")
    _, data = asked(capsys, *words)
    assert of(data, "tokenizer")["level"] == "note"


def test_a_variable_that_a_profile_overrules_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variables.FAST, "on")
    stock = Path(__file__).resolve().parents[3] / "benchmarks/fast-path/stock-314.yaml"
    for words, status, level, text in (
        ((str(stock),), 1, "warning", "stock-314.yaml says fast: off"),
        # That is what was asked for.
        (("h200-fp8", "--no-fast"), 0, "note", "--no-fast wins"),
    ):
        ended, data = asked(capsys, "--profile", *words)
        (found,) = [one for one in data["findings"] if "not used" in one["text"]]
        assert (ended, found["subject"], found["level"]) == (status, "launch", level)
        assert f"{variables.FAST}=on is not used: {text}" in found["text"]
    status, data = asked(capsys, "--profile", "h200-fp8", "--fast")
    assert status == 0
    assert not [one for one in data["findings"] if "not used" in one["text"]]


@pytest.mark.parametrize(
    ("words", "level", "said"),
    [
        (["--profile", "b1"], "note", "by default"),
        (["--profile", "b1", "--tp", "8"], "note", "off by default: it serves with a TP of 1, 2"),
        (["--profile", "h200-fp8", "--no-fast"], "note", "off, as it is asked for"),
        (["--profile", "h200-fp8", "--fast"], "note", "is on"),
        (["--profile", "h200-fp8", "--fast", "moe,head"], "note", "is on: head, moe"),
        (
            ["--profile", "h200-fp8", "--fast", "--", "--kv-cache-dtype", "fp8_e4m3"],
            "warning",
            "KV",
        ),
        (["--profile", "h200-fp8", "--fast", "--", "--disable-cuda-graph"], "warning", "graphs"),
    ],
)
def test_the_fast_path_is_on_or_says_why_not(
    words: list[str], level: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, data = asked(capsys, *words)
    (found,) = [one for one in data["findings"] if one["subject"] == "fast"]
    assert found["level"] == level
    assert said in found["text"]
    assert not [one for one in data["findings"] if one["text"].startswith("fast path: ")][1:]


@pytest.mark.parametrize(
    ("capability", "words", "said"),
    [
        ((9, 0), (), "on by default on an NVIDIA H200"),
        ((8, 0), (), "off by default: its kernels are for compute capability 9.0"),
        # Of another machine it is not known which GPUs it has.
        ((8, 0), ("--gpu", "H200"), "on by default on an NVIDIA H200"),
        ((9, 0), ("--gpu", "H100"), "off by default: not proved on an NVIDIA H100"),
        ((9, 0), ("--gpu", "141"), "on by default on an NVIDIA H200"),
    ],
)
def test_what_is_on_by_default_is_asked_of_this_machine(
    capability: tuple[int, int],
    words: tuple[str, ...],
    said: str,
    becomes: Becomes,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed("0.5.17", Path()))
    monkeypatch.setattr(ours, "_not_reviewed", lambda part: None)
    as_it_was_proved(monkeypatch)
    machine = h200()
    gpus = tuple(replace(gpu, capability=capability) for gpu in machine.gpus.found)
    becomes(replace(machine, gpus=replace(machine.gpus, found=gpus)))
    _, data = asked(capsys, "--profile", "h200-fp8", *words)
    assert said in of(data, "fast")["text"]
    assert of(data, "fast")["level"] == "note"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "by default"),
        (("--no-seams",), "off, as it is asked for"),
        (("--seams",), "seams that are ours: chain, commit"),
        (("--seams", "slots"), "seams that are ours: slots"),
    ],
)
def test_which_seams_are_ours_is_told(
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ours, "_not_reviewed", lambda part: None)
    _, data = asked(capsys, "--profile", "h200-fp8", *words)
    assert said in of(data, "seams")["text"]
    monkeypatch.setattr(ours, "_not_reviewed", lambda part: "it was not reviewed")
    _, data = asked(capsys, "--profile", "h200-fp8", *words)
    assert (of(data, "seams")["level"] == "warning") == ("--seams" in words)


def test_ranks_of_other_machines_are_not_missed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--profile", "b1", "--tp", "16", "--", "--nnodes", "2"]
    status, data = asked(capsys, *words)
    assert status == 0, [found for found in data["findings"] if found["level"] != "note"]
    assert of(data, "gpus")["text"].startswith("8x NVIDIA H200")


@pytest.mark.parametrize("words", [(), ("--gpu", "H100")])
def test_on_another_gpu_of_its_capability_nothing_is_on_by_default(
    words: tuple[str, ...],
    becomes: Becomes,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed("0.5.17", Path()))
    monkeypatch.setattr(ours, "_not_reviewed", lambda part: None)
    as_it_was_proved(monkeypatch)
    machine = h200()
    cards = tuple(replace(gpu, name="NVIDIA H100 80GB HBM3") for gpu in machine.gpus.found)
    becomes(replace(machine, gpus=replace(machine.gpus, found=cards)))
    _, data = asked(capsys, "--profile", "h200-fp8", *words)
    for subject in ("fast", "seams"):
        assert "off by default: not proved on an NVIDIA H100" in of(data, subject)["text"]
    _, said = asked(capsys, "--profile", "h200-fp8", "--fast", "--seams", *words)
    assert of(said, "fast")["text"].startswith("the fast path is on")
    taken = data["plan"]["bytes"]
    assert (taken["fast_path"], taken["recorded_cycles"]) == (0, 0)
    # Where the weights leave no room, nothing behind them is planned.
    assert (said["plan"]["bytes"]["fast_path"] > 0) == (not words)


def test_what_is_ours_is_in_the_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default on one H200, and where it is off nothing."""
    as_it_was_proved(monkeypatch)
    words = ["--profile", "h200-fp8", "--gpu", "H200"]
    _, on = asked(capsys, *words)
    _, off = asked(capsys, *words, "--no-fast", "--no-seams")
    taken = on["plan"]["bytes"]["fast_path"], on["plan"]["bytes"]["recorded_cycles"]
    assert taken[0] / 1e6 == pytest.approx(152 + 304, rel=0.02)
    assert taken[1] == on["plan"]["max_running_requests"] * 6 * 2**20
    assert (off["plan"]["bytes"]["fast_path"], off["plan"]["bytes"]["recorded_cycles"]) == (0, 0)
    assert off["plan"]["bytes"]["rest"] == on["plan"]["bytes"]["rest"] + sum(taken)
    assert of(on, "fast")["text"].startswith("fast path: on by default")
    main(["doctor", *words])
    printed = capsys.readouterr().out
    assert "buffers of the fast path" in printed
    assert "of 6.0 MiB, measured with one request" in printed
    _, full = asked(capsys, *words, "--", "--mem-fraction-static", "0.99")
    said = [found["text"] for found in full["findings"] if found["subject"] == "fast"]
    assert "the fast path will be off by default: its buffers take 43" in said[-1]


def test_every_state_of_adaptive_drafting_records_cycles_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "_not_reviewed", lambda part: None)
    words = ["--profile", "auto", "--gpu", "H200"]
    _, data = asked(capsys, *words, "--seams")
    (said,) = [f["text"] for f in data["findings"] if f["text"].startswith("recorded cycles")]
    count = int(said.split(": ")[1].split()[0])
    found = int(said.split(" in ")[1].split()[0])
    assert found > 2
    assert count == 32 * found
    assert f"up to {count * 6 / 1024:.2f} GiB" in said
    _, data = asked(capsys, *words, "--no-seams")
    assert not [f for f in data["findings"] if f["text"].startswith("recorded cycles")]


def test_people_get_a_table_and_the_way_out(
    becomes: Becomes, capsys: pytest.CaptureFixture[str]
) -> None:
    becomes(replace(h200(), nofile=100))
    assert main(["doctor", "--profile", "b1", "--port", str(free_port())]) == 1
    printed = capsys.readouterr().out
    assert "-> ulimit -n 65536" in printed
    assert "memory of one rank" in printed
    assert "requests at once" in printed
    assert "--mamba-ssm-dtype bfloat16" in printed
    assert printed.endswith("serves, but slower or at risk: b1\n")


def test_launch_refuses_with_the_doctor_s_words(
    becomes: Becomes,
    target_folder: Path,
    head_folder: Path,
    executed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    becomes(NO_GPU)
    words = ["--profile", "b1", "--target", str(target_folder), "--head", str(head_folder)]
    assert launch.main([*words, "--port", str(free_port())]) == 2
    assert executed == {}
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "gpus: no NVIDIA GPU is found; this profile serves on GPUs" in told


def test_launch_warns_in_one_line_each_and_goes_on(
    becomes: Becomes,
    target_folder: Path,
    head_folder: Path,
    executed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    becomes(replace(h200(), nofile=100, environment={"http_proxy": "http://p:1"}))
    words = ["--profile", "b1", "--target", str(target_folder), "--head", str(head_folder)]
    launch.main([*words, "--aux-layers", "card", "--port", str(free_port())])
    assert executed["argv"]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert [line.partition("warning: ")[2].partition(":")[0] for line in warnings] == [
        "limits", "proxies",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--gpu", "H200"], "--gpu"),
        (["--tp", "3"], "--tp"),
        (["--head-revision", "x"], "--head-revision"),
        (["--", "--page-size", "1"], "what stands behind --"),
    ],
)
def test_nothing_is_ignored_without_a_profile(
    capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    assert main(["doctor", *words]) == 2
    assert f"{named} without a profile would be ignored" in capsys.readouterr().err
