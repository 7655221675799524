"""What people read of a result: Markdown, plots, a README's table, and two results side by side."""

from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import write_text
from sglang_qwen3next_eagle3.bench.reports import plots as drawing
from sglang_qwen3next_eagle3.bench.reports import run, speed
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.bench.trees import cost

__all__ = ["compare", "readme_rows", "write"]


def write(result: Result, folder: Path, *, plots: bool = True) -> str:
    """Write a result's report, plots and cost model into its folder; the report's text.

    Raises:
        UserError: plots without matplotlib.
    """
    if result.kind == "speed":
        text = _speed(result, folder, plots)
    else:
        wanted = plots and bool(result.measurements)
        drawn = drawing.run_plots(result, folder / "plots") if wanted else []
        text = run.report(result, [f"plots/{path.name}" for path in drawn])
    write_text(folder / "report.md", text)
    return text


def _speed(result: Result, folder: Path, plots: bool) -> str:
    try:
        model = cost.fit(result)
    except UserError as error:
        return speed.without_model(result, str(error))
    model.save(folder / "cost-model.json")
    drawn = drawing.speed_plots(result, model, folder / "plots") if plots else []
    return speed.speed_report(result, model, [f"plots/{path.name}" for path in drawn])


def readme_rows(result: Result) -> str:
    """The one table of a result that a README has room for."""
    return speed.readme_rows(result) if result.kind == "speed" else run.readme_rows(result)
