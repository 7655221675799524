"""base/figures where matplotlib draws."""

from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base import figures
from sglang_qwen3next_eagle3.base.errors import UserError


def test_a_figure_becomes_a_png_of_its_size(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = figures.figure(2.0, 1.0)
    drawn.subplots(1, 1).plot([0, 1])
    path = figures.save(drawn, tmp_path / "new" / "a.png")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert [int.from_bytes(content[at : at + 4], "big") for at in (16, 20)] == [300, 150]
    assert [each.name for each in path.parent.iterdir()] == ["a.png"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write the plot .*a\.png: "):
        figures.save(figures.figure(1, 1), tmp_path / "file" / "a.png")
