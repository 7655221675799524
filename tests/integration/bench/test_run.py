"""`bench run` from the command line to its folder, with servers that pretend."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.bench import servers
from sglang_qwen3next_eagle3.bench.results.journal import Journal, PassKey
from sglang_qwen3next_eagle3.bench.results.records import Pass, Result
from sglang_qwen3next_eagle3.serving import server
from tests.support.bench_runs import TWO, Behave, words
from tests.support.fake_sglang import serving


def test_a_baseline_and_a_tree_with_figures_equality_and_report(
    behave: Behave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    behave(**{"3-1-4": {"per_chunk": 3}})
    assert main(words(tmp_path, *TWO, "--batch", "1,2", "--repeats", "2")) == 0
    result = Result.load(tmp_path)
    assert [c.name for c in result.configurations] == ["none", "3,1,4"]
    assert result.batches == (1, 2)
    (first, second) = result.of("3,1,4", "smoke", 1)
    assert (first.repetition, second.repetition) == (0, 1)
    assert first.figures.requests == 10, "eight prompts, two of them with a second turn"
    assert first.figures.accept_length == pytest.approx(12 / 4)
    assert first.equality is not None
    assert (first.equality.equal, first.equality.of) == (10, 10)
    (baseline, again) = result.of("none", "smoke", 1)
    assert baseline.figures.accept_length is None
    assert baseline.equality is None
    assert again.equality is not None
    assert again.equality.equal == 10
    report = (tmp_path / "report.md").read_text()
    assert report in capsys.readouterr().out
    assert "3,1,4" in report
    argv = result.configuration("3,1,4").argv
    assert "--speculative-eagle-topk" in argv
    assert not [word for word in argv if word.startswith("/")], "no paths of this machine"
    assert result.provenance["command"].startswith("sglang-qwen3next-eagle3 bench run")
    assert str(tmp_path) not in (tmp_path / "result.json").read_text()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The configurations of passes, as they are kept. A file's time is too coarse to tell."""
    order: list[str] = []
    add = Journal.add

    def noted(journal: Journal, key: PassKey, found: Pass) -> None:
        order.append(key.configuration)
        add(journal, key, found)

    monkeypatch.setattr(Journal, "add", noted)
    return order


def test_repetitions_alternate_the_order_of_the_servers(
    behave: Behave, tmp_path: Path, measured: list[str]
) -> None:
    main(words(tmp_path, *TWO, "--repeats", "2"))
    assert measured == ["none", "3,1,4", "3,1,4", "none"]
    assert len(list((tmp_path / "passes").glob("*.json"))) == 4


