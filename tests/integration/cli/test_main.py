"""The package as a command of its own process: what it imports, and how its output ends."""

import json
import subprocess
import sys

import pytest

from sglang_qwen3next_eagle3.__main__ import VERBS
from sglang_qwen3next_eagle3.base.errors import READER_GONE
from sglang_qwen3next_eagle3.cli import bench, head, train


def test_the_module_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3", "launch", "--list"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "b1 " in printed


def test_a_closed_output_is_no_error() -> None:
    command = f"{sys.executable} -m sglang_qwen3next_eagle3.launch --list >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


LARGE = "benchmarks/results/h200x1-speed"
"""More than a pipe's writer keeps back until it ends."""


@pytest.mark.parametrize(
    "words",
    [
        ["sglang_qwen3next_eagle3", "launch", "--profile", "b1", "--dry-run"],
        ["sglang_qwen3next_eagle3.launch", "--profile", "b1", "--dry-run"],
        ["sglang_qwen3next_eagle3", "bench", "compare", LARGE, LARGE],
    ],
)
def test_a_reader_that_leaves_is_no_error(words: list[str]) -> None:
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == b""
    assert started.returncode == READER_GONE


HELP = [
    *([verb, "--help"] for verb in VERBS),
    *(
        [verb, action, "--help"]
        for verb, module in (("head", head), ("bench", bench), ("train", train))
        for action in module.ACTIONS
    ),
]


DRY_RUNS = [
    ["launch", "--list"],
    ["launch", "--profile", "demo", "--dry-run"],
    ["launch", "--profile", "b1", "--dry-run"],
]


HEAVY = ["torch", "sglang", "transformers", "numpy"]


# What takes longer to import than the rest of a dry run together.
CONNECTING = ["httpx", "huggingface_hub", "ssl", "urllib.request", "asyncio"]


BLOCKED = """
import json, sys, traceback
blocked, commands = map(json.loads, sys.argv[1:])
sys.modules.update(dict.fromkeys(blocked))
failed = {}
for words in commands:
    # Each finds the package as a process of its own does, whatever was imported before.
    for name in [name for name in sys.modules if name.startswith("sglang_qwen3next_eagle3")]:
        del sys.modules[name]
    from sglang_qwen3next_eagle3.__main__ import main
    try:
        status = main(words)
    except SystemExit as stopped:
        status = stopped.code
    except Exception:
        status = traceback.format_exc()
    if status != 0:
        failed[" ".join(words)] = status
print(json.dumps(failed), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("commands", "blocked"),
    [
        ([*HELP, ["head", "inspect", "demo"]], HEAVY),
        (DRY_RUNS, HEAVY + CONNECTING),
        ([["--help"], ["launch", "--help"]], [*HEAVY, *CONNECTING, "pydantic", "yaml"]),
    ],
    ids=["help and inspect", "dry runs", "help for launch"],
)
def test_what_answers_at_once_imports_nothing_heavy(
    commands: list[list[str]], blocked: list[str]
) -> None:
    """They answer on a machine that has neither torch nor SGLang, too."""
    command = [sys.executable, "-c", BLOCKED, json.dumps(blocked), json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr.splitlines()[-1]) == {}, done.stderr
