"""What the tests of `train run` share: its inputs, a trainer that only notes what it was given."""

from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.train.trainer import run
from sglang_qwen3next_eagle3.train.trainer.supervise import TrainingOutcome, TrainingPlan
from tests.support.train_runs import ErrorOf, Made


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainingPlan]:
    """What would have been handed to SpecForge."""
    plans: list[TrainingPlan] = []

    def train(plan: TrainingPlan, out: Path) -> TrainingOutcome:
        plans.append(plan)
        return TrainingOutcome(
            out / "checkpoints" / "head-step10", {"finished": "now"}, trained=True
        )

    monkeypatch.setattr(run, "train", train)
    return plans


@pytest.fixture
def error_of(
    made: Made, capsys: pytest.CaptureFixture[str], trained: list[TrainingPlan]
) -> ErrorOf:
    def error(*words: str) -> str:
        assert made.run(*words) == 2
        assert not trained
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        return printed

    return error
