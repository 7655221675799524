"""A result of `bench speed` or `bench auto` as Markdown: tables of speed, cycle times, and what a
tree needs."""

from collections.abc import Callable, Iterator, Sequence

from sglang_qwen3next_eagle3.bench import markdown
from sglang_qwen3next_eagle3.bench.markdown import NOTHING
from sglang_qwen3next_eagle3.bench.reports import auto, run
from sglang_qwen3next_eagle3.bench.reports.card import CardFigures, read_card
from sglang_qwen3next_eagle3.bench.results import summary
from sglang_qwen3next_eagle3.bench.results.records import CHANGING, NONE, Result
from sglang_qwen3next_eagle3.bench.results.summary import Cell
from sglang_qwen3next_eagle3.bench.trees.cost import TERMS, CostModel, Tree, spelled
from sglang_qwen3next_eagle3.bench.trees.plan import PlanRow, needed, plan

_TITLES = {
    "speed": "Speed of draft trees at simulated accept lengths",
    "auto": "Steps that follow load and acceptance, at simulated accept lengths",
}
"""By the benchmark that a result's settings name."""
_UNPUBLISHED = 2.46
"""The accept length beside figures of the card that have none: the card's mean at B=1."""
_APART = 0.2
"""A cycle whose extremes lie further apart, relative to the median, is not one figure."""
_QUEUED = 0.6
"""Below this share of its requests' decode rates a server did something else too."""
_LAW = """\
cycle = fixed + experts x (1 - (1 - {k}/{of})^(B x draft)) + token x B x draft + sequence x B
speculating: + speculation + step x steps + branch x B x topk x steps
topk > 1:    + branching"""


def speed_report(result: Result, model: CostModel, plots: Sequence[str] = ()) -> str:
    """The whole report. plots: PNGs to show, by their paths from where the report will lie."""
    measured = _Measured(result)
    parts = [
        *_head(result),
        *_beside_the_card(measured),
        *auto.section(result),
        *_speeds(measured),
        *_cycles(result, model),
        *_break_even(result, model),
        *(f"![{plot}]({plot})" for plot in plots),
        *_law(result, model),
        *_doubts(measured, model),
        *run.servers(result),
        *run.settings(result),
        *run.regenerate(result),
    ]
    return "\n\n".join(parts) + "\n"


def without_model(result: Result, why: str) -> str:
    """The report where nothing can be compared: speeds, and what failed. why: one line."""
    parts = [
        *_head(result),
        f"No cost model: {why}.",
        *_speeds(_Measured(result)),
        *run.lacking(result),
        *run.servers(result),
        *run.settings(result),
    ]
    return "\n\n".join(parts) + "\n"


def _head(result: Result) -> Iterator[str]:
    yield f"# {_TITLES.get(result.settings.get('kind', ''), _TITLES['speed'])}"
    if result.notes:
        yield "\n".join(f"- {note}" for note in result.notes)
    yield "## What was run"
    yield markdown.table(["what", ""], markdown.flat(result.provenance), words=2)


def readme_rows(result: Result) -> str:
    """The card's rows beside ours, for the README; empty where none was measured."""
    return "\n\n".join(list(_beside_the_card(_Measured(result)))[1:])


