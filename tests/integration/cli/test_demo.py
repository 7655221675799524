"""`demo` with a stand-in for SGLang: how it starts, answers and ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.serving import server
from tests.support import fake_sglang
from tests.support.processes import gone

DEMO = (
    "import sys\n"
    "from sglang_qwen3next_eagle3.serving import server\n"
    "server.LAUNCHER = 'tests.support.fake_sglang'\n"
    "from sglang_qwen3next_eagle3.__main__ import main\n"
    "sys.exit(main(['demo', *sys.argv[1:]]))\n"
)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, demo_port: None) -> None:
    monkeypatch.setattr(server, "LAUNCHER", fake_sglang.__name__)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # A proxy knows nothing of a server on this machine.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")


def test_it_asks_and_stops_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--question", "What?"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("an answer to What?\n[10 tokens, ")
    assert "Keep it running" in printed.out
    assert "ready after" in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "99999"], "port '99999': a number from 1 to 65535"),
        (["--port", "0"], "port '0': a number from 1 to 65535"),
        (["--", "--tp", "2"], "TP 2: the CPU engine serves with one process"),
        (["--", "--dp-size=2"], "DP 2: the CPU engine serves with one process"),
        (["--", "--pipeline-parallel-size", "2"], "PP 2: the CPU engine serves with one process"),
        (["--", "--context-length", "256k"], "a context of 256000 is asked for, the target knows"),
        (["--", "--speculative-num-draft-tokens", "64"], "hold 37 draft tokens, 64 are asked for"),
    ],
)
def test_what_launch_refuses_is_refused_in_one_line_before_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["demo", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_it_says_which_states_the_server_captures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = "[2026-01-01 00:00:00] sglang-qwen3next-eagle3: auxiliary hidden states: output:1 (x)"
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": {"say": logged}}))
    assert main(["demo"]) == 0
    assert capsys.readouterr().out.startswith("auxiliary hidden states: output:1 (x)\nan answer")


STATES = "x: auxiliary hidden states: output:1"
VARIABLE = "SGLANG_QWEN3NEXT_EAGLE3_AUX_LAYERS"


@pytest.mark.parametrize(
    ("launcher", "printed"),
    [
        (f"{STATES}, source: the head's config", "output:1, source: the head's config"),
        (f"{STATES},7, source: the head's config", f"output:1, source: {VARIABLE}"),
    ],
    ids=["as decided", "another than was decided"],
)
def test_who_decided_is_told_where_the_server_captures_what_was_decided(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, launcher: str, printed: str
) -> None:
    logged = f"{launcher}\n[2026-01-01 00:00:00] {STATES}, source: {VARIABLE}"
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": {"say": logged}}))
    assert main(["demo"]) == 0
    assert capsys.readouterr().out.startswith(f"auxiliary hidden states: {printed}\nan answer")


def test_a_server_that_does_not_start_is_told_with_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = {"demo": {"refuse": "no room on this machine"}}
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps(behaviour))
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert "the server ended: exit status 2 (log: " in error
    assert "error: no room on this machine" in error
    (folder,) = tmp_path.iterdir()
    assert "no room" in (folder / "server.log").read_text(), "what failed can be looked into"


def test_a_server_that_crashes_while_it_answers_leaves_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = {"demo": {"chat_crash": True, "crash_seconds": 0.5}}
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps(behaviour))
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert "the server ended: exit status 3 (log: " in error
    assert "the scheduler hit an exception" in error
    (folder,) = tmp_path.iterdir()
    assert "exception" in (folder / "server.log").read_text()


def test_the_key_of_its_server_is_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": {"key": "K3Y"}}))
    assert main(["demo", "--question", "What?", "--", "--api-key", "K3Y"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("an answer to What?")
    assert "Bearer KEY" in printed
    assert "K3Y" not in printed


@pytest.mark.parametrize(
    ("words", "way_out"),
    [(["--port", "1"], "use --port before"), (["--host=::"], "launch --profile demo --host")],
)
def test_the_address_is_not_the_flags_to_give(
    capsys: pytest.CaptureFixture[str], words: list[str], way_out: str
) -> None:
    assert main(["demo", "--", *words]) == 2
    error = capsys.readouterr().err
    assert way_out in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("seconds", [0.0, 60.0], ids=["while it serves", "while it starts"])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, None), (signal.SIGKILL, -9)]
)
def test_no_end_leaves_the_server_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int | None,
    seconds: float,
) -> None:
    pid_file = tmp_path.parent / f"{tmp_path.name}.pid"
    behaviour = {"start_seconds": seconds, "pid_file": str(pid_file)}
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": behaviour}))
    command = [sys.executable, "-c", DEMO, "--serve"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        if seconds:
            while not pid_file.is_file() or not pid_file.read_text():
                assert started.poll() is None
                time.sleep(0.05)
        else:
            while "Ctrl-C stops it" not in started.stdout.readline():
                assert started.poll() is None
        started.send_signal(number)
        error = started.stderr.read()
        started.stdout.read()
    if status is None:
        status = 130 if seconds else 0
    assert started.returncode == status
    assert "Traceback" not in error
    assert gone(int(pid_file.read_text()))
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []
