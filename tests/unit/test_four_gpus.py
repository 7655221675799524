"""benchmarks/four-gpus.sh: every command that it would run is one that our parsers take."""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.bench import configurations, options
from sglang_qwen3next_eagle3.bench.suites import suites
from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.cli import bench as cli

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "four-gpus.sh"
REAL = {"TARGET": "org/target", "HEAD": "org/head", "DATA_DIR": "/data", "LIMIT": "4"}


def script(out: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "python", **variables}
    return subprocess.run(
        ["bash", str(SCRIPT), str(out)], env=environment, capture_output=True, text=True
    )


def commands(out: Path, **variables: str) -> list[list[str]]:
    """What it would run, as words, without what a shell would put before `python`."""
    done = script(out, DRY_RUN="1", **variables)
    assert done.returncode == 0, done.stderr
    # Bash quotes what is not printable its own way.
    lines = [line for line in done.stdout.splitlines() if line[:2] == "+ " and "$'" not in line]
    words = [shlex.split(line[2:]) for line in lines]
    return [line[line.index("python") :] for line in words]


def ours(found: list[list[str]], *verb: str) -> list[list[str]]:
    before = ["python", "-m", "sglang_qwen3next_eagle3", *verb]
    return [words[len(before) :] for words in found if words[: len(before)] == before]


def bench_arguments(action: str, words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args([action, *words])


@pytest.mark.parametrize("variables", [{}, REAL], ids=["demo", "real weights"])
def test_every_launch_can_be_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], variables: dict[str, str]
) -> None:
    found = ours(commands(tmp_path, STEPS="router", **variables), "launch")
    assert len(found) == 2
    for words in found:
        assert launch.main(["--dry-run", "--json", *words]) == 0
        argv = json.loads(capsys.readouterr().out)["argv"]
        assert argv[argv.index("--tp") + 1] == "2"
        assert argv[argv.index("--attention-backend") + 1] == "triton"
    ports = {words[words.index("--port") + 1] for words in found}
    assert len(ports) == 2


def test_replicas_have_gpus_of_their_own_and_the_router_knows_both(tmp_path: Path) -> None:
    printed = script(tmp_path, DRY_RUN="1", STEPS="router").stdout
    assert "CUDA_VISIBLE_DEVICES=0\\,1" in printed
    assert "CUDA_VISIBLE_DEVICES=2\\,3" in printed
    (router,) = [words for words in commands(tmp_path, STEPS="router") if "--worker-urls" in words]
    at = router.index("--worker-urls")
    assert router[at + 1 : at + 3] == ["http://127.0.0.1:31001", "http://127.0.0.1:31002"]


def test_every_speed_configuration_can_be_planned_at_tp_4(tmp_path: Path) -> None:
    found = ours(commands(tmp_path, STEPS="speed-bf16 speed-fp8"), "bench", "speed")
    named = {}
    for words in found:
        arguments = bench_arguments("speed", words)
        target = synthetic.write_target(tmp_path / arguments.precision, arguments.precision)
        base = options.base_profile(arguments).model_copy(update={"target": str(target)})
        assert (arguments.batch, arguments.accept_lengths) == ([1, 32], [1.0, 1.6, 2.46, 3.0])
        contenders = configurations.parse(arguments.config, base)
        for contender in contenders:
            argv = contender.describe(synthetic.FLAGS).argv
            assert argv[argv.index("--tp") + 1] == "4"
        named[arguments.precision] = [contender.name for contender in contenders]
    assert named == {"bf16": ["none", "b1", "b32", "b32-wide", "mtp"], "fp8": ["none", "b1"]}


@pytest.mark.parametrize(
    ("variables", "count"), [({}, 2), ({"DATA_DIR": "/data"}, 2), (REAL, 4)],
    ids=["demo", "demo with data", "real weights"],
)  # fmt: skip
def test_every_run_names_suites_and_configurations_that_exist(
    tmp_path: Path, variables: dict[str, str], count: int
) -> None:
    found = ours(commands(tmp_path, STEPS="router card", **variables), "bench", "run")
    assert len(found) == count
    for words in found:
        arguments = bench_arguments("run", words)
        assert all(suites.load(name) for name in arguments.suite)
        if arguments.base_url is None:
            configurations.parse(arguments.config, options.base_profile(arguments))
            assert (arguments.tp, arguments.target) == (4, "org/target")
        else:
            assert arguments.tokenizer in ("demo", "org/target")
            assert arguments.profile == "b1", "left alone: it starts no server"


def test_results_of_different_runs_have_folders_of_their_own(tmp_path: Path) -> None:
    found = commands(tmp_path, **REAL)
    folders = [words[words.index("--out") + 1] for words in found if "--out" in words]
    assert len(set(folders)) == len(folders) == 6
    assert all(Path(folder).is_relative_to(tmp_path) for folder in folders)


def test_the_test_that_it_runs_exists(tmp_path: Path) -> None:
    (words,) = commands(tmp_path, STEPS="parallel")
    assert (REPOSITORY / words[-1]).is_file()


def test_fp8_at_tp_8_is_refused_and_the_step_is_not_done_twice(tmp_path: Path) -> None:
    first = script(tmp_path, STEPS="refuse", PYTHON=sys.executable)
    assert first.returncode == 0, first.stderr
    assert "512 / TP 8 = 64 is not divisible by the FP8 block of 128" in first.stdout
    again = script(tmp_path, STEPS="refuse", PYTHON="/nowhere/python")
    assert again.returncode == 0
    assert "refuse: done before" in again.stdout


def test_a_step_that_fails_ends_it_and_is_tried_again(tmp_path: Path) -> None:
    failed = script(tmp_path, STEPS="refuse card", PYTHON="false")
    assert failed.returncode == 1
    assert "== refuse: failed" in failed.stderr
    assert "== card" not in failed.stdout
    assert "done before" not in script(tmp_path, STEPS="refuse", PYTHON=sys.executable).stdout


def test_what_cannot_be_run_is_left_out_and_an_unknown_step_refused(tmp_path: Path) -> None:
    left_out = script(tmp_path, STEPS="card")
    assert left_out.returncode == 0
    assert "TARGET and HEAD are not set" in left_out.stdout
    assert not (tmp_path / "card.done").exists()
    unknown = script(tmp_path, STEPS="everything")
    assert unknown.returncode == 2
    assert "no step everything" in unknown.stderr