def test_other_answers_are_counted_with_their_first_divergence(
    behave: Behave, tmp_path: Path
) -> None:
    behave(**{"3-1-4": {"per_chunk": 3, "differs_at": 5}})
    assert main(words(tmp_path, *TWO)) == 0
    (found,) = Result.load(tmp_path).of("3,1,4", "smoke", 1)
    assert found.equality is not None
    assert (found.equality.equal, found.equality.of) == (0, 8), "second turns were asked otherwise"
    assert set(found.equality.first_divergence) == {5}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash is not told as a broken connection, however long a busy machine takes over it."""
    assert server.GONE_SECONDS > 1.0, "longer than the crash that takes its time, below"
    monkeypatch.setattr(servers, "GONE_SECONDS", 300.0)
    monkeypatch.setattr(server, "GONE_SECONDS", 300.0)


@pytest.mark.usefixtures("patient")
def test_a_crash_is_reported_with_the_log_and_the_rest_goes_on(
    behave: Behave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    behave(**{"3-1-4": {"crash_at": 6}})
    assert main(words(tmp_path, "--config", "3,1,4", "--config", "none")) == 1
    result = Result.load(tmp_path)
    crashed = result.configuration("3,1,4")
    assert crashed.status == "failed"
    assert "exit status 3" in str(crashed.error)
    assert crashed.log_tail[-1] == "the scheduler hit an exception"
    assert result.configuration("none").status == "ok"
    assert len(result.of("none", "smoke", 1)) == 1
    assert "the scheduler hit an exception" in (tmp_path / "report.md").read_text()
    assert "the scheduler hit an exception" in capsys.readouterr().err


@pytest.mark.usefixtures("patient")
def test_a_crash_is_no_broken_connection_though_the_process_is_not_gone_yet(
    behave: Behave, tmp_path: Path
) -> None:
    behave(none={"crash_at": 3, "crash_seconds": 1.0})
    assert main(words(tmp_path, "--config", "none")) == 1
    crashed = Result.load(tmp_path).configuration("none")
    assert crashed.error == "the server ended: exit status 3"


def test_a_server_that_does_not_start_is_reported(behave: Behave, tmp_path: Path) -> None:
    behave(none={"refuse": "no GPU here"})
    assert main(words(tmp_path, *TWO)) == 1
    refused = Result.load(tmp_path).configuration("none")
    assert refused.log_tail == ("error: no GPU here",)
    assert "exit status 2" in str(refused.error)


def test_a_start_has_an_end(behave: Behave, tmp_path: Path) -> None:
    behave(none={"start_seconds": 60})
    assert main(words(tmp_path, *TWO, "--start-seconds", "2")) == 1
    assert "not healthy in time" in str(Result.load(tmp_path).configuration("none").error)


def test_a_stalled_server_fails_its_configuration(behave: Behave, tmp_path: Path) -> None:
    behave(none={"stall_at": 4})
    assert main(words(tmp_path, *TWO, "--stall-seconds", "10")) == 1
    result = Result.load(tmp_path)
    assert result.configuration("none").error == "stalled: nothing came for 10 s"
    assert result.of("none", "smoke", 1) == []
    assert len(result.of("3,1,4", "smoke", 1)) == 1


def test_failed_requests_are_left_out_and_named(behave: Behave, tmp_path: Path) -> None:
    # The first request warms up.
    behave(none={"fail_at": [3]})
    assert main(words(tmp_path, "--config", "none")) == 0
    result = Result.load(tmp_path)
    (found,) = result.measurements
    assert (found.figures.failed, found.figures.requests) == (1, 9)
    assert "1 requests failed and are not in the figures." in result.notes


def test_a_server_that_answers_nothing_fails(behave: Behave, tmp_path: Path) -> None:
    behave(none={"fail_at": list(range(1, 99))})
    assert main(words(tmp_path, "--config", "none")) == 1
    error = Result.load(tmp_path).configuration("none").error
    assert error == "no request was answered: HTTP 500: out of luck"


def test_a_rerun_measures_only_what_is_missing(behave: Behave, tmp_path: Path) -> None:
    behave(**{"3-1-4": {"crash_at": 1}})
    assert main(words(tmp_path, *TWO)) == 1
    (tmp_path / "logs" / "none.log").unlink()
    behave()
    assert main(words(tmp_path, *TWO)) == 0
    assert not (tmp_path / "logs" / "none.log").exists(), "its server was not started again"
    assert Result.load(tmp_path).configuration("3,1,4").status == "ok"
    assert main(words(tmp_path, *TWO, "--config", "5,1,6", "--batch", "1,2")) == 0
    assert len(Result.load(tmp_path).measurements) == 6


def test_a_folder_of_another_benchmark_is_refused(
    behave: Behave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, "--config", "none")) == 0
    assert main(words(tmp_path, "--config", "none", "--limit", "3")) == 2
    assert (
        "begun with other arguments (limit: null, now 3): repeat those to go on, or"
        in capsys.readouterr().err
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    assert main(words(tmp_path / "other", "--config", "none")) == 2
    assert "holds something else" in capsys.readouterr().err


def test_a_larger_batch_than_the_server_runs_is_noted(behave: Behave, tmp_path: Path) -> None:
    behave(none={"running": 3})
    assert main(words(tmp_path, "--config", "none", "--batch", "1,8")) == 0
    result = Result.load(tmp_path)
    assert result.configuration("none").max_running_requests == 3
    assert any("at most 3 requests at once" in note for note in result.notes)


def test_side_by_side_servers_are_asked_in_turn(
    behave: Behave, tmp_path: Path, measured: list[str]
) -> None:
    assert main(words(tmp_path, *TWO, "--side-by-side", "--repeats", "2")) == 0
    assert measured == ["none", "3,1,4", "3,1,4", "none"]


def test_side_by_side_servers_start_together(behave: Behave, tmp_path: Path) -> None:
    other = str(tmp_path / "other.pid")
    behave(none={"after": other}, **{"3-1-4": {"pid_file": other}})
    assert main(words(tmp_path / "out", *TWO, "--side-by-side", "--start-seconds", "300")) == 0


def test_one_that_fails_leaves_the_others_side_by_side(behave: Behave, tmp_path: Path) -> None:
    behave(none={"refuse": "no memory left"})
    assert main(words(tmp_path, *TWO, "--side-by-side")) == 1
    result = Result.load(tmp_path)
    assert result.configuration("none").log_tail == ("error: no memory left",)
    assert {found.configuration for found in result.measurements} == {"3,1,4"}


def test_a_running_server_is_measured_under_its_url(behave: Behave, tmp_path: Path) -> None:
    with serving(per_chunk=2) as fake:
        asked = ["--base-url", f"{fake.url}/v1", "--name", "theirs", "--batch", "2"]
        assert main(words(tmp_path, *asked)) == 0
        assert fake.flushes == 2, "after warming up and after the suite"
        assert fake.most_at_once == 2
    (found,) = Result.load(tmp_path).measurements
    assert found.configuration == "theirs"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--config", "fast"), "no configuration 'fast': write none, mtp"),
        (("--config", "none", "--config", "none"), "none is given twice"),
        (("--config", "3,1,9"), "a chain (topk 1) of 3 steps verifies 4 draft tokens"),
        (("--suite", "imagenet"), "imagenet"),
        (("--base-url", "http://127.0.0.1:9"), "no server answers at"),
        (("--base-url", "http://127.0.0.1:9", "--config", "none"), "choose"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    behave: Behave,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    message: str,
) -> None:
    assert main(words(tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_done_and_ends_the_server(
    behave: Behave, tmp_path: Path, sent: signal.Signals
) -> None:
    behave(none={}, **{"3-1-4": {"chunk_seconds": 5.0}})
    code = (
        # As a shell's background job starts it.
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from sglang_qwen3next_eagle3.bench import run\n"
        "from sglang_qwen3next_eagle3.serving import server\n"
        "from tests.support.bench_runs import LettersAsTokens\n"
        "from sglang_qwen3next_eagle3.__main__ import main\n"
        "run.ChatFormat = LettersAsTokens; server.LAUNCHER = 'tests.support.fake_sglang'\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words(tmp_path, *TWO)],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    end = time.monotonic() + 300
    log = tmp_path / "logs" / "3-1-4.log"
    while not (log.is_file() and "answering" in log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(sent)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "what is done is kept" in said
    result = Result.load(tmp_path)
    assert len(result.of("none", "smoke", 1)) == 1
    assert result.of("3,1,4", "smoke", 1) == []
    assert "Traceback" not in said
    mine = [pid for pid in os.listdir("/proc") if pid.isdigit() and _of_fake(pid, tmp_path)]
    assert mine == [], "no server is left"


def _of_fake(pid: str, out: Path) -> bool:
    try:
        command = Path("/proc", pid, "cmdline").read_text()
    except OSError:
        return False
    return "fake_sglang" in command and str(out) in command
