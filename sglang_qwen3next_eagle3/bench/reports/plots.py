"""Results as pictures: of `bench run` (`run_plots`) and of `bench speed` (`speed_plots`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sglang_qwen3next_eagle3.base import figures
from sglang_qwen3next_eagle3.base.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
)
from sglang_qwen3next_eagle3.bench.reports.card import read_card
from sglang_qwen3next_eagle3.bench.results import summary
from sglang_qwen3next_eagle3.bench.results.records import NONE, Configuration, Result
from sglang_qwen3next_eagle3.bench.results.summary import Spread, SuiteRow
from sglang_qwen3next_eagle3.bench.trees.cost import CostModel, Tree, cycle_ms, spelled

COLOURS = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE)
"""Of configurations; the baseline is grey."""
_MARKERS = "osD^vP"
_HATCHES = ("", "///", "...")
_WIDTH = 8.0
_ACROSS = 2
_TREES = (RED, GREEN, PURPLE, YELLOW)
_BLUES = ("#9ecae8", SKY, "#2b8cc4", BLUE, "#00456e")
"""Chains share one scale."""
_REACH = 4.0
"""Up to this accept length speedups are drawn, or further where it was measured."""
_CHAINS = 4
"""As many chains are drawn: all of them lie on each other."""


def run_plots(result: Result, folder: Path) -> list[Path]:
    """The PNGs that the result has figures for, in this order; each is some 1200 pixels wide.

    speedup.png: by suite and batch. acceptance.png: by position, at the smallest batch of each
    configuration. throughput.png: the server's total over a request's tok/s, through the batches,
    where there are two or more.

    Raises:
        UserError: matplotlib is not installed, or a file cannot be written.
    """
    drawn = []
    for name, draw in (
        ("speedup.png", speedup),
        ("acceptance.png", acceptance),
        ("throughput.png", throughput),
    ):
        figure = draw(result)
        if figure is not None:
            drawn.append(figures.save(figure, folder / name))
    return drawn


class Style:
    """The same colour, marker and hatch for a configuration in every picture."""

    def __init__(self, result: Result) -> None:
        names = [each.name for each in result.configurations if each.name != NONE]
        self._place = {name: place for place, name in enumerate(names)}

    def line(self, name: str) -> dict[str, Any]:
        if name == NONE:
            return {"color": GREY, "marker": "x", "linestyle": "--"}
        place = self._place[name]
        turn = place // len(COLOURS)
        # A second turn through the colours has other markers and lines.
        marker = _MARKERS[(place + turn) % len(_MARKERS)]
        return {
            "color": COLOURS[place % len(COLOURS)],
            "marker": marker,
            "linestyle": ("-", "-.", ":")[turn % 3],
        }

    def bar(self, name: str) -> dict[str, Any]:
        place = self._place[name]
        hatch = _HATCHES[place // len(COLOURS) % len(_HATCHES)]
        return {"color": COLOURS[place % len(COLOURS)], "hatch": hatch, "edgecolor": "white"}


def speedup(result: Result) -> Any:
    """A panel a batch, a group a suite and the mean, a bar a configuration."""
    style = Style(result)
    tables = {
        batch: [(each, _bars(result, each, batch)) for each in result.configurations]
        for batch in result.batches
    }
    tables = {
        batch: found
        for batch, table in tables.items()
        if (found := [(each, bars) for each, bars in table if bars])
    }
    if not tables:
        return None
    figure, panels = _panels(len(tables), 1, 2.5)
    labels = [*map(read_card().title, result.suites)] + ["Mean"] * (len(result.suites) > 1)
    top = max(bar.high for table in tables.values() for _, bars in table for bar in bars.values())
    for panel, (batch, table) in zip(panels, tables.items(), strict=True):
        width = min(0.8 / len(table), 0.3)
        for place, (configuration, bars) in enumerate(table):
            shift = (place - (len(table) - 1) / 2) * width
            spots = [group + shift for group in bars]
            heights = [bar.median for bar in bars.values()]
            name = summary.title(configuration)
            panel.bar(spots, heights, 0.94 * width, label=name, **style.bar(configuration.name))
            _whiskers(panel, spots, list(bars.values()))
            if len(table) * len(labels) <= 20:
                for spot, bar in zip(spots, bars.values(), strict=True):
                    text = f"{bar.median:.2f}"
                    height = bar.high + 0.015 * top
                    panel.text(spot, height, text, ha="center", va="bottom", fontsize=8)
        panel.axhline(1.0, color="black", linewidth=1)
        panel.set_title(f"B={batch}", loc="left", fontsize=10)
        panel.set_xticks(range(len(labels)), labels)
        panel.set_xlim(-0.6, len(labels) - 0.4)
        panel.set_ylim(0, 1.14 * top)
        panel.set_ylabel("speedup\n(1 = no speculation)", fontsize=9)
    _legend(figure, panels)
    return figure


def _bars(result: Result, configuration: Configuration, batch: int) -> dict[int, Spread]:
    """Place of the group -> speedup, of those that there are."""
    if configuration.name == NONE:
        return {}
    table = summary.rows(result, configuration.name, batch)
    by_suite = {row.suites[0]: row for row in table}
    groups: list[SuiteRow | None] = [by_suite.get(suite) for suite in result.suites]
    # Only a mean over everything stands beside those of other configurations.
    mean = summary.mean_row(table)
    whole = mean is not None and len(mean.suites) == len(result.suites) > 1
    groups.append(mean if whole else None)
    return {
        place: row.speedup
        for place, row in enumerate(groups)
        if row is not None and row.speedup is not None
    }


def acceptance(result: Result) -> Any:
    """A panel a suite, a line a configuration."""
    style = Style(result)
    cells = summary.cells(result)
    curves: dict[str, dict[str, tuple[float, ...]]] = {}
    for key, cell in cells.items():
        if curve := cell.accept_by_position():
            # Cells come with the smallest batch first.
            curves.setdefault(key.suite, {}).setdefault(key.configuration, curve)
    if not curves:
        return None
    figure, panels = _panels(len(curves), _ACROSS, 2.7, sharex=True, sharey=True)
    for panel, (suite, lines) in zip(panels, curves.items(), strict=True):
        for name, curve in lines.items():
            label = summary.title(result.configuration(name))
            panel.plot(range(1, len(curve) + 1), curve, label=label, **style.line(name))
        panel.set_title(read_card().title(suite), loc="left", fontsize=10)
        panel.set_ylim(0, 1.02)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.yaxis.set_major_formatter(figures.ticker().PercentFormatter(1.0))
    figure.supxlabel("draft position", fontsize=9)
    figure.supylabel("verify steps that accept it", fontsize=9)
    _legend(figure, panels)
    return figure


def throughput(result: Result) -> Any:
    """A panel a suite, a line a configuration, a point a batch."""
    style = Style(result)
    points: dict[str, dict[str, list[tuple[float, float, int]]]] = {}
    for key, cell in summary.cells(result).items():
        request, total = cell.spread("request_tok_s"), cell.spread("output_tok_s")
        if request is not None and total is not None:
            line = points.setdefault(key.suite, {}).setdefault(key.configuration, [])
            line.append((request.median, total.median, key.batch))
    if not points or len(result.batches) < 2:
        return None
    figure, panels = _panels(len(points), _ACROSS, 3.0)
    for panel, (suite, lines) in zip(panels, points.items(), strict=True):
        for name, line in lines.items():
            across, up, batches = zip(*line, strict=True)
            label = summary.title(result.configuration(name))
            panel.plot(across, up, label=label, **style.line(name))
            if name == NONE or NONE not in lines:
                for x, y, batch in zip(across, up, batches, strict=True):
                    place: dict[str, Any] = {"textcoords": "offset points", "xytext": (-5, -10)}
                    panel.annotate(
                        f"B={batch}", (x, y), fontsize=7, color=GREY, ha="right", **place
                    )
        panel.set_title(read_card().title(suite), loc="left", fontsize=10)
        flat = [point for line in lines.values() for point in line]
        panel.set_xlim(0, 1.08 * max(across for across, _, _ in flat))
        panel.set_ylim(0, 1.08 * max(up for _, up, _ in flat))
    figure.supxlabel("tok/s of a request (median)", fontsize=9)
    figure.supylabel("tok/s of the server", fontsize=9)
    _legend(figure, panels)
    return figure


def _panels(count: int, across: int, height: float, **options: Any) -> tuple[Any, Sequence[Any]]:
    """A figure with `count` panels, `across` in a row, each so many inches high."""
    columns = min(across, count)
    lines = math.ceil(count / columns)
    figure = figures.figure(_WIDTH, height * lines + 0.7)
    panels = list(figure.subplots(lines, columns, squeeze=False, **options).flat)
    for panel in panels[count:]:
        panel.remove()
    for place, panel in enumerate(panels[:count]):
        # A shared axis is labelled in the last line only, which may have fewer panels.
        if place + columns >= count:
            panel.tick_params(labelbottom=True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", color="0.9")
        panel.set_axisbelow(True)
    return figure, panels[:count]


def _whiskers(panel: Any, spots: Sequence[float], bars: Sequence[Spread]) -> None:
    if any(bar.low != bar.high for bar in bars):
        below = [bar.median - bar.low for bar in bars]
        above = [bar.high - bar.median for bar in bars]
        heights = [bar.median for bar in bars]
        panel.errorbar(spots, heights, [below, above], fmt="none", ecolor="0.2", elinewidth=1)


def _legend(figure: Any, panels: Sequence[Any]) -> None:
    """One for all panels, each configuration once."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = min(4, len(found))
    place: dict[str, Any] = {"loc": "outside upper center", "ncols": columns, "frameon": False}
    figure.legend(list(found.values()), list(found), fontsize=8, **place)


