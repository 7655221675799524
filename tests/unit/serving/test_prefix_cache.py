"""The prefix cache of a hybrid model: on the CPU engine, and with a strategy that cannot be."""

from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.files import data_dir
from tests.support.launching import dry_run, error_of

STRATEGY = "--mamba-radix-cache-strategy"
NEEDED = [STRATEGY, "no_buffer", "--disable-overlap-schedule"]


@pytest.fixture
def cached(tmp_path: Path) -> str:
    """The demo's profile with the prefix cache on."""
    demo = (data_dir("launch") / "demo.yaml").read_text(encoding="utf-8")
    file = tmp_path / "cached.yaml"
    off = "disable-radix-cache: true"
    assert off in demo
    file.write_text(demo.replace(off, "disable-radix-cache: false"), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("words", [[], ["--no-speculation"], ["--tree", "3,1,4"]])
def test_the_cpu_engine_gets_what_it_needs(
    capsys: pytest.CaptureFixture[str], cached: str, words: list[str]
) -> None:
    assert dry_run(capsys, "--profile", cached, *words)["argv"][-3:] == NEEDED
    assert STRATEGY not in dry_run(capsys, "--profile", "demo", *words)["argv"]


def test_what_is_given_is_not_given_twice(capsys: pytest.CaptureFixture[str], cached: str) -> None:
    argv = dry_run(capsys, "--profile", cached, "--", *NEEDED)["argv"]
    assert [argv.count(word) for word in NEEDED] == [1, 1, 1]
    argv = dry_run(capsys, "--profile", cached, "--", "--mamba-radix-cache-strat=no_buffer")["argv"]
    assert argv[-1] == "--disable-overlap-schedule"


@pytest.mark.parametrize("strategy", ["extra_buffer", "extra_buffer_lazy"])
def test_a_strategy_of_gpus_is_refused(
    capsys: pytest.CaptureFixture[str], cached: str, strategy: str
) -> None:
    argv = ("--profile", cached, "--dry-run", "--", f"{STRATEGY}={strategy}")
    assert f"{STRATEGY} {strategy} needs a GPU" in error_of(capsys, *argv)


def test_no_buffer_cannot_overlap(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--profile", "b1", "--dry-run", "--", STRATEGY, "no_buffer")
    assert "add --disable-overlap-schedule" in error_of(capsys, *argv)
    assert dry_run(capsys, "--profile", "b1", "--", *NEEDED)["argv"]
    assert dry_run(capsys, "--profile", "b1", "--", STRATEGY, "extra_buffer")["argv"]
