"""The file of states: what is read of it, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.overlay.adaptive import states as files
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates

STATES = DraftStates(
    candidates={1: (0, 1, 3), 8: (0, 1)},
    cycle_ms={1: {0: 5.0, 1: 6.0, 3: 7.0}, 8: {0: 8.0, 1: 10.0}},
    shares=(0.6, 0.55, 0.5),
    start=3,
    measured={"on": "1x H200", "date": "2026-11-26"},
)


def written(folder: Path, **changed: Any) -> Path:
    data = json.loads(STATES.text())
    data[files.KEY] |= changed
    path = folder / "states.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert files.read(written(tmp_path)) == STATES
    assert STATES.where() == "1x H200, 2026-11-26"


def test_a_file_may_say_for_how_many_cycles_extends_were_put_off(tmp_path: Path) -> None:
    assert STATES.defer == 0
    found = files.read(written(tmp_path, measured={"defer": 8}))
    assert found is not None
    assert found.defer == 8
    for wrong in (-1, 65, "8", 8.0, True, None):
        with pytest.raises(UserError, match=r"defer .*: a number of cycles from 0 to 64"):
            files.read(written(tmp_path, measured={"defer": wrong}))


def test_the_files_that_come_with_the_package_are_read() -> None:
    found = sorted((data_dir("launch") / "adaptive").glob("*.json"))
    assert found
    for path in found:
        states = files.read(path)
        assert states is not None, path
        assert 0 in states.steps, path
        assert states.measured["date"], path


def test_costs_lie_between_those_that_were_measured() -> None:
    assert STATES.cost(1, 1) == 6.0
    assert STATES.cost(8, 1) == 10.0
    assert STATES.cost(64, 0) == 8.0
    assert STATES.cost(2, 0) == pytest.approx(5.0 + 3 / 7)
    # Not measured at 8: what is nearest.
    assert STATES.cost(8, 3) == 7.0


def test_candidates_hold_up_to_the_next_entry() -> None:
    assert STATES.candidates_at(1) == STATES.candidates_at(7) == (0, 1, 3)
    assert STATES.candidates_at(8) == STATES.candidates_at(200) == (0, 1)


def test_sglang_s_own_file_has_candidates_and_no_costs(tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_text('{"ema_alpha": 0.2, "1": {"candidate_steps": [1, 3]}}', encoding="utf-8")
    assert files.read_all(path) == ({1: (1, 3)}, None)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"format": 2}, "format 2 is not 1"),
        ({"cycle_ms": {"1": {"0": 0, "1": 6, "3": 7}}}, "more than 0 ms"),
        ({"cycle_ms": {"1": {"0": 5, "1": 6}}}, "3 steps are a candidate"),
        ({"cycle_ms": {}}, "more than 0 ms"),
        ({"cycle_ms": [1]}, "cannot be read"),
        ({"start": 2}, "2 steps, which are no candidate"),
        ({"start": 0}, "a server begins with a draft"),
        ({"shares": [0.5]}, "3 numbers from 0 to 1"),
        ({"shares": [0.5, 2, 0.5]}, "3 numbers from 0 to 1"),
        ({"shares": None}, "cannot be read"),
    ],
)
def test_what_is_no_states_is_one_line(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        files.read(written(tmp_path, **changed))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_shares_of_cycles_become_shares_of_drafts() -> None:
    assert files.conditional((0.7, 0.35, 0.0, 0.0)) == (0.7, 0.5, 0.0, 0.0)
    assert files.chain_lengths((0.5, 0.5)) == [1.0, 1.5, 1.75]