@dataclass(frozen=True)
class _Line:
    name: str
    label: str
    tree: Tree | None
    eagle3: bool
    style: dict[str, Any]


def speed_plots(result: Result, model: CostModel, folder: Path) -> list[Path]:
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
    lines = [_Line(NONE, "no speculation", None, False, {"color": BLACK, "marker": "o"})]
    others = [name for name, algorithm in algorithms.items() if algorithm == "nextn"]
    for name in others:
        style = {"color": ORANGE, "marker": "^"}
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
    figure, axes = _row_of_panels(1)
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
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(figures.ticker().FuncFormatter(lambda value, _: f"{value:g}"))
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
    return figures.save(figure, path)


def _law(model: CostModel, line: _Line, batch: int) -> float | None:
    """Fitted also where it was measured, to show how far it lies from that."""
    if model.coefficients is None or not (line.eagle3 or line.tree is None):
        return None
    return model.fitted(batch, line.tree)


def _speedups(
    result: Result, model: CostModel, lines: Sequence[_Line], batches: Sequence[int], path: Path
) -> Path:
    figure, axes = _row_of_panels(len(batches))
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
        panel.axhline(1, color=BLACK, linewidth=0.8)
        panel.set_title(f"B={batch}: decode speed over no speculation", fontsize=10)
        panel.set_xlabel("accept length")
        panel.legend(title="breaks even (|) at", loc="upper left", fontsize=8, title_fontsize=8)
    axes[0].set_ylabel("times no speculation")
    return figures.save(figure, path)


def _row_of_panels(count: int) -> tuple[Any, Any]:
    figure = figures.figure(1 + 5.2 * count, 4.8)
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for panel in axes:
        panel.grid(color="0.9", linewidth=0.6)
        panel.set_axisbelow(True)
    return figure, axes
