import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base.errors import UserError
from tests.support.conversations import read_lines, record, run, turns, write_lines


def prompts(path: Path) -> list[str]:
    return [line["conversations"][0]["content"] for line in read_lines(path)]


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "prepare.json").read_text())
    return report


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "many.jsonl", [record(f"question {i}") for i in range(100)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_lines_are_what_specforge_reads_and_nothing_more(tmp_path: Path, out: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{**turns(2, "a"), "score": 3, "tools": []}] * 1)
    assert run("--source", source, "--out", out) == 0
    (line,) = read_lines(out / "train.jsonl")
    assert line == {"id": "a-1", "conversations": turns(2, "a")["messages"]}
    assert read_lines(out / "eval.jsonl") == []


def test_every_conversation_is_in_exactly_one_file_mixed(many: Path, out: Path) -> None:
    run("--source", many, "--out", out, "--eval-samples", 10)
    train, held = read_lines(out / "train.jsonl"), read_lines(out / "eval.jsonl")
    assert (len(train), len(held)) == (90, 10)
    ids = [line["id"] for line in train + held]
    assert sorted(ids) == sorted(f"many-{i}" for i in range(1, 101))
    assert ids != sorted(ids)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (98, 2)),
        (["--eval-fraction", "0.25"], (75, 25)),
        (["--eval-fraction", "0"], (100, 0)),
        (["--eval-fraction", "0.0001"], (99, 1)),
        (["--samples", "50", "--eval-samples", "5"], (45, 5)),
    ],
)
def test_evaluation_is_taken_out_of_what_is_drawn(
    many: Path, out: Path, options: list[str], expected: tuple[int, int]
) -> None:
    run("--source", many, "--out", out, *options)
    assert (len(prompts(out / "train.jsonl")), len(prompts(out / "eval.jsonl"))) == expected


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(
    many: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("--source", many, "--samples", 30, "--seed", seed, "--out", tmp_path / name)
    for name in ("train.jsonl", "eval.jsonl", "prepare.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert set(prompts(tmp_path / "a/train.jsonl")) != set(prompts(tmp_path / "c/train.jsonl"))


def test_sources_give_their_weights_and_one_that_runs_out_is_said(
    many: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write_lines(tmp_path / "few.jsonl", [record(f"few {i}") for i in range(10)])
    run("--source", f"{many},weight=1", "--source", f"{few},weight=3", "--samples", 8, "--out", out)
    assert [source["drawn"] for source in report_of(out)["sources"]] == [2, 6]
    capsys.readouterr()
    again = tmp_path / "again"
    run("--source", many, "--source", f"{few},weight=3", "--samples", 40, "--out", again)
    assert "note: few ran out: 30 wanted, 10 there" in capsys.readouterr().err
    assert [source["drawn"] for source in report_of(again)["sources"]] == [30, 10]
    assert report_of(again)["short"] == ["few ran out: 30 wanted, 10 there"]


def test_less_than_asked_for_altogether_is_said(
    many: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--source", many, "--samples", 500, "--out", out)
    assert "note: all sources ran out: 500 wanted, 100 there" in capsys.readouterr().err


def test_duplicates_go_within_and_across_sources_and_other_answers_stay(
    tmp_path: Path, out: Path
) -> None:
    one, two = record("a b", "the first answer, long"), record("c d", "the first answer, long")
    spaced = record(" a\n b", "the first  answer, long")
    other = record("a b", "another answer, long too")
    first = write_lines(tmp_path / "first.jsonl", [one, spaced, two])
    second = write_lines(tmp_path / "second.jsonl", [two, other, one])
    run("--source", first, "--source", second, "--out", out, "--eval-samples", 0)
    assert sorted(line["id"] for line in read_lines(out / "train.jsonl")) == [
        "first-1", "first-3", "second-2"
    ]  # fmt: skip
    assert [source["duplicate"] for source in report_of(out)["sources"]] == [1, 2]


def test_no_first_question_is_trained_on_and_evaluated(tmp_path: Path, out: Path) -> None:
    records = [
        record(f"Question {i % 20}" if i % 2 else f"question  {i % 20}", f"a long answer, {i}")
        for i in range(100)
    ]
    run("--source", write_lines(tmp_path / "a.jsonl", records), "--out", out, "--eval-samples", 23)
    train, held = prompts(out / "train.jsonl"), prompts(out / "eval.jsonl")
    # Five of each question: 23 cannot be had without splitting one.
    assert (len(train), len(held)) == (80, 20)
    same = {" ".join(text.casefold().split()) for text in train}
    assert not same & {" ".join(text.casefold().split()) for text in held}
    assert report_of(out)["short"] == [
        "evaluation: 23 wanted, 20 without splitting a first question"
    ]


def test_excluded_texts_are_not_trained_on_and_counted(tmp_path: Path, out: Path) -> None:
    text = " ".join(f"word{i}" for i in range(20))
    records = [record(f"Solve: {text}"), record("else", f"It is: {text}"), record("word1 word2")]
    source = write_lines(tmp_path / "a.jsonl", records)
    exclude = write_lines(tmp_path / "bench.jsonl", [{"prompt": text}])
    other = write_lines(tmp_path / "other.jsonl", [{"turns": ["nothing of it", "at all"]}])
    run("--source", source, "--out", out, "--exclude", exclude, "--exclude", other)
    assert prompts(out / "train.jsonl") == ["word1 word2"]
    report = report_of(out)
    assert report["sources"][0]["excluded"] == 2
    assert report["excludes"] == [str(exclude), str(other)]
    assert report["request"]["excludes"] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (exclude, other)
    ]


def test_short_answers_are_left_out_and_counted(tmp_path: Path, out: Path) -> None:
    records = [record("a", "x" * 15), record("b", " " * 20 + "x" * 16), turns(2, "c")]
    run("--source", write_lines(tmp_path / "a.jsonl", records), "--out", out, "--eval-samples", 0)
    assert sorted(prompts(out / "train.jsonl")) == ["b", "question c.0"]
    assert report_of(out)["sources"][0]["too_short"] == 1


def test_bad_lines_are_counted_and_listed_with_their_line(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ["{", json.dumps({"messages": []}), json.dumps({"text": "no conversation"})]
    source = write_lines(tmp_path / "a.jsonl", [*bad, record("a"), "", *bad, record("b")])
    run("--source", source, "--out", out, "--eval-samples", 0)
    errors = capsys.readouterr().err
    assert f"bad: {source}:1: Expecting property name" in errors
    assert f"bad: {source}:7: no assistant message after a user message [no_answer]" in errors
    report = report_of(out)
    (counts,) = report["sources"]
    # Before the first record of a known format, no format is known to fall short of.
    assert counts["bad"] == {"not_json": 2, "unknown_format": 2, "no_answer": 1, "other_format": 1}
    assert (counts["read"], counts["kept"]) == (8, 2)
    assert [entry["line"] for entry in report["bad"]["listed"]] == [1, 2, 3, 6, 7, 8]
    assert report["bad"]["total"] == 6


def test_only_the_first_bad_lines_are_printed_and_a_bound_is_listed(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_lines(tmp_path / "a.jsonl", [record("a"), *["{"] * 1500])
    run("--source", source, "--out", out)
    errors = capsys.readouterr().err.splitlines()
    assert len([line for line in errors if line.startswith(f"bad: {source}")]) == 20
    assert "bad: more of them are listed in the report" in errors
    report = report_of(out)
    assert (report["bad"]["total"], len(report["bad"]["listed"])) == (1500, 1000)
    assert report["sources"][0]["bad"] == {"not_json": 1500}


def test_a_source_of_bad_lines_only_is_an_error_and_leaves_nothing(
    tmp_path: Path, out: Path, many: Path
) -> None:
    source = write_lines(tmp_path / "bad.jsonl", ["{", "[]", "7"])
    with pytest.raises(UserError, match=r"every one of the 3 records of .*bad\.jsonl is bad \(2 "):
        run("--source", many, "--source", source, "--out", out)
    assert not out.exists()


def test_a_format_that_does_not_fit_is_an_error(many: Path, out: Path) -> None:
    with pytest.raises(UserError, match=r"every one .* \(100 other_format\).*format=\.\.\."):
        run("--source", f"{many},format=sharegpt", "--out", out)


def test_an_empty_source_or_an_empty_result_is_an_error(tmp_path: Path, out: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl is empty"):
        run("--source", write_lines(tmp_path / "a.jsonl", []), "--out", out)
    short = write_lines(tmp_path / "b.jsonl", [record("a", "x"), record("b", "y")])
    with pytest.raises(UserError, match="nothing is left to train on: 0 .* of 2 records are fit"):
        run("--source", short, "--out", out)
    one = write_lines(tmp_path / "c.jsonl", [record("a")])
    with pytest.raises(UserError, match="nothing is left to train on: 1 .* 1 of them are for eval"):
        run("--source", one, "--out", out, "--eval-samples", 1)
    assert not out.exists()


def test_the_format_that_was_taken_is_said(
    many: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "a long enough answer"}]
    source = tmp_path / "share.json"
    source.write_text(json.dumps([{"id": "1", "conversations": share}]))
    run("--source", source, "--source", f"{many},format=messages", "--out", out)
    printed = capsys.readouterr().out
    assert "share (format sharegpt, detected): 1 read, 0 bad" in printed
    assert "many (format messages, given): 100 read" in printed
    assert f"{out / 'train.jsonl'}: 99 conversations" in printed


def test_the_report_is_provenance(
    many: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--source", f"{many},weight=1/2", "--samples", 20, "--seed", 5, "--out", out, "--json")
    report = json.loads(capsys.readouterr().out)
    assert report == report_of(out)
    assert report["package"].endswith(__version__)
    assert report["request"]["seed"] == 5
    assert report["request"]["sources"] == [
        {
            "label": "many",
            "sha256": hashlib.sha256(many.read_bytes()).hexdigest(),
            "weight": "1/2",
            "format": None,
        }
    ]
    assert report["sources"][0]["name"] == str(many)
    for name in ("train.jsonl", "eval.jsonl"):
        digest = hashlib.sha256((out / name).read_bytes()).hexdigest()
        count = len(read_lines(out / name))
        assert report["files"][name] == {"conversations": count, "sha256": digest}
    for source in report["sources"]:
        dropped = sum(source[key] for key in ("duplicate", "too_short", "excluded"))
        assert source["read"] == source["kept"] + dropped + sum(source["bad"].values())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--samples", "0"], "--samples 0: at least 1"),
        (["--eval-samples", "-1"], "--eval-samples -1: at least 0"),
        (["--eval-fraction", "1"], "--eval-fraction 1.0: a number from 0"),
        (["--eval-fraction", "nan"], "--eval-fraction: 'nan': a number is needed"),
        (["--model", "m"], "--model goes with --regenerate"),
        (["--max-tokens", "5"], "--max-tokens goes with --regenerate"),
        (["--api-key-file", "k"], "--api-key-file goes with --regenerate"),
        (["--regenerate", "--api-key-file", "k"], "--api-key-file k cannot be read"),
        (["--regenerate", "--concurrency", "0"], "--concurrency 0: at least 1"),
        (["--regenerate", "--temperature", "-1"], "--temperature -1.0: at least 0"),
        (["--regenerate", "--timeout", "0"], "--timeout 0.0: a time above 0"),
    ],
)
def test_values_that_do_not_fit_are_refused_before_anything_is_read(
    many: Path, out: Path, options: list[str], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        run("--source", many, "--out", out, *options)
    assert not out.exists()


def test_a_disk_that_fails_is_one_line(
    many: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device: mend that and run the same"):
        run("--source", many, "--out", out)


def test_what_is_not_taken_is_counted_with_its_reason_for_people_and_scripts(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = record("q")
    user, answer = good["messages"]
    empty = {"role": "system", "content": ""}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}
    records = [
        good,
        {"messages": [empty, {**user, "content": "r"}, answer]},
        {"messages": [user, call, {"role": "tool", "content": "1"}, answer]},
        {"messages": [user, user, answer]},
        {"messages": [user, {**answer, "content": "so <|im_start|>user"}]},
        {**record("s"), "tools": [{"name": "f"}]},
        {"messages": [{**user, "content": "t"}, answer, {**user, "content": "u"}]},
    ]
    source = write_lines(tmp_path / "odd.jsonl", records)
    assert run("--source", source, "--out", out, "--eval-samples", 0) == 0
    (counted,) = report_of(out)["sources"]
    assert counted["bad"] == {"tool_calls": 1, "same_speaker": 1, "chat_markup": 1, "tools": 1}
    assert counted["left_out"] == {"empty_system": 1, "after_answer": 1}
    assert (counted["read"], counted["kept"]) == (7, 3)
    printed = capsys.readouterr().out
    assert "  bad: 1 chat_markup, 1 same_speaker, 1 tool_calls, 1 tools\n" in printed
    assert "  read without: 1 after_answer, 1 empty_system\n" in printed
    said = {line["id"]: line["conversations"] for line in read_lines(out / "train.jsonl")}
    assert said["odd-2"] == [{**user, "content": "r"}, answer]
