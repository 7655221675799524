"""`bench divergences`: margins of a model where two answers part, by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.bench.divergences import margins
from sglang_qwen3next_eagle3.bench.results.journal import Journal, PassKey
from sglang_qwen3next_eagle3.bench.results.records import NONE, Pass
from tests.support.bench_results import plain
from tests.support.checkpoints import POINTER
from tests.support.small_target import write_target

VOCABULARY = 6


def model(ids: torch.Tensor) -> Any:
    """After token t, t + 1 is best, 2.0 before t + 2 and 3.0 before the rest; after 3, 0.25."""
    logits = torch.zeros(1, ids.shape[1], VOCABULARY)
    for place, token in enumerate(ids[0].tolist()):
        logits[0, place, (token + 1) % VOCABULARY] = 3.0
        logits[0, place, (token + 2) % VOCABULARY] = 2.75 if token == 3 else 1.0
    return SimpleNamespace(logits=logits)


def test_margins_are_of_the_position_where_answers_part() -> None:
    asked = {"a": [0, 1], "b": [0, 1], "c": [0, 1]}
    speculative = Pass([plain("a", (2, 3, 5, 0)), plain("b", (2, 3, 4)), plain("c", (4, 4))])
    without = Pass([plain("a", (2, 3, 4, 5)), plain("b", (2, 3, 4)), plain("c", (5, 3))])
    found = margins(model, asked, speculative, without)
    assert (found["parted"], found["of"]) == (2, 3)
    # a: 5 against 4 after 3, a margin of 0.25; c: 4 against 5 after 1, both 3.0 below 2.
    assert found["not among the best two"] == 1
    assert found["margin, median"] == (0.25 + 3.0) / 2
    assert found["margin, widest"] == 3.0
    # The positions before: after 1 and after 2, of a alone.
    assert found["shared positions"] == 2
    assert found["their margin, median"] == 2.0
    assert found["as narrow as the widest"] == 1.0


def test_a_folder_without_passes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "divergences", str(tmp_path), "--suite", "smoke"]) == 2
    assert "has none of smoke without speculation" in capsys.readouterr().err
    assert main(["bench", "divergences", str(tmp_path / "nothing")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_target_that_is_not_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = write_target(tmp_path / "target")
    (target / "model.safetensors").write_bytes(POINTER)
    passes = {PassKey(NONE, "smoke", 1, 0): Pass([plain("a", (2, 3))])}
    monkeypatch.setattr(Journal, "passes", lambda _journal: passes)
    words = ["divergences", str(tmp_path), "--suite", "smoke", "--target", str(target)]
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert "model.safetensors is a git LFS pointer" in error
    assert error.count("\n") == 1


def test_equal_answers_have_no_margins() -> None:
    same = Pass([plain("a", (2, 3))])
    assert margins(model, {"a": [0]}, same, same) == {"parted": 0}
