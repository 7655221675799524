"""A folder is finished, or the same command makes it so; anything else is refused."""

import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from tests.support.conversations import contents, read_lines, record, run, write_lines


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "a.jsonl", [record(f"question {i}") for i in range(50)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_finished_folder_is_left_alone(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--source", source, "--out", out)
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    printed = capsys.readouterr().out
    assert run("--source", source, "--out", out) == 0
    again = capsys.readouterr()
    assert "is prepared already" in again.err
    assert again.out == printed
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    assert sorted(before) == ["eval.jsonl", "prepare.json", "train.jsonl"]


@pytest.mark.parametrize("step", ["os.replace", "os.fsync", "shutil.rmtree"])
def test_killed_at_any_step_the_same_command_finishes_the_same(
    source: Path, tmp_path: Path, step: str
) -> None:
    whole = tmp_path / "whole"
    run("--source", source, "--out", whole)
    kills = 0
    while _dies(step, kills, "--source", source, "--out", tmp_path / f"killed-{kills}"):
        out = tmp_path / f"killed-{kills}"
        run("--source", source, "--out", out)
        assert contents(out) == contents(whole), f"killed before {step} number {kills}"
        kills += 1
    assert kills >= (1 if step == "shutil.rmtree" else 4)


def _dies(step: str, after: int, *words: object) -> bool:
    """Run it in a process that ends without a trace instead of taking that step once more."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    left = [after]
    module, _, name = step.partition(".")
    call: Callable[..., Any] = getattr(sys.modules[module], name)

    def step_or_die(*args: Any, **options: Any) -> Any:
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        return call(*args, **options)

    setattr(sys.modules[module], name, step_or_die)
    try:
        os._exit(run(*words))
    finally:
        os._exit(1)


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--seed", "1"], "seed: 0, now 1"),
        (["--samples", "9"], "samples: null, now 9"),
        (["--eval-samples", "2"], "evaluation: 0.02, now 2"),
        (["--min-answer-chars", "1"], "min_answer_chars: 16, now 1"),
        (["--regenerate"], "regenerate: null, now"),
    ],
)
def test_other_arguments_are_refused_with_what_differs(
    source: Path, out: Path, words: list[str], difference: str
) -> None:
    run("--source", source, "--out", out)
    before = contents(out)
    with pytest.raises(UserError) as caught:
        run("--source", source, "--out", out, *words)
    assert f"was prepared with other arguments ({difference}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(out) == before


def test_a_source_that_changed_is_another_argument(source: Path, out: Path) -> None:
    run("--source", source, "--out", out)
    with source.open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(UserError, match=r"other arguments \(sources\.0\.sha256: "):
        run("--source", source, "--out", out)


def test_the_same_data_elsewhere_is_not_another_argument(
    source: Path, out: Path, tmp_path: Path
) -> None:
    run("--source", source, "--out", out)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert run("--source", source.rename(moved / source.name), "--out", out) == 0


def test_an_output_that_was_changed_is_not_taken_for_finished(source: Path, out: Path) -> None:
    run("--source", source, "--out", out)
    with (out / "train.jsonl").open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(UserError, match=r"train\.jsonl is not what was prepared: remove"):
        run("--source", source, "--out", out)


def test_a_folder_with_other_content_is_refused_and_untouched(source: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds something else \(thesis\.tex\)"):
        run("--source", source, "--out", out)
    assert contents(out) == {"thesis.tex": b"years of work"}
    (out / "prepare.json").write_text("{}")
    with pytest.raises(UserError, match="is not a report of `train prepare`"):
        run("--source", source, "--out", out)
    with pytest.raises(UserError, match="is a file: name a folder"):
        run("--source", source, "--out", out / "thesis.tex")


def test_killed_while_reading_it_binds_nobody_to_the_arguments(
    source: Path, out: Path, tmp_path: Path
) -> None:
    # What a kill in the middle of reading leaves.
    (out / ".prepare").mkdir(parents=True)
    (out / ".prepare" / "pool-0.jsonl").write_text('{"id": "a-1", "conv')
    run("--source", source, "--out", out, "--seed", 4)
    run("--source", source, "--out", tmp_path / "whole", "--seed", 4)
    assert contents(out) == contents(tmp_path / "whole")


def test_an_error_after_reading_leaves_an_empty_folder_empty(tmp_path: Path, out: Path) -> None:
    out.mkdir()
    bad = write_lines(tmp_path / "bad.jsonl", ["{"])
    with pytest.raises(UserError, match="is bad"):
        run("--source", bad, "--out", out)
    good = write_lines(tmp_path / "good.jsonl", [record("a"), record("b")])
    assert run("--source", good, "--out", out) == 0
    assert len(read_lines(out / "train.jsonl")) == 1


def test_two_at_once_do_not_write_to_one_folder(source: Path, out: Path) -> None:
    out.mkdir()
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is preparing"):
            run("--source", source, "--out", out)
    finally:
        os.close(handle)
    assert run("--source", source, "--out", out) == 0
