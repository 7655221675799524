"""`benchmarks/divergences.py`: margins of a model where two answers part, by hand."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.bench.load.load import Pass
from tests.unit.bench.results.test_metrics import plain

PATH = Path(__file__).parents[4] / "benchmarks" / "divergences.py"
VOCABULARY = 6


@pytest.fixture(scope="module")
def divergences() -> ModuleType:
    spec = importlib.util.spec_from_file_location(PATH.stem, PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(ids: torch.Tensor) -> Any:
    """After token t, t + 1 is best, 2.0 before t + 2 and 3.0 before the rest; after 3, 0.25."""
    logits = torch.zeros(1, ids.shape[1], VOCABULARY)
    for place, token in enumerate(ids[0].tolist()):
        logits[0, place, (token + 1) % VOCABULARY] = 3.0
        logits[0, place, (token + 2) % VOCABULARY] = 2.75 if token == 3 else 1.0
    return SimpleNamespace(logits=logits)


def test_margins_are_of_the_position_where_answers_part(divergences: ModuleType) -> None:
    asked = {"a": [0, 1], "b": [0, 1], "c": [0, 1]}
    speculative = Pass([plain("a", (2, 3, 5, 0)), plain("b", (2, 3, 4)), plain("c", (4, 4))])
    without = Pass([plain("a", (2, 3, 4, 5)), plain("b", (2, 3, 4)), plain("c", (5, 3))])
    found = divergences.compare(model, asked, speculative, without)
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
    divergences: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["divergences.py", str(tmp_path), "--suite", "smoke"])
    with pytest.raises(SystemExit) as stopped:
        divergences.main()
    assert stopped.value.code == 2
    assert "has none of smoke without speculation" in capsys.readouterr().err


def test_equal_answers_have_no_margins(divergences: ModuleType) -> None:
    same = Pass([plain("a", (2, 3))])
    assert divergences.compare(model, {"a": [0]}, same, same) == {"parted": 0}
