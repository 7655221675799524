import pytest

from sglang_qwen3next_eagle3.base import progress
from sglang_qwen3next_eagle3.base.progress import Progress


def test_figures_say_how_far_how_fast_and_how_long() -> None:
    work = Progress("asking", 500, done=100)
    work.advance(20)
    # 20 in 10 s, not 120: what an earlier run did says nothing of this one's speed.
    assert work.figures(10.0) == "120/500 conversations, 2.0/s, 3 min left"
    assert work.figures(1.0) == "120/500 conversations, 20.0/s, 19 s left"
    assert work.figures(1000.0) == "120/500 conversations, 0.0/s, 5.3 h left"


def test_without_a_total_there_is_no_time_left() -> None:
    work = Progress("reading", None, unit="records")
    assert work.figures(0.0) == "0 records, 0.0/s"
    work.advance(30)
    assert work.figures(10.0) == "30 records, 3.0/s"


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("asking", 100) as work:
        for _ in range(100):
            now[0] += 1.0
            work.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "asking: 30/100 conversations, 1.0/s, 70 s left",
        "asking: 60/100 conversations, 1.0/s, 40 s left",
        "asking: 90/100 conversations, 1.0/s, 10 s left",
    ]


def test_warming_up_does_not_count_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    work = Progress("training", 100, unit="steps")
    now[0] = 60.0
    work.begin(1)
    now[0] = 70.0
    work.advance(20)
    assert work.figures() == "21/100 steps, 2.0/s, 40 s left"


def test_a_log_gets_the_label_where_the_work_announces_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("loading the target", 1, announced=True) as work:
        work.status("only for a terminal")
    assert capsys.readouterr().err == "loading the target\n"
