"""Pictures of a result, which matplotlib draws."""

from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.reports.plots import speed_plots
from sglang_qwen3next_eagle3.bench.reports.speed import (
    speed_report,
)
from sglang_qwen3next_eagle3.bench.trees.cost import fit
from tests.support import speed
from tests.support.speed import configuration, measurement


def test_plots_are_written_and_shown(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = speed.of_law()
    model = fit(result)
    written = speed_plots(result, model, tmp_path / "plots")
    assert [path.name for path in written] == ["cycle.png", "speedup.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert "![plots/cycle.png](plots/cycle.png)" in speed_report(result, model, ["plots/cycle.png"])


def test_a_baseline_alone_has_a_plot_and_a_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = speed.result([configuration(None)], [measurement("none", 1, 5.0)])
    assert [p.name for p in speed_plots(result, fit(result), tmp_path)] == ["cycle.png"]
    assert "\n## Accept length to break even" not in speed_report(result, fit(result))


def test_a_plot_that_cannot_be_written_is_said_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "plots").write_text("a file")
    result = speed.of_law()
    with pytest.raises(UserError, match="cannot write the plot .*cycle.png"):
        speed_plots(result, fit(result), tmp_path / "plots")
