"""The right selection of synthetic heads is found: named, unusual, permuted, or none."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sglang_qwen3next_eagle3.calibrate.measure import SelectionMeasurement, measure
from sglang_qwen3next_eagle3.calibrate.scoring import Depths
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection, Tap
from tests.support import calibration

TARGET = calibration.target()


@cache  # Two tests ask of one measurement.
def measured_alone(trained: Depths, count: int) -> SelectionMeasurement:
    with TemporaryDirectory() as folder:
        return measured(Path(folder), trained, count=count)


def measured(
    folder: Path, trained: Depths | None, own: AuxSelection | None = None, count: int = 8
) -> SelectionMeasurement:
    made = calibration.head(folder)
    texts = calibration.texts(made.model, trained, count=count)
    return measure(made.scorer, texts, TARGET, own=own)


@pytest.mark.parametrize("name", aux_layers.NAMED)
def test_a_named_selection_is_found_by_name_and_by_search_alone(tmp_path: Path, name: str) -> None:
    trained = aux_layers.named(name, TARGET).depths
    found = measured(tmp_path, trained)
    assert found.searched == trained
    assert found.verdict.chosen is not None
    assert found.verdict.chosen.depths == trained
    assert found.verdict.chosen.names == (name,)
    assert found.verdict.chosen.score.top1[0] == 1.0


@pytest.mark.parametrize("trained", [(1, 2, 3), (0, 6, 12), (5, 8, 9)])
def test_an_unusual_selection_is_found_by_search(trained: Depths) -> None:
    found = measured_alone(trained, 12)
    assert found.searched == trained
    assert found.verdict.chosen is not None
    assert found.verdict.chosen.depths == trained
    assert found.verdict.chosen.names == ()
    assert not any(other.tied for other in found.verdict.candidates[1:])


def test_the_profile_has_its_peak_at_the_selection() -> None:
    found = measured_alone((5, 8, 9), 12)
    assert found.around == (5, 8, 9)
    assert [len(values) for values in found.profile] == [13, 13, 13]
    for values, depth in zip(found.profile, found.around, strict=True):
        assert values[depth] == max(values) == 1.0


def test_a_head_whose_config_is_wrong_is_found_out(tmp_path: Path) -> None:
    own = AuxSelection((Tap(3, "output"), Tap(7, "output"), Tap(11, "output")))
    found = measured(tmp_path, (3, 7, 11), own)
    assert found.verdict.chosen is not None
    assert found.verdict.chosen.depths == (3, 7, 11)
    assert found.verdict.chosen.names == ("fork", "config, ids as inputs")
    wrong = next(c for c in found.verdict.candidates if "config" in c.names)
    assert wrong.names == ("config", "card")
    assert not wrong.tied


def test_states_in_another_order_are_found_but_not_chosen(tmp_path: Path) -> None:
    found = measured(tmp_path, (9, 5, 2))
    assert found.verdict.candidates[0].depths == (9, 5, 2)
    assert found.verdict.chosen is None


def test_a_head_that_knows_nothing_has_no_selection(tmp_path: Path) -> None:
    found = measured(tmp_path, None)
    assert found.verdict.chosen is None


def test_work_is_announced_and_counted(tmp_path: Path) -> None:
    made = calibration.head(tmp_path)
    texts = calibration.texts(made.model, (2, 7, 11), count=2)
    totals: dict[str, int] = {}
    counts: dict[str, int] = {}

    def task(label: str, total: int) -> object:
        totals[label], counts[label] = total, 0

        def done() -> None:
            counts[label] += 1

        return done

    measure(made.scorer, texts, TARGET, task=task)  # type: ignore[arg-type]
    assert counts == totals
    assert totals["search, slot 1 of 3, sweep 1"] == 13 * 2
