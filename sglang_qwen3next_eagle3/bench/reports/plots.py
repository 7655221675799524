"""A result of `bench run` as pictures."""

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.reports.card import read_card
from sglang_qwen3next_eagle3.bench.results import summary
from sglang_qwen3next_eagle3.bench.results.records import NONE, Configuration, Result
from sglang_qwen3next_eagle3.bench.results.summary import Row, Spread

# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is too pale for lines.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
GREY = "0.35"
"""Of the baseline."""
_MARKERS = "osD^vP"
_HATCHES = ("", "///", "...")
_WIDTH = 8.0
_ACROSS = 2
_DPI = 150


def require() -> None:
    """Raises UserError where matplotlib is not installed: better before the measurement."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("plots need matplotlib: pip install matplotlib") from None


def plots(result: Result, folder: Path) -> list[Path]:
    """The PNGs that the result has figures for, in this order; each is some 1200 pixels wide.

    speedup.png: by suite and batch. acceptance.png: by position, at the smallest batch of each
    configuration. throughput.png: the server's total over a request's tok/s, through the batches,
    where there are two or more.

    Raises:
        UserError: matplotlib is not installed, or a file cannot be written.
    """
    require()
    drawn = []
    for name, draw in (
        ("speedup.png", _speedup),
        ("acceptance.png", _acceptance),
        ("throughput.png", _throughput),
    ):
        figure = draw(result)
        if figure is not None:
            drawn.append(_save(figure, folder / name))
    return drawn


class _Style:
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


def _speedup(result: Result) -> Any:
    """A panel a batch, a group a suite and the mean, a bar a configuration."""
    style = _Style(result)
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
    figure, panels = _figure(len(tables), 1, 2.5)
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
    groups: list[Row | None] = [by_suite.get(suite) for suite in result.suites]
    # Only a mean over everything stands beside those of other configurations.
    mean = summary.mean_row(table)
    whole = mean is not None and len(mean.suites) == len(result.suites) > 1
    groups.append(mean if whole else None)
    return {
        place: row.speedup
        for place, row in enumerate(groups)
        if row is not None and row.speedup is not None
    }


def _acceptance(result: Result) -> Any:
    """A panel a suite, a line a configuration."""
    style = _Style(result)
    cells = summary.cells(result)
    curves: dict[str, dict[str, tuple[float, ...]]] = {}
    for key, cell in cells.items():
        if curve := cell.accept_by_position():
            # Cells come with the smallest batch first.
            curves.setdefault(key.suite, {}).setdefault(key.configuration, curve)
    if not curves:
        return None
    figure, panels = _figure(len(curves), _ACROSS, 2.7, sharex=True, sharey=True)
    for panel, (suite, lines) in zip(panels, curves.items(), strict=True):
        for name, curve in lines.items():
            label = summary.title(result.configuration(name))
            panel.plot(range(1, len(curve) + 1), curve, label=label, **style.line(name))
        panel.set_title(read_card().title(suite), loc="left", fontsize=10)
        panel.set_ylim(0, 1.02)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.yaxis.set_major_formatter(_ticker().PercentFormatter(1.0))
    figure.supxlabel("draft position", fontsize=9)
    figure.supylabel("verify steps that accept it", fontsize=9)
    _legend(figure, panels)
    return figure


def _throughput(result: Result) -> Any:
    """A panel a suite, a line a configuration, a point a batch."""
    style = _Style(result)
    points: dict[str, dict[str, list[tuple[float, float, int]]]] = {}
    for key, cell in summary.cells(result).items():
        request, total = cell.spread("request_tok_s"), cell.spread("output_tok_s")
        if request is not None and total is not None:
            line = points.setdefault(key.suite, {}).setdefault(key.configuration, [])
            line.append((request.median, total.median, key.batch))
    if not points or len(result.batches) < 2:
        return None
    figure, panels = _figure(len(points), _ACROSS, 3.0)
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


def _figure(count: int, across: int, height: float, **options: Any) -> tuple[Any, Sequence[Any]]:
    """A figure with `count` panels, `across` in a row, each so many inches high."""
    # Not pyplot, which keeps figures and looks for a display. Untyped, so by name.
    figures: Any = importlib.import_module("matplotlib.figure")
    agg: Any = importlib.import_module("matplotlib.backends.backend_agg")
    columns = min(across, count)
    lines = math.ceil(count / columns)
    figure = figures.Figure(figsize=(_WIDTH, height * lines + 0.7), layout="constrained")
    agg.FigureCanvasAgg(figure)
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


def _ticker() -> Any:
    return importlib.import_module("matplotlib.ticker")


def _save(figure: Any, path: Path) -> Path:
    save: Callable[..., None] = figure.savefig
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, format="png", dpi=_DPI)
    except OSError as error:
        raise UserError(f"cannot write the plot {path}: {error.strerror or error}") from None
    return path
