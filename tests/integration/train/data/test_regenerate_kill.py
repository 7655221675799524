"""kill -9 in the middle of regeneration, then the same command again."""

import json
import signal
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.support.conversations import contents, read_lines, run, start, turns, write_lines
from tests.support.fake_openai import FakeTarget, Messages, Reply, serving

CONVERSATIONS = 40
AT_MOST = 600.0
"""Seconds after which a wait is given up, however busy the machine is."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    records = [turns(1 + i % 3, str(i)) for i in range(CONVERSATIONS)]
    return write_lines(tmp_path / "a.jsonl", records)


def words(source: Path, out: Path, target: FakeTarget) -> list[object]:
    return [
        "--source", source, "--out", out, "--eval-samples", 8, "--regenerate",
        "--base-url", target.url, "--concurrency", 4,
    ]  # fmt: skip


def answer_of(messages: Messages) -> Reply:
    return Reply(f"new: {messages[-1]['content']} after {len(messages)}")


def killed_after(requests: int, source: Path, out: Path) -> None:
    """Answer that many requests, then none; kill the process once it waits for the next."""
    enough, done = threading.Event(), threading.Event()

    def answer(messages: Messages) -> Reply:
        if len(target.asked) > requests:
            enough.set()
            done.wait(AT_MOST)
        return answer_of(messages)

    with serving(answer) as target:
        process = start(*words(source, out, target))
        try:
            assert enough.wait(AT_MOST), "it asks on"
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done.set()
    assert process.returncode == -signal.SIGKILL


def test_nothing_is_lost_doubled_or_asked_for_again(source: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    journal = out / ".prepare" / "answers.jsonl"
    finished: set[str] = set()
    for requests in (20, 20):
        killed_after(requests, source, out)
        kept = {line["id"] for line in read_lines(journal)[1:]}
        assert finished < kept, "the second attempt went on where the first was"
        finished = kept
    assert len(finished) < CONVERSATIONS
    # A kill in the middle of a write leaves a part of a line.
    torn = read_lines(journal)[-1]["id"]
    journal.write_bytes(journal.read_bytes()[:-9])

    with serving(answer_of) as target:
        process = start(*words(source, out, target))
        _, errors = process.communicate(timeout=AT_MOST)
        assert process.returncode == 0, errors
        asked = Counter(messages[0]["content"] for messages in target.asked)
        run(*words(source, whole, target))
    assert contents(out) == contents(whole)
    lines = read_lines(out / "train.jsonl") + read_lines(out / "eval.jsonl")
    assert sorted(line["id"] for line in lines) == sorted(
        f"a-{i + 1}" for i in range(CONVERSATIONS)
    )
    again = {f"a-{int(q.removeprefix('question ').removesuffix('.0')) + 1}" for q in asked}
    assert again == {line["id"] for line in lines} - finished | {torn}
    for line in lines:
        answers = [m["content"] for m in line["conversations"][1::2]]
        questions = [m["content"] for m in line["conversations"][::2]]
        assert answers == [f"new: {q} after {2 * i + 1}" for i, q in enumerate(questions)]


def test_interrupted_from_the_keyboard_it_says_how_to_go_on(source: Path, tmp_path: Path) -> None:
    out, enough, done = tmp_path / "out", threading.Event(), threading.Event()

    def answer(messages: Messages) -> Reply:
        if len(target.asked) > 10:
            enough.set()
            done.wait(AT_MOST)
        return answer_of(messages)

    with serving(answer) as target:
        process: subprocess.Popen[str] = start(*words(source, out, target))
        try:
            assert enough.wait(AT_MOST)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=AT_MOST)
        finally:
            process.kill()
            done.set()
    assert process.returncode == 130
    assert "interrupted: the same command goes on from here" in errors
    assert "Traceback" not in errors
    assert json.loads((out / ".prepare" / "request.json").read_text())["seed"] == 0
