import math
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.train.trainer import runlog

TRAINED = "step 20: {'acc_0': 0.5, 'acc_1': 0.25, 'acc_6': 0.125, 'loss': 7.5, 'perf/s': 3.0}\n"
EVALUATED = (
    "step 20: {'eval/avg_loss': 7.0, 'eval/per_position_acc': [0.5, 0.25], "
    "'eval/simulated_acc_len': 0.625}\n"
)


def test_a_training_report_shows_the_first_and_the_last_draft() -> None:
    report = runlog.parse(TRAINED)
    assert report is not None
    assert report.describe() == "step 20: acc_0 0.500 acc_6 0.125 loss 7.500"


def test_a_held_out_accept_length_counts_the_target_s_own_token() -> None:
    report = runlog.parse(EVALUATED)
    assert report is not None
    assert report.is_evaluation
    assert report.describe().endswith("acc 0.500 0.250, accept length about 1.62")


def test_a_loss_that_is_no_number_is_shown_as_such() -> None:
    report = runlog.parse("step 3: {'acc_0': nan, 'loss': inf}")
    assert report is not None
    assert math.isnan(report.values["acc_0"])
    assert report.describe() == "step 3: acc_0 nan loss inf"


@pytest.mark.parametrize("line", ["", "loading", "step 3: done", "at step 3: {'a': 1.0}"])
def test_other_lines_are_no_reports(line: str) -> None:
    assert runlog.parse(line) is None


def test_the_last_metrics_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    # Killed behind step 30, gone on from 20: the second report of 30 counts, 40 comes later.
    lines = [TRAINED, EVALUATED, "noise\n", "step 30: {'loss': 6.0}\n", "Traceback\n"]
    lines += ["step 30: {'loss': 5.0}\n", "step 40: {'loss': 4.0}\n"]
    log.write_text("".join(lines))
    assert runlog.last_metrics(log, 30) == {
        "training": {"step": 30, "loss": 5.0},
        "evaluation": {
            "step": 20, "avg_loss": 7.0, "per_position_acc": [0.5, 0.25],
            "simulated_acc_len": 0.625,
        },
    }  # fmt: skip
    assert "perf/s" not in runlog.last_metrics(log, 20)["training"]
    assert runlog.last_metrics(tmp_path / "none", 30) == {}


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        (["Traceback", "  File x", "torch.SomeError: full", "bye"], "torch.SomeError: full"),
        (["[rank1]: KeyError: 1", "[rank0]: TypeError: 2"], "[rank0]: TypeError: 2"),
        (["something", "odd", ""], "odd"),
        ([], "it printed nothing"),
    ],
)  # fmt: skip
def test_the_reason_is_the_last_exception(tail: list[str], why: str) -> None:
    assert runlog.reason(tail) == why