class _Measured:
    """The cells of a result by configuration, batch and simulated accept length."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.batches = result.batches
        self.cells: dict[tuple[str, int, float | None], Cell] = {
            (key.configuration, key.batch, key.simulated_accept_length): cell
            for key, cell in summary.cells(result).items()
            if key.suite != CHANGING
        }
        names = dict.fromkeys(name for name, _, _ in self.cells)
        self.configurations = [c for c in result.configurations if c.name in names]

    @property
    def accept_lengths(self) -> list[float]:
        return sorted({length for _, _, length in self.cells if length is not None})

    def title(self, name: str) -> str:
        return summary.title(self.result.configuration(name))

    def tok_s(self, name: str, batch: int, length: float | None) -> float | None:
        """Output tok/s, prefill included; without speculation at any accept length."""
        cell = self.cells.get((name, batch, None if name == NONE else length))
        spread = None if cell is None else cell.spread("output_tok_s")
        return None if spread is None else spread.median

    def speed(self, name: str, batch: int, length: float | None) -> str:
        """For example "280.0 (1.76x)"; with the accept length where it is not the simulated."""
        speed = self.tok_s(name, batch, length)
        if speed is None:
            return NOTHING
        plain = self.tok_s(NONE, batch, None)
        said = markdown.speed(speed)
        if name == NONE or length is None:
            return said
        if plain:
            said += f" ({markdown.times(speed / plain)})"
        real = self.cells[name, batch, length].spread("accept_length")
        if real is not None and abs(real.median / length - 1) > 0.02:
            said += f" at {markdown.length(real.median)}"
        return said

    def named(self, algorithm: str, tree: Tree | None) -> str | None:
        """The configuration that serves so; of several the one that is named by its tree."""
        same = [c.name for c in self.configurations if (c.algorithm, c.tree) == (algorithm, tree)]
        own = NONE if tree is None else spelled(tree)
        return own if own in same else next(iter(same), None)

    def nearest(self, length: float) -> float | None:
        """The simulated accept length that a published one is, as it is rounded."""
        near = (known for known in self.accept_lengths if abs(known - length) < 0.015)
        return next(near, None)


def _beside_the_card(measured: _Measured) -> Iterator[str]:
    header = ["B", "Configuration", "Card's row", "Accept length"]
    header += ["Baseline (tok/s)", "EAGLE3 (tok/s)", "Speedup"]
    header += ["Card: Baseline", "Card: EAGLE3", "Card: Speedup"]
    lines = []
    for table in read_card().tables:
        name = measured.named("eagle3", table.tree)
        if name is None:
            continue
        rows: list[tuple[str, CardFigures]] = [(row.suite, row) for row in table.rows]
        for suite, card in [*rows, ("mean", table.mean)]:
            if card.accept_length is None and suite != "mean":
                continue
            length = measured.nearest(card.accept_length or _UNPUBLISHED)
            plain = measured.tok_s(NONE, table.batch, None)
            with_tree = measured.tok_s(name, table.batch, length)
            if plain is None or with_tree is None or length is None:
                continue
            source = suite if card.accept_length else f"{suite} (no accept length published)"
            lines.append(
                [
                    str(table.batch),
                    measured.title(name),
                    source,
                    markdown.length(length),
                    markdown.speed(plain),
                    markdown.speed(with_tree),
                    markdown.times(with_tree / plain),
                    markdown.speed(card.baseline),
                    markdown.speed(card.eagle3),
                    markdown.times(card.speedup),
                ]
            )
    if lines:
        yield "## Beside the model card"
        yield markdown.table(header, lines, words=3)
        yield (
            "Ours: what the tree gives at that accept length, whatever the text. The card: "
            f"{read_card().conditions}."
        )


def _speeds(measured: _Measured) -> Iterator[str]:
    header = ["Configuration", *(f"B={batch}" for batch in measured.batches)]
    for length in measured.accept_lengths:
        lines = []
        for configuration in measured.configurations:
            name = configuration.name
            cells = [measured.speed(name, batch, length) for batch in measured.batches]
            if set(cells) != {NOTHING}:
                lines.append([measured.title(name), *cells])
        yield f"## Output tok/s at accept length {length:g}"
        yield markdown.table(header, lines)
    if measured.accept_lengths:
        yield (
            "Completion tokens of all requests over the seconds of the pass, prefill included, "
            "median over repetitions; in parentheses over no speculation at the same batch size. "
            "A tree is left out at accept lengths above its steps + 1."
        )


def _doubts(measured: _Measured, model: CostModel) -> Iterator[str]:
    """What failed, and cells that are not what their batch size says."""
    lines = [
        f"- **{summary.title(c)}** failed: {c.error or 'no reason is recorded'}"
        for c in measured.result.configurations
        if c.status == "failed"
    ]
    for (name, batch, length), cell in measured.cells.items():
        where = f"{measured.title(name)}, B={batch}" + ("" if length is None else f", {length:g}")
        if cell.failed:
            lines.append(f"- {where}: {cell.failed} requests without an answer")
        total, each = cell.spread("output_tok_s"), cell.spread("decode_tok_s")
        if total and each and total.median < _QUEUED * batch * each.median:
            share = total.median / (batch * each.median)
            lines.append(
                f"- {where}: the server gave {markdown.percent(share)} of {batch} requests' decode "
                "rate, so not all were decoded at once, or prefill took the rest; GDN state caps "
                "how many run"
            )
    for found in model.cells:
        if (found.high_ms - found.low_ms) / found.cycle_ms > _APART:
            lines.append(
                f"- {measured.title(found.configuration)}, B={found.batch}: its cycle takes "
                f"{found.low_ms:.2f} to {found.high_ms:.2f} ms by repetition and accept length; "
                f"{found.cycle_ms:.2f} is of the upper half of the lengths"
            )
    if lines:
        yield "## What failed or is in doubt"
        yield "\n".join(lines)


def _cycles(result: Result, model: CostModel) -> Iterator[str]:
    def spell(name: str, batch: int) -> str:
        ms = model.measured(name, batch)
        return NOTHING if ms is None else f"{ms:.2f}"

    widest = max(model.cells, key=lambda cell: (cell.high_ms - cell.low_ms) / cell.cycle_ms)
    width = (widest.high_ms - widest.low_ms) / widest.cycle_ms
    where = summary.title(result.configuration(widest.configuration))
    yield "## Cycle time in ms"
    yield _table(result, model.batches, spell)
    yield (
        "1000 x tokens of a cycle / a request's decode tok/s: drafting and verification of the "
        "whole batch, prefill left out. Median over repetitions and the upper half of the accept "
        "lengths: at low ones dummy weights probably make it cheaper than text. The extremes of "
        f"all lie {markdown.percent(width)} apart at most ({where} at B={widest.batch})."
    )


def _break_even(result: Result, model: CostModel) -> Iterator[str]:
    batches = [batch for batch in model.batches if model.cycle(batch, None)]
    rows = {(row.name, row.batch): row for row in plan(model, batches=batches).rows if row.tree}
    if not rows:
        return

    def even(name: str, batch: int) -> str:
        row = rows.get((name, batch))
        return NOTHING if row is None else needed(row.break_even, row.tree)

    def over(name: str, batch: int) -> str:
        row = rows.get((name, batch))
        if row is None or row.over_chain is None or _is_chain(row):
            return NOTHING
        return markdown.times(row.over_chain)

    yield "## Accept length to break even"
    yield _table(result, batches, even)
    yield (
        "The accept length at which decoding is as fast as without speculation: its cycle over "
        "that without. Never: more than steps + 1, which it cannot accept. At one accept length a "
        "larger tree looks worse than it is: of the same head it accepts more."
    )
    if beside := _table(result, batches, over):
        yield "## Accept length over the chain's"
        yield beside
        yield (
            "How many times the accept length of the EAGLE3 chain of the same steps it needs to be "
            "as fast. With a head's accept lengths, `bench plan --accept-lengths` says which tree "
            "is best."
        )


def _law(result: Result, model: CostModel) -> Iterator[str]:
    yield "## Cost model"
    left = model.residuals
    if model.coefficients is None or left is None:
        yield "Too few cells to fit a law: the measured ones stand for themselves."
        return
    yield markdown.code(_LAW.format(k=model.experts[0], of=model.experts[1]), "text")
    lines = [[term, TERMS[term], f"{model.coefficients[term]:.4f}"] for term in TERMS]
    yield markdown.table(["term", "what it is", "ms"], lines, words=2)
    yield (
        f"Least squares of relative errors, no term negative, over {left.cells} cells of EAGLE3 "
        f"and no speculation. Off by {markdown.percent(left.median)} (median) and "
        f"{markdown.percent(left.largest)} (largest) on them; predicting each from the others, by "
        f"{markdown.percent(left.held_out_median)} and {markdown.percent(left.held_out_largest)}. "
        "It serves only for what was not measured, within the measured ranges. The terms describe "
        "the measured cycles; they are no profile of kernels, and one of 0 was not told apart."
    )

    def error(name: str, batch: int) -> str:
        cell = model.cell(name, batch)
        return NOTHING if cell is None or cell.error is None else f"{100 * cell.error:+.1f}%"

    yield "Error of the law, cell by cell:"
    yield _table(result, model.batches, error)


def _is_chain(row: PlanRow) -> bool:
    return row.over_chain == 1 and row.tree is not None and row.tree[1] == 1


def _table(result: Result, batches: Sequence[int], spell: Callable[[str, int], str]) -> str:
    """A row a configuration, a column a batch size; empty rows left out, empty if all are."""
    lines = []
    for configuration in result.configurations:
        cells = [spell(configuration.name, batch) for batch in batches]
        if set(cells) != {NOTHING}:
            lines.append([summary.title(configuration), *cells])
    header = ["Configuration", *(f"B={batch}" for batch in batches)]
    return markdown.table(header, lines) if lines else ""
