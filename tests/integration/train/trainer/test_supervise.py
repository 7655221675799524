"""A run folder with a stand-in for SpecForge; tests/e2e/test_train_chain.py has the real one."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.trainer import supervise
from tests.support.training_plans import plan

ROOT = Path(__file__).parents[4]
# A shell that started the tests in the background left SIGINT ignored, which children inherit.
START = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.support.training_plans import plan
from sglang_qwen3next_eagle3.base.errors import exit_status
from sglang_qwen3next_eagle3.train.trainer import supervise
supervise.CPU_TRAINER = "tests.support.fake_trainer"
supervise.END_SECONDS = 1.0
out = Path(sys.argv[1])
sys.exit(exit_status(lambda: bool(supervise.train(plan(out), out))))
"""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "CPU_TRAINER", "tests.support.fake_trainer")
    monkeypatch.delenv("FAKE_TRAINER", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def log(out: Path) -> str:
    return (out / supervise.LOG).read_text()


def begins(out: Path) -> list[int]:
    """The steps behind which the trainer began, start by start."""
    return [int(step) for step in re.findall(r"begins behind step (\d+)", log(out))]


def start_until_it_hangs(out: Path, mishap: str = "hang") -> tuple[subprocess.Popen[bytes], int]:
    """`train run` in a process of its own, its trainer asleep at step 7; and the trainer's id."""
    environment = {**os.environ, "FAKE_TRAINER": f"{mishap}:7"}
    process = subprocess.Popen([sys.executable, "-c", START, str(out)], env=environment)
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if (out / supervise.LOG).exists() and (found := re.search(r"process (\d+)", log(out))):
            return process, int(found[1])
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the trainer did not come to step 7")


def is_gone(pid: int) -> bool:
    """Ended, whether or not somebody has asked for its status yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_a_run_ends_with_its_last_checkpoint_and_a_record(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = supervise.train(plan(out), out)
    assert outcome.trained
    assert outcome.checkpoint.name == "head-step10"
    record = json.loads((out / supervise.RUN).read_text())
    assert record["finished"]
    assert record["metrics"]["training"]["acc_0"] == 0.10, "of the checkpoint, not of step 12"
    printed = capsys.readouterr()
    assert "step 12: acc_0 0.120 acc_6 0.500 loss nan; 12/12 steps" in printed.err
    assert printed.out == ""


def test_a_finished_run_is_not_trained_again(out: Path) -> None:
    first = supervise.train(plan(out), out)
    again = supervise.train(plan(out), out)
    assert not again.trained
    assert again.checkpoint == first.checkpoint
    assert begins(out) == [0]


def test_a_failure_is_one_line_and_the_next_start_goes_on(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER", "raise:7")
    with pytest.raises(
        UserError, match=r"exit status 1\): ValueError: broken at step 7;"
    ) as failed:
        supervise.train(plan(out), out)
    assert "\n" not in str(failed.value)
    assert str(out / supervise.LOG) in str(failed.value)
    assert "finished" not in supervise.read_record(out)
    monkeypatch.delenv("FAKE_TRAINER")
    assert supervise.train(plan(out), out).checkpoint.name == "head-step10"
    assert begins(out) == [0, 5]


def test_a_trainer_killed_for_memory_is_said_to_be(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER", "sigkill:2")
    with pytest.raises(UserError, match=r"SpecForge ended \(SIGKILL, out of memory"):
        supervise.train(plan(out), out)


def test_other_settings_are_refused_by_name(out: Path) -> None:
    supervise.train(plan(out), out)
    with pytest.raises(UserError, match=r"config\.training\.learning_rate: null, now 0\.1"):
        supervise.train(plan(out, learning_rate=0.1), out)
    with pytest.raises(UserError, match='aux_layers: "output:3,7,11", now "fork"'):
        supervise.train(replace(plan(out), selection="fork"), out)
    assert begins(out) == [0]


def test_a_run_without_a_checkpoint_is_no_success(out: Path) -> None:
    with pytest.raises(UserError, match="without a checkpoint"):
        supervise.train(plan(out, save_interval=0), out)


def test_two_runs_do_not_share_a_folder(out: Path) -> None:
    process, _ = start_until_it_hangs(out)
    try:
        with pytest.raises(UserError, match="another `train run` is training there"):
            supervise.train(plan(out), out)
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="the signal of a parent's death is Linux's")
def test_the_trainer_of_a_killed_run_ends_and_the_next_start_goes_on(out: Path) -> None:
    process, trainer = start_until_it_hangs(out)
    process.kill()
    process.wait()
    assert supervise.train(plan(out), out).checkpoint.name == "head-step10"
    assert is_gone(trainer)
    assert begins(out) == [0, 5]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_to_the_run_alone_ends_the_trainer(
    out: Path, number: signal.Signals, status: int
) -> None:
    process, trainer = start_until_it_hangs(out)
    process.send_signal(number)
    assert process.wait(120) == status
    assert is_gone(trainer)


def test_a_trainer_that_does_not_listen_is_killed_with_all_that_it_started(out: Path) -> None:
    process, trainer = start_until_it_hangs(out, "deaf")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert is_gone(trainer)
    assert supervise.train(plan(out), out).checkpoint.name == "head-step10"


def test_a_trainer_that_outlives_its_run_is_waited_for(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "LET_GO_SECONDS", 0.5)
    out.mkdir()
    with (
        (out / supervise.TRAINER_LOCK).open("w") as held,
        subprocess.Popen(["sleep", "600"], pass_fds=[held.fileno()]) as orphan,
    ):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.close()
        with pytest.raises(UserError, match="has not ended"):
            supervise.train(plan(out), out)
        orphan.kill()


def test_only_whole_checkpoints_count(out: Path) -> None:
    def write(step: object, *names: str) -> None:
        folder = out / supervise.CHECKPOINTS / f"head-step{step}"
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text("")

    assert supervise.latest_checkpoint(out) is None
    whole = ("training_state.pt", "training_state_rank0.pt")
    write(9, *whole, "training_state_rank1.pt")
    write(10, *whole)
    write(11, "training_state_rank0.pt")
    write("10.old", *whole)
    newest = supervise.latest_checkpoint(out)
    assert newest is not None
    assert newest.name == "head-step10"
    of_two = supervise.latest_checkpoint(out, processes=2)
    assert of_two is not None
    assert of_two.name == "head-step9", "a process's state is missing from step 10"


def test_a_folder_without_a_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder of `train run`"):
        supervise.read_record(tmp_path)
    (tmp_path / supervise.RUN).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        supervise.read_record(tmp_path)
