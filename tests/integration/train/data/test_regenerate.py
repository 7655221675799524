import itertools
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.data.regenerate import Settings
from tests.support.conversations import read_lines, record, run, turns, write_lines
from tests.support.fake_openai import Messages, Reply, serving


def echo(messages: Messages) -> Reply:
    return Reply(f"new: {messages[-1]['content']} after {len(messages)}")


def prepare(source: Path, url: str, *words: object) -> dict[str, Any]:
    out = source.parent / "out"
    run("--source", source, "--out", out, "--regenerate", "--base-url", url, *words)
    report: dict[str, Any] = json.loads((out / "prepare.json").read_text())
    return report


def trained(source: Path) -> list[dict[str, Any]]:
    return read_lines(source.parent / "out" / "train.jsonl")


def error_of(source: Path, url: str, *words: object) -> str:
    with pytest.raises(UserError) as caught:
        prepare(source, url, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "a.jsonl", [turns(1 + i % 3, str(i)) for i in range(30)])


def test_each_answer_is_the_target_s_and_feeds_the_next(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    asked = {"messages": [system, *turns(2, "a")["messages"]]}
    source = write_lines(tmp_path / "a.jsonl", [asked])
    with serving(echo) as target:
        prepare(source, target.url)
    first = {"role": "user", "content": "question a.0"}
    said = {"role": "assistant", "content": "new: question a.0 after 2"}
    second = {"role": "user", "content": "question a.1"}
    assert target.asked == [[system, first], [system, first, said, second]]
    last = {"role": "assistant", "content": "new: question a.1 after 4"}
    assert trained(source) == [
        {"id": "a-1", "conversations": [system, first, said, second, last]}
    ]  # fmt: skip


def test_files_are_ordered_and_split_as_without(source: Path, tmp_path: Path) -> None:
    with serving(echo) as target:
        prepare(source, target.url, "--eval-samples", 5, "--concurrency", 7)
    run("--source", source, "--out", tmp_path / "plain", "--eval-samples", 5)
    for name in ("train.jsonl", "eval.jsonl"):
        new, old = read_lines(tmp_path / "out" / name), read_lines(tmp_path / "plain" / name)
        assert [line["id"] for line in new] == [line["id"] for line in old]
        for line, before in zip(new, old, strict=True):
            roles = [message["role"] for message in line["conversations"]]
            assert roles == [message["role"] for message in before["conversations"]]
            answers = line["conversations"][1::2]
            assert all(answer["content"].startswith("new: question") for answer in answers)
            assert line["conversations"][::2] == before["conversations"][::2]


def test_a_key_is_read_from_a_file_or_the_environment(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("of a file\n")
    monkeypatch.setenv("SGLANG_API_KEY", "environment")
    with serving(echo) as target:
        prepare(source, target.url, "--api-key-file", tmp_path / "key")
        assert target.keys == {"Bearer of a file"}
        shutil.rmtree(source.parent / "out")
        prepare(source, target.url)
        assert target.keys == {"Bearer of a file", "Bearer environment"}


def test_no_proxy_is_asked_about_this_machine(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(echo) as target:
        assert prepare(source, target.url)["regenerate"]["answered"] == 30


def test_options_reach_the_server_and_the_report(source: Path) -> None:
    with serving(echo, model="qwen") as target:
        report = prepare(
            source, f"{target.url}/v1/", "--max-tokens", 77, "--temperature", 0.5,
            "--api-key", "secret",
        )  # fmt: skip
    assert {(b["model"], b["max_tokens"], b["temperature"]) for b in target.bodies} == {
        ("qwen", 77, 0.5)
    }
    assert target.keys == {"Bearer secret"}
    again = report["regenerate"]
    assert (again["model"], again["max_tokens"], again["temperature"]) == ("qwen", 77, 0.5)
    # 10 conversations each of one, two and three answers, 10 tokens an answer.
    assert (again["answered"], again["completion_tokens"]) == (30, 600)
    assert "secret" not in json.dumps(report)


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    records = [record("a", "one answer of these"), record("a", "and the other answer")]
    source = write_lines(tmp_path / "a.jsonl", [*records, record("b", "x")])
    with serving(echo) as target:
        report = prepare(source, target.url, "--eval-samples", 0)
    assert sorted(messages[0]["content"] for messages in target.asked) == ["a", "b"]
    # An old answer is not too short where a new one takes its place.
    assert report["sources"][0]["too_short"] == 0
    assert report["sources"][0]["duplicate"] == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(source: Path, status: int) -> None:
    failed: set[str] = set()
    one_at_a_time = threading.Lock()

    def answer(messages: Messages) -> Reply:
        with one_at_a_time:
            if len(failed) < 20 and (key := json.dumps(messages)) not in failed:
                failed.add(key)
                return Reply("busy", status)
        return echo(messages)

    with serving(answer) as target:
        report = prepare(source, target.url)
    assert report["regenerate"]["failed"] == {}
    assert len(target.asked) == 60 + 20


def test_a_timeout_is_tried_again(tmp_path: Path) -> None:
    gone, seen = threading.Event(), []

    def answer(messages: Messages) -> Reply:
        seen.append(messages)
        if len(seen) == 1:
            gone.wait(60)
        else:
            gone.set()
        return echo(messages)

    source = write_lines(tmp_path / "a.jsonl", [record("a")])
    with serving(answer) as target:
        report = prepare(source, target.url, "--timeout", 0.5)
    assert len(seen) >= 2
    assert report["regenerate"]["answered"] == 1


def test_what_is_refused_is_left_out_counted_and_listed(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(messages: Messages) -> Reply:
        if messages[-1]["content"] == "question 4.1":
            return Reply("longer than\nthe context", 400)
        if messages[-1]["content"] == "question 7.0":
            return Reply("", 200)
        if messages[-1]["content"] == "question 9.0":
            return Reply("half of", 200, finish="abort")
        return echo(messages)

    with serving(answer) as target:
        report = prepare(source, target.url, "--eval-samples", 0)
    again = report["regenerate"]
    assert again["failed"] == {"status_400": 1, "empty_message": 1, "not_finished": 1}
    details = {failure["id"]: failure["detail"] for failure in again["failures"]}
    assert details["a-5"] == "longer than the context"
    assert set(details) == {"a-5", "a-8", "a-10"}
    assert again["answered"] == report["files"]["train.jsonl"]["conversations"] == 27
    assert not details.keys() & {line["id"] for line in trained(source)}
    # Refusals are final, not tried again.
    assert sum(messages[-1]["content"] == "question 4.1" for messages in target.asked) == 1
    assert "failed: a-5: longer than the context [status_400]" in capsys.readouterr().err


def test_tool_results_cannot_follow_new_answers(tmp_path: Path) -> None:
    messages = [*turns(1, "a")["messages"], {"role": "tool", "content": "42"}]
    messages.append({"role": "assistant", "content": "It is 42."})
    source = write_lines(tmp_path / "a.jsonl", [{"messages": messages}, record("b")])
    with serving(echo) as target:
        report = prepare(source, target.url, "--eval-samples", 0)
    assert report["regenerate"]["failed"] == {"tool_turns": 1}
    assert len(target.asked) == 1


def test_answers_cut_by_max_tokens_are_kept_and_counted(source: Path) -> None:
    def answer(messages: Messages) -> Reply:
        long = messages[-1]["content"] in ("question 1.0", "question 2.0", "question 2.2")
        return Reply("some text", finish="length" if long else "stop")

    with serving(answer) as target:
        report = prepare(source, target.url)
    assert report["regenerate"]["cut_by_max_tokens"] == 2
    assert report["regenerate"]["answered"] == 30


def test_if_none_is_answered_it_is_an_error_that_can_be_mended(source: Path) -> None:
    with serving(lambda _: Reply("too long", 400)) as target:
        message = error_of(source, target.url)
    assert message == "no conversation was answered, 30 of 30 with status_400: too long"
    assert not (source.parent / "out").exists()


def test_no_server_is_said_before_anything_is_read(source: Path) -> None:
    message = error_of(source, "http://127.0.0.1:9")
    assert message.startswith("no server answers at http://127.0.0.1:9: start the target there")
    assert not (source.parent / "out").exists()


def test_a_refused_key_or_an_unknown_model_stops_at_once(source: Path) -> None:
    with serving(lambda _: Reply("no such key", 401)) as target:
        message = error_of(source, target.url, "--concurrency", 1)
    assert "refuses every request (401: no such key): see --model and --api-key" in message
    assert len(target.asked) == 1
    with serving(echo, model="qwen") as target:
        message = error_of(source, target.url, "--model", "llama")
    assert "serves qwen, not llama: see --model" in message


def test_a_server_that_fails_throughout_stops_the_run_and_keeps_what_is_done(
    source: Path,
) -> None:
    places, another = itertools.count(1), threading.Event()

    def answer(messages: Messages) -> Reply:
        place = next(places)
        if place == 12:
            another.set()
        if place == 11:
            # Not before the other worker has its answer: an answer clears the strikes before it.
            assert another.wait(300)
        return Reply("out of memory", 500) if place > 10 else echo(messages)

    words = ("--retries", 0, "--concurrency", 2, "--eval-samples", 0)
    with serving(answer) as target:
        message = error_of(source, target.url, *words)
        assert "fails throughout (status_500: out of memory): " in message
        journal = source.parent / "out" / ".prepare" / "answers.jsonl"
        done = read_lines(journal)[1:]
        assert f"{len(done)} finished conversations are kept" in message
        assert 1 <= len(done) <= 10
        # Ten answers, then eight strikes, and at most one more under way.
        assert len(target.asked) <= 19
        target.asked.clear()
        target.answer = echo
        prepare(source, target.url, *words)
    finished = {json.dumps(entry["conversations"][0]) for entry in done}
    assert not finished & {json.dumps(messages[0]) for messages in target.asked}
    assert len(trained(source)) == 30


def test_answers_of_two_models_are_not_mixed(source: Path) -> None:
    def answer(messages: Messages) -> Reply:
        return Reply("no", 401) if len(target.asked) > 5 else echo(messages)

    with serving(answer, model="one") as target:
        error_of(source, target.url)
    with serving(echo, model="two") as target:
        message = error_of(source, target.url)
    assert "begun with {'served': 'one'}, now it is {'served': 'two'}" in message
    assert target.asked == []


def test_how_the_server_is_asked_may_change_and_what_is_asked_may_not(source: Path) -> None:
    def answer(messages: Messages) -> Reply:
        return Reply("no", 401) if len(target.asked) > 5 else echo(messages)

    with serving(answer) as target:
        error_of(source, target.url)
    with serving(echo) as target:
        message = error_of(source, target.url, "--max-tokens", 5)
        assert "begun with other arguments (regenerate.max_tokens: 2048, now 5)" in message
        assert target.asked == []
        prepare(source, target.url, "--concurrency", 3, "--timeout", 30, "--api-key", "k")
    assert len(trained(source)) == 29


def test_an_api_key_is_not_shown() -> None:
    assert "secret" not in repr(Settings("http://a", api_key="secret"))
