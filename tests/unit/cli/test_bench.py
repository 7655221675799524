"""The verbs of `bench` that measure nothing."""

import json
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from tests.support import bench_results, speed


def test_suites_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "suites"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {line.split()[0] for line in lines}
    assert names == {"humaneval", "mt-bench", "smoke", "swe-bench-verified", "terminal-bench"}
    assert main(["bench", "suites", "--json"]) == 0
    assert {suite["name"] for suite in json.loads(capsys.readouterr().out)} == names


def test_a_report_is_made_again_from_the_result_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, result in (("speed", speed.of_law()), ("suites", bench_results.like_the_card())):
        result.save(tmp_path / folder / "result.json")
        before = (tmp_path / folder / "result.json").stat().st_mtime_ns
        assert main(["bench", "report", str(tmp_path / folder), "--no-plots"]) == 0
        assert (tmp_path / folder / "report.md").read_text() == capsys.readouterr().out[:-1]
        assert main(["bench", "report", str(tmp_path / folder), "--no-plots", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == result.model_dump(mode="json")
        assert (tmp_path / folder / "result.json").stat().st_mtime_ns == before
        assert main(["bench", "report", str(tmp_path / folder / "result.json"), "--readme"]) == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 |")]
        assert any("3,4,8" in row for row in rows)


@pytest.mark.parametrize("verb", [["report"], ["compare", "."]])
def test_what_is_no_result_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    (tmp_path / "result.json").write_text('{"format": 99}')
    first = [str(tmp_path)] if verb == ["report"] else [str(tmp_path), str(tmp_path)]
    assert main(["bench", verb[0], *first]) == 2
    error = capsys.readouterr().err
    assert "is no result of `bench` in format 1" in error
    assert error.count("\n") == 1
    assert main(["bench", verb[0], *[f"{path}/nothing" for path in first]]) == 2
    error = capsys.readouterr().err
    assert "there is no result" in error
    assert "name the folder that `bench` wrote with --out" in error


def test_results_below_a_folder_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("fp8", "bf16"):
        speed.of_law().save(tmp_path / part / "result.json")
    assert main(["bench", "plan", "--result", str(tmp_path)]) == 2
    named = f"{tmp_path}/result.json: name one below it, {tmp_path}/bf16, {tmp_path}/fp8\n"
    assert capsys.readouterr().err == f"error: there is no result {named}"


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--accept-lengths", "nan"], "'nan': accept lengths are 1 or more, as 1.0,2.5"),
        (["--accept-lengths", "2,inf"], "'2,inf': accept lengths"),
        (["--accept-lengths", "0.5"], "'0.5': accept lengths"),
        (["--accept-lengths", "x"], "'x': accept lengths"),
        (["--batch", "1,x"], "'1,x': whole numbers from 1, as 1,8,32"),
        (["--batch", "0"], "'0': whole numbers from 1, as 1,8,32"),
        (["--prefill-graphs", "256,x"], "'256,x': whole numbers from 1, as 1,8,32"),
        (["--prefill-graphs", "0"], "'0': whole numbers from 1, as 1,8,32"),
        (["--prefill-graphs", ""], "'': whole numbers from 1, as 1,8,32"),
    ],
)
def test_numbers_that_are_none_are_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], cause: str
) -> None:
    assert main(["bench", "speed", "--out", "x", *words]) == 2
    assert f"error: {words[0]}: {cause}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--batch", "\u00b2"], "--batch \u00b2: give batch sizes as 1,8,32"),
        (["--batch", "1,"], "--batch 1,: give batch sizes"),
        (["--for-server", "3,1,4", "--accept-lengths", "2"], "leave out --accept-lengths"),
        (["--for-server", "3,1,4", "--adaptive", "x.json"], "leave out --adaptive"),
        (["--for-server", "3,1,4", "--steps", "1"], "leave out --steps"),
        (["--for-server", ""], "tree '': write steps,topk,draft-tokens, for example 3,4,8"),
    ],
)
def test_a_plan_is_asked_for_in_one_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], cause: str
) -> None:
    speed.of_law().save(tmp_path / "result.json")
    assert main(["bench", "plan", "--result", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert cause in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "option"),
    [("start", "--side-by-side"), ("start", "--output-tokens=4"), ("cycle", "--side-by-side")],
)
def test_nothing_is_taken_that_would_be_dropped(
    capsys: pytest.CaptureFixture[str], verb: str, option: str
) -> None:
    assert main(["bench", verb, "--out", "x", option]) == 2
    assert f"no such option: {option.partition('=')[0]}" in capsys.readouterr().err
