"""A plan for a terminal."""

from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

from sglang_qwen3next_eagle3.bench.reports import markdown
from sglang_qwen3next_eagle3.bench.trees.accept_lengths import EQUAL_ACCEPTANCE
from sglang_qwen3next_eagle3.bench.trees.cost import CostModel
from sglang_qwen3next_eagle3.bench.trees.cycles import Tree
from sglang_qwen3next_eagle3.bench.trees.plan import Plan


def text(found: Plan, model: CostModel) -> str:
    """One table, the batches below each other, and what its columns mean."""
    given = found.accept_lengths
    header = ["B", "Configuration", "cycle ms", "", "to break even", "over the chain's"]
    header += ["to beat the best chain", "accept length", "tok/s", "speedup"] if given else []
    lines = []
    for row in found.rows:
        mark = " *" if found.best.get(row.batch) == row.name else ""
        line = [str(row.batch), row.name + mark, f"{row.cycle_ms:.2f}", row.source]
        line += [needed(row.break_even, row.tree), _optional(row.over_chain, markdown.times)]
        if given:
            line += [needed(row.beats_chain, row.tree)]
            line += [_optional(row.accept_length, markdown.length)]
            line += [_optional(row.tok_s, markdown.speed), _optional(row.speedup, markdown.times)]
        lines.append(line)
    notes = [
        "To break even: the accept length at which a configuration is as fast as no speculation. "
        "Over the chain's: how many times the accept length of the EAGLE3 chain of the same steps "
        "it needs. Never: more than its steps + 1."
    ]
    if given:
        notes += ["*: the fastest of its batch. tok/s: of the batch, decoding only."]
        notes += [EQUAL_ACCEPTANCE] if given.everywhere is not None else []
    if model.residuals and any(row.source == "fitted" for row in found.rows):
        notes += [
            f"Fitted cycles: predicting each measured one from the others is off by "
            f"{markdown.percent(model.residuals.held_out_median)} (median), "
            f"{markdown.percent(model.residuals.held_out_largest)} (largest)."
        ]
    return "\n".join([_grid(header, lines), *notes])


def needed(length: float | None, tree: Tree | None) -> str:
    """An accept length that a tree needs: "1.37", or "never (4.31)"."""
    if length is None or tree is None:
        return markdown.NOTHING
    spelt = markdown.length(length)
    return spelt if length <= tree[0] + 1 else f"never ({spelt})"


def _optional(value: float | None, spell: Callable[[float], str]) -> str:
    return markdown.NOTHING if value is None else spell(value)


def _grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(header):
        grid.add_column(column, justify="left" if index in (1, 3) else "right")
    previous = lines[0][0]
    for line in lines:
        if line[0] != previous:
            grid.add_row()
        previous = line[0]
        grid.add_row(*line)
    out = Console(file=StringIO(), width=160, highlight=False)
    out.print(grid)
    file: Any = out.file
    return "\n".join(line.rstrip() for line in str(file.getvalue()).rstrip().splitlines())
