"""A speed result as pictures: what a cycle costs, and what an accept length gains."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.results.records import NONE, Result
from sglang_qwen3next_eagle3.bench.trees.cost import CostModel, spelled
from sglang_qwen3next_eagle3.bench.trees.cycles import Tree, cycle_ms

# Okabe and Ito's colours, told apart with every kind of colour blindness; chains share one scale.
_BLACK, _ORANGE, _GREEN, _PURPLE = "#000000", "#E69F00", "#009E73", "#CC79A7"
_TREES = ("#D55E00", _GREEN, _PURPLE, "#F0E442")
_BLUES = ("#9ecae8", "#56B4E9", "#2b8cc4", "#0072B2", "#00456e")
_REACH = 4.0
"""Up to this accept length speedups are drawn, or further where it was measured."""
_CHAINS = 4
"""As many chains are drawn: all of them lie on each other."""


@dataclass(frozen=True)
class _Line:
    name: str
    label: str
    tree: Tree | None
    eagle3: bool
    style: dict[str, Any]


def plots(result: Result, model: CostModel, folder: Path) -> list[Path]:
    """The PNGs that were written: `cycle.png`, and `speedup.png` where there is a baseline to it.

    Raises:
        UserError: a file cannot be written.
    """
    lines = _lines(model)
    written = [_cycles(model, lines, folder / "cycle.png")]
    ends = [batch for batch in model.batches if model.cycle(batch, None)]
    if len(lines) > 1 and ends:
        shown = ends[:1] + ends[1:][-1:]
        written.append(_speedups(result, model, lines, shown, folder / "speedup.png"))
    return written


def _lines(model: CostModel) -> list[_Line]:
    """The baseline, MTP and other models, a few of the chains, all trees."""
    algorithms = {cell.configuration: cell.algorithm for cell in model.cells}
    trees = {
        name: tree
        for name, tree in model.configurations.items()
        if tree and (name == spelled(tree) or spelled(tree) not in algorithms)
    }
    named = {name: tree for name, tree in trees.items() if algorithms[name] == "eagle3"}
    chains = sorted((name for name in named if named[name][1] == 1), key=lambda n: named[n])
    drawn = [chains[i] for i in _spread(len(chains))]
    blues = [_BLUES[i] for i in _spread(len(drawn), len(_BLUES))]
    lines = [_Line(NONE, "no speculation", None, False, {"color": _BLACK, "marker": "o"})]
    others = [name for name, algorithm in algorithms.items() if algorithm == "nextn"]
    for name in others:
        style = {"color": _ORANGE, "marker": "^"}
        tree = model.configurations[name]
        lines.append(_Line(name, f"MTP {spelled(tree or (0, 0, 0))}", tree, False, style))
    for name, color in zip(drawn, blues, strict=True):
        lines.append(_Line(name, name, named[name], True, {"color": color, "marker": "s"}))
    wide = [name for name in named if named[name][1] > 1]
    for index, name in enumerate(wide):
        style = {"color": _TREES[index % len(_TREES)], "marker": "D"}
        lines.append(_Line(name, name, named[name], True, style))
    return lines


def _spread(count: int, over: int | None = None) -> list[int]:
    """At most `_CHAINS` places, evenly from the first to the last; or `count` places of `over`."""
    last, places = (count - 1, min(count, _CHAINS)) if over is None else (over - 1, count)
    return sorted({round(i) for i in np.linspace(0, max(last, 0), places)}) if places > 0 else []


def _cycles(model: CostModel, lines: Sequence[_Line], path: Path) -> Path:
    figure, axes = _figure(1)
    panel = axes[0]
    dense = np.unique(np.geomspace(model.batches[0], model.batches[-1], 60).round())
    for line in lines:
        points = [(b, ms) for b in model.batches if (ms := model.measured(line.name, b))]
        if not points:
            continue
        color = line.style["color"]
        panel.plot([], [], linewidth=1.2, label=line.label, **line.style)
        panel.plot(*zip(*points, strict=True), linestyle="none", markersize=5, **line.style)
        curve = [(b, ms) for b in dense if (ms := _law(model, line, int(b))) is not None]
        drawn, dashes = (curve, "-") if curve else (points, ":")
        panel.plot(*zip(*drawn, strict=True), color=color, linewidth=1.2, linestyle=dashes)
    ticker: Any = importlib.import_module("matplotlib.ticker")
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_xticks(model.batches)
    panel.set_xlabel("batch size")
    panel.set_ylabel("ms a cycle")
    panel.set_title("Cycle: drafting and verification of the whole batch", fontsize=10)
    panel.legend(
        title="points: measured\nlines: fitted (dotted: not)",
        loc="upper left",
        fontsize=8,
        title_fontsize=8,
    )
    return _save(figure, path)


def _law(model: CostModel, line: _Line, batch: int) -> float | None:
    """Fitted also where it was measured, to show how far it lies from that."""
    if model.coefficients is None or not (line.eagle3 or line.tree is None):
        return None
    return model.fitted(batch, line.tree)


def _speedups(
    result: Result, model: CostModel, lines: Sequence[_Line], batches: Sequence[int], path: Path
) -> Path:
    figure, axes = _figure(len(batches))
    real = [m.figures.accept_length or 0.0 for m in result.measurements]
    shown = max([_REACH, *real])
    for panel, batch in zip(axes, batches, strict=True):
        plain = model.cycle(batch, None)
        for line in lines:
            cell = model.cell(line.name, batch)
            if line.tree is None or cell is None or plain is None:
                continue
            even, end = cell.cycle_ms / plain.ms, min(line.tree[0] + 1, shown)
            label = f"{line.label}: {even:.2f}"
            panel.plot([], [], linewidth=1.2, label=label, **line.style)
            color = line.style["color"]
            panel.plot([1, end], [1 / even, end / even], color=color, linewidth=1.2)
            points = [
                (m.figures.accept_length, m.figures.accept_length * plain.ms / cycle)
                for m in result.measurements
                if (m.configuration, m.batch) == (line.name, batch)
                and m.figures.accept_length is not None
                and (cycle := cycle_ms(m)) is not None
            ]
            if points:
                panel.plot(*zip(*points, strict=True), linestyle="none", markersize=4, **line.style)
            if even <= end:
                panel.plot([even], [1], marker="|", markersize=13, color=color, markeredgewidth=2)
        panel.axhline(1, color=_BLACK, linewidth=0.8)
        panel.set_title(f"B={batch}: decode speed over no speculation", fontsize=10)
        panel.set_xlabel("accept length")
        panel.legend(title="breaks even (|) at", loc="upper left", fontsize=8, title_fontsize=8)
    axes[0].set_ylabel("times no speculation")
    return _save(figure, path)


def _figure(panels: int) -> tuple[Any, Any]:
    # Not pyplot, which keeps figures and looks for a display. Untyped, so by name.
    figures: Any = importlib.import_module("matplotlib.figure")
    agg: Any = importlib.import_module("matplotlib.backends.backend_agg")
    figure = figures.Figure(figsize=(1 + 5.2 * panels, 4.8), layout="constrained")
    agg.FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for panel in axes:
        panel.grid(color="0.9", linewidth=0.6)
        panel.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise UserError(f"cannot write the plot {path}: {error.strerror or error}") from None
    return path
