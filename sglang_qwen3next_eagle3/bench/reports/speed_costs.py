"""The parts of a speed report that are of the cost model: cycles, what trees need, the law."""

from collections.abc import Callable, Iterator, Sequence

from sglang_qwen3next_eagle3.bench.reports import markdown
from sglang_qwen3next_eagle3.bench.reports.markdown import NOTHING
from sglang_qwen3next_eagle3.bench.results import summary
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.bench.trees.cost import TERMS, CostModel
from sglang_qwen3next_eagle3.bench.trees.plan import Row, plan
from sglang_qwen3next_eagle3.bench.trees.plan_text import needed

_LAW = """\
cycle = fixed + experts x (1 - (1 - {k}/{of})^(B x draft)) + token x B x draft + sequence x B
speculating: + speculation + step x steps + branch x B x topk x steps
topk > 1:    + branching"""


def cycles(result: Result, model: CostModel) -> Iterator[str]:
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


def break_even(result: Result, model: CostModel) -> Iterator[str]:
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


def law(result: Result, model: CostModel) -> Iterator[str]:
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


def _is_chain(row: Row) -> bool:
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
