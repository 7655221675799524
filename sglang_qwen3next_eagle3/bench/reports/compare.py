"""Two results side by side: what got faster or slower, and what else differs between them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench import markdown
from sglang_qwen3next_eagle3.bench.reports.card import read_card
from sglang_qwen3next_eagle3.bench.results import summary
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Result
from sglang_qwen3next_eagle3.bench.results.summary import Cell, CellKey, Spread
from sglang_qwen3next_eagle3.overlay.proofs import AUTO

FIGURES = {
    "output_tok_s": ("total tok/s", markdown.speed),
    "request_tok_s": ("request tok/s", markdown.speed),
    "ttft.p50": ("TTFT p50 (ms)", markdown.milliseconds),
    "inter_token.p50": ("inter-token p50 (ms)", markdown.milliseconds),
    "accept_length": ("accept length", markdown.length),
}
"""What is compared: the field of `Figures`, and how it is shown."""


@dataclass(frozen=True)
class ResultComparison:
    """data: JSON-ready.

    `cells`: for each common cell and figure the medians and spreads, the ratio B / A, and `apart`:
        whether the spreads do not overlap; None where one side has no second repetition.
    `chance`: of an `apart` by luck alone, for the smallest numbers of repetitions compared.
    `differences`: of provenance and settings, key to both values. `servers`: of argv and
        environment. `only_in`: cells that the other lacks.
    """

    data: dict[str, Any]

    @property
    def markdown(self) -> str:
        return as_markdown(self.data)


def compare(a: Result, b: Result, names: tuple[str, str] = ("A", "B")) -> ResultComparison:
    """names: what to call the two results.

    Raises:
        UserError: results of different kinds, or without a common cell.
    """
    if a.kind != b.kind:
        raise UserError(
            f"{names[0]} is a result of kind {a.kind!r}, {names[1]} of {b.kind!r}: "
            "compare two of one kind"
        )
    ours, theirs = summary.cells(a), summary.cells(b)
    common = [key for key in ours if key in theirs]
    if not common:
        raise UserError(
            f"{names[0]} and {names[1]} have no cell in common: {_what(a)} against {_what(b)}"
        )
    cells = [_cell(key, ours[key], theirs[key]) for key in common]
    counts = [
        (figure["a"]["repetitions"], figure["b"]["repetitions"])
        for cell in cells
        for figure in cell["figures"].values()
        if figure["apart"] is not None
    ]
    data = {
        "names": list(names),
        "kind": a.kind,
        "cells": cells,
        "chance": max((2 / math.comb(m + n, m) for m, n in counts), default=None),
        "differences": {
            **_differences("provenance.", a.provenance, b.provenance),
            **_differences("settings.", a.settings, b.settings),
        },
        "servers": [row for name in _shared(a, b) for row in _server(a, b, name)],
        "only_in": {
            "a": [_named(key) for key in ours if key not in theirs],
            "b": [_named(key) for key in theirs if key not in ours],
        },
    }
    return ResultComparison(data)


def as_markdown(comparison: Mapping[str, Any]) -> str:
    """`ResultComparison.data` for people."""
    one, other = comparison["names"]
    parts = [f"# {other} against {one}", *_figures_part(comparison)]
    if comparison["differences"]:
        lines = [[key, *both] for key, both in comparison["differences"].items()]
        parts += ["## What else differs", markdown.table(["", one, other], lines, words=3)]
    if comparison["servers"]:
        lines = [[row["configuration"], row["a"], row["b"]] for row in comparison["servers"]]
        header = ["server", f"only in {one}", f"only in {other}"]
        parts += ["## Servers that differ", markdown.table(header, lines, words=3)]
    for side, name in (("a", one), ("b", other)):
        if cells := comparison["only_in"][side]:
            parts += [f"## Only in {name}", "\n".join(map(_line, cells))]
    return "\n\n".join(parts) + "\n"


def _figures_part(comparison: Mapping[str, Any]) -> Iterator[str]:
    one, other = comparison["names"]
    chance = comparison["chance"]
    text = (
        f"Ratios are {other} / {one} of the medians over repetitions. "
        "**Bold**: the spreads of the two do not overlap."
    )
    if chance is None:
        text += " Nothing is bold without two repetitions on both sides."
    else:
        text += f" Chance alone does that to up to {markdown.percent(chance)} of the ratios."
    yield text
    speed = comparison["kind"] == "speed"
    header = ["B", "Configuration", "Dataset", *(["simulated"] if speed else [])]
    for figure, (title, spell) in FIGURES.items():
        lines = [
            [*_spelled(cell, speed), *_shown(cell["figures"][figure], spell)]
            for cell in comparison["cells"]
            if figure in cell["figures"]
        ]
        if lines:
            yield f"## {title}"
            yield markdown.table([*header, one, other, "ratio"], lines, words=len(header))


def _shown(figure: Mapping[str, Any], spell: Any) -> list[str]:
    both = [
        Spread(side["median"], side["low"], side["high"]) for side in (figure["a"], figure["b"])
    ]
    ratio = markdown.NOTHING if figure["ratio"] is None else markdown.times(figure["ratio"])
    bold = f"**{ratio}**" if figure["apart"] else ratio
    return [*(markdown.spread(side, spell) for side in both), bold]


def _cell(key: CellKey, one: Cell, other: Cell) -> dict[str, Any]:
    figures = {}
    for figure in FIGURES:
        a, b = one.spread(figure), other.spread(figure)
        if a is not None and b is not None:
            ratio = b.over(a)
            repeated = min(a.count, b.count) > 1
            figures[figure] = {
                "a": _side(a),
                "b": _side(b),
                "ratio": None if ratio is None else ratio.median,
                "apart": (b.low > a.high or b.high < a.low) if repeated else None,
            }
    return {**_named(key), "figures": figures}


def _side(spread: Spread) -> dict[str, float]:
    return {
        "median": spread.median,
        "low": spread.low,
        "high": spread.high,
        "repetitions": spread.count,
    }


def _named(key: CellKey) -> dict[str, Any]:
    return key._asdict()


def _spelled(cell: Mapping[str, Any], speed: bool = False) -> list[str]:
    simulated = cell["simulated_accept_length"]
    length = [markdown.NOTHING if simulated is None else f"{simulated:g}"] if speed else []
    suite = read_card().title(cell["suite"])
    return [str(cell["batch"]), cell["configuration"], suite, *length]


def _line(cell: Mapping[str, Any]) -> str:
    simulated = cell["simulated_accept_length"]
    length = [] if simulated is None else [f"accept length {simulated:g}"]
    return f"- {', '.join([*_spelled(cell), *length])}"


def _differences(prefix: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[str]]:
    ours, theirs = dict(markdown.flat(a, prefix)), dict(markdown.flat(b, prefix))
    pairs = {
        key: [ours.get(key, markdown.NOTHING), theirs.get(key, markdown.NOTHING)]
        for key in (*ours, *theirs)
    }
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _shared(a: Result, b: Result) -> list[str]:
    names = [each.name for each in b.configurations]
    return [each.name for each in a.configurations if each.name in names]


def _server(a: Result, b: Result, name: str) -> Iterator[dict[str, str]]:
    ours, theirs = _arguments(a.configuration(name)), _arguments(b.configuration(name))
    if sorted(ours) != sorted(theirs):
        yield {
            "configuration": name,
            "a": " ".join(each for each in ours if each not in theirs),
            "b": " ".join(each for each in theirs if each not in ours),
        }


def _arguments(configuration: Configuration) -> list[str]:
    """Each flag with its values, each variable, and the tree, so that their order is nothing."""
    # What `auto` came to, where that is known.
    served = {
        key: configuration.switched.get(key, value) if value.startswith(AUTO) else value
        for key, value in configuration.environment.items()
    }
    found = [f"{key}={value}" for key, value in served.items()]
    found.append(f"[{configuration.algorithm} {configuration.tree or ''}]".replace(" ]", "]"))
    for word in configuration.argv:
        if word.startswith("--") or not found[-1].startswith("--"):
            found.append(word)
        else:
            found[-1] += f" {word}"
    return found


def _what(result: Result) -> str:
    parts: Sequence[Sequence[str]] = (
        [each.name for each in result.configurations],
        result.suites,
        [f"B={batch}" for batch in result.batches],
    )
    return "; ".join(" ".join(part) for part in parts) or "nothing"
