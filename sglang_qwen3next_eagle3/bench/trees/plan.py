"""`bench plan`: from what a cycle costs to what a tree has to accept, and which tree is best."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from sglang_qwen3next_eagle3.base.accept_length import of_chain
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.schema import StrictRecord, first_error
from sglang_qwen3next_eagle3.bench import markdown
from sglang_qwen3next_eagle3.bench.options import HOW_TO_WRITE_ACCEPT_LENGTHS as HOW_TO_WRITE
from sglang_qwen3next_eagle3.bench.results.records import NONE
from sglang_qwen3next_eagle3.bench.trees.cost import CostModel, Cycle, Tree, spelled, tree_of
from sglang_qwen3next_eagle3.serving import profile

EQUAL_ACCEPTANCE = (
    "One accept length for all compares trees at equal acceptance: of the same head, a tree with "
    "more steps or draft tokens accepts more."
)
PER_CYCLE = (
    "Accept lengths are per cycle, as the reports of `bench run` give them beside SGLang's, which "
    "counts each request's first token too."
)
_NAMED = re.compile(r"(\d+,\d+,\d+|[A-Za-z][\w.:/-]*(?:,\d+,\d+)?)=([^,=]+)(?:,|$)")


class AcceptLengths(StrictRecord):
    """Tokens a cycle brings, the target's own among them: `per_cycle` of base/accept_length.py.

    everywhere: the same for all trees that can reach it. A tree with more draft tokens accepts
        more of the same head, so this compares trees at equal acceptance, not with a head.
    by_name: of a configuration or tree. by_position: share of steps that accept at least
        1, 2, ... drafts of a chain, from which any EAGLE3 chain of so many steps has its length.
    """

    everywhere: float | None = None
    by_name: dict[str, float] = Field(default_factory=dict)
    by_position: tuple[float, ...] = ()

    def of(self, name: str, tree: Tree, eagle3: bool = True) -> float | None:
        """Of a configuration; None where nothing is said of it or it cannot accept so many."""
        steps, topk, _ = tree
        for known in (name, spelled(tree)) if eagle3 else (name,):
            if known in self.by_name:
                return self.by_name[known]
        if eagle3 and topk == 1 and steps <= len(self.by_position):
            return of_chain(self.by_position[:steps])
        if self.everywhere is not None and self.everywhere <= steps + 1:
            return self.everywhere
        return None


def parse_accept_lengths(text: str) -> AcceptLengths:
    """Of `--accept-lengths`; names are checked against a model by `plan`.

    Raises:
        UserError: not of the form, not a number, a tree's length outside of 1 to steps + 1,
            shares that are none or that grow, or the same twice.
    """
    by_name: dict[str, float] = {}
    loose: list[float] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        if "=" not in part:
            if loose:
                raise UserError(f"--accept-lengths {text}: {HOW_TO_WRITE}")
            loose = [_number(each, text) for each in part.split(",")]
            continue
        for name, value in _named(part, text):
            if name in by_name:
                raise UserError(f"--accept-lengths: {name} is given twice")
            by_name[name] = _number(value, text)
            if tree := tree_of(name):
                check(name, by_name[name], tree[0])
    if not by_name and not loose:
        raise UserError(f"--accept-lengths is empty: {HOW_TO_WRITE}")
    if len(loose) == 1 and loose[0] >= 1:
        return AcceptLengths(everywhere=loose[0], by_name=by_name)
    if any(not 0 <= share <= 1 for share in loose) or sorted(loose, reverse=True) != loose:
        raise UserError(
            f"--accept-lengths {text}: shares of steps that accept at least 1, 2, ... drafts lie "
            "between 0 and 1 and do not grow; one accept length for all is 1 or more"
        )
    return AcceptLengths(by_name=by_name, by_position=tuple(loose))


def check(name: str, length: float, steps: int) -> None:
    """Raises UserError where a tree of so many steps cannot have this accept length."""
    if not 1 <= length <= steps + 1:
        raise UserError(
            f"--accept-lengths: {name} has {steps} steps, so its accept length lies between 1 and "
            f"{steps + 1}, not at {length:g}"
        )


def _named(part: str, text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(part):
        match = _NAMED.match(part, position)
        if match is None:
            raise UserError(f"--accept-lengths {text}: {HOW_TO_WRITE}")
        yield match[1], match[2]
        position = match.end()


def _number(word: str, text: str) -> float:
    try:
        number = float(word)
    except ValueError:
        raise UserError(f"--accept-lengths {text}: {word.strip()!r} is not a number") from None
    if not 0 <= number < float("inf"):
        raise UserError(f"--accept-lengths {text}: {word.strip()} is not an accept length")
    return number


class PlanRow(StrictRecord):
    """A configuration at a batch size. All accept lengths count the target's own token.

    break_even: the accept length at which it is as fast as no speculation; more than steps + 1
        cannot be reached. over_chain: how many times the accept length of the EAGLE3 chain of
        the same steps it needs to be as fast. beats_chain: the accept length from which it is
        faster than the best of all chains at their accept lengths.
    accept_length: as it was given; tok_s, of the batch, and speedup follow from it. Decoding
        only: what prefill takes comes on top.
    """

    batch: int
    name: str
    tree: Tree | None
    cycle_ms: float
    source: Literal["measured", "fitted"]
    break_even: float | None = None
    over_chain: float | None = None
    beats_chain: float | None = None
    accept_length: float | None = None
    tok_s: float | None = None
    speedup: float | None = None


class TreePlan(StrictRecord):
    """best: of each batch the fastest row, where accept lengths are known of any."""

    rows: tuple[PlanRow, ...]
    best: dict[int, str]
    accept_lengths: AcceptLengths | None

    def payload(self, model: CostModel) -> dict[str, Any]:
        """JSON-ready, for `--json`."""
        return {
            **self.model_dump(mode="json"),
            "law": model.coefficients,
            "residuals": None if model.residuals is None else model.residuals.model_dump(),
            "provenance": model.provenance,
        }

    def text(self, model: CostModel) -> str:
        """For a terminal: one table, the batches below each other, and what its columns mean."""
        given = self.accept_lengths
        header = ["B", "Configuration", "cycle ms", "", "to break even", "over the chain's"]
        header += ["to beat the best chain", "accept length", "tok/s", "speedup"] if given else []
        lines = []
        for row in self.rows:
            mark = " *" if self.best.get(row.batch) == row.name else ""
            line = [str(row.batch), row.name + mark, f"{row.cycle_ms:.2f}", row.source]
            line += [needed(row.break_even, row.tree), _optional(row.over_chain, markdown.times)]
            if given:
                line += [needed(row.beats_chain, row.tree)]
                line += [_optional(row.accept_length, markdown.length)]
                line += [
                    _optional(row.tok_s, markdown.speed),
                    _optional(row.speedup, markdown.times),
                ]
            lines.append(line)
        notes = [
            "To break even: the accept length at which a configuration is as fast as no "
            "speculation. Over the chain's: how many times the accept length of the EAGLE3 chain "
            "of the same steps it needs. Never: more than its steps + 1."
        ]
        if given:
            notes += ["*: the fastest of its batch. tok/s: of the batch, decoding only."]
            notes += [PER_CYCLE]
            notes += [EQUAL_ACCEPTANCE] if given.everywhere is not None else []
        if model.residuals and any(row.source == "fitted" for row in self.rows):
            notes += [
                f"Fitted cycles: predicting each measured one from the others is off by "
                f"{markdown.percent(model.residuals.held_out_median)} (median), "
                f"{markdown.percent(model.residuals.held_out_largest)} (largest)."
            ]
        return "\n".join([_grid(header, lines), *notes])


class _Contender(NamedTuple):
    tree: Tree
    eagle3: bool

    def cycle(self, model: CostModel, name: str, batch: int) -> Cycle | None:
        cell = model.cell(name, batch)
        if cell is not None:
            return Cycle(ms=cell.cycle_ms, source="measured")
        return model.cycle(batch, self.tree) if self.eagle3 else None


def plan(
    model: CostModel, accept_lengths: AcceptLengths | None = None, batches: Sequence[int] = ()
) -> TreePlan:
    """batches: all that were measured if empty.

    Raises:
        UserError: an unknown tree, an accept length that its tree cannot have, a batch that was
            neither measured nor lies between measured ones, no chain for shares by position.
    """
    given = accept_lengths or AcceptLengths()
    contenders = _contenders(model, given)
    _check(given, contenders)
    rows: list[PlanRow] = []
    best: dict[int, str] = {}
    for batch in dict.fromkeys(batches or model.batches):
        found = _rows(model, contenders, given, batch)
        rows += found
        known = {row.name: row.tok_s for row in found if row.tok_s is not None}
        if len(known) > 1:
            best[batch] = max(known, key=known.__getitem__)
    for name in given.by_name:
        if all(row.name != name for row in rows):
            raise UserError(
                f"--accept-lengths: {name} was not measured at these batches, and the model does "
                f"not reach it; measured: {'; '.join(model.configurations)}"
            )
    return TreePlan(rows=tuple(rows), best=best, accept_lengths=accept_lengths)


def _contenders(model: CostModel, given: AcceptLengths) -> Mapping[str, _Contender]:
    """What was measured, of EAGLE3 each tree once, and what was asked for."""
    found: dict[str, _Contender] = {}
    names = list(model.configurations)
    for cell in model.cells:
        if cell.tree is None:
            continue
        name, own = cell.configuration, spelled(cell.tree)
        again = cell.algorithm == "eagle3" and name != own and own in names
        if not again or name in given.by_name:
            found[name] = _Contender(cell.tree, cell.algorithm == "eagle3")
    for name in given.by_name:
        if name not in found and (tree := tree_of(name)):
            found[name] = _Contender(_possible(name, tree), True)
    return found


def _possible(name: str, tree: Tree) -> Tree:
    try:
        profile.Tree(steps=tree[0], topk=tree[1], draft_tokens=tree[2])
    except ValidationError as error:
        raise UserError(f"--accept-lengths: no tree is {name}: {first_error(error)}") from None
    return tree


def _check(given: AcceptLengths, contenders: Mapping[str, _Contender]) -> None:
    for name, length in given.by_name.items():
        if name not in contenders:
            raise UserError(
                f"--accept-lengths: no tree {name!r} in the cost model; it has "
                f"{'; '.join(contenders) or 'none'}"
            )
        check(name, length, contenders[name].tree[0])
    longest = max((c.tree[0] for c in contenders.values()), default=0)
    if given.everywhere is not None and given.everywhere > longest + 1:
        raise UserError(
            f"--accept-lengths: {given.everywhere:g} is more than the {longest + 1} that the "
            "longest tree can accept"
        )
    if given.by_position and not any(c.eagle3 and c.tree[1] == 1 for c in contenders.values()):
        raise UserError(
            "--accept-lengths: shares by position are of chains, and no chain was measured: "
            "give the accept length of each tree (3,4,8=2.46)"
        )


def _rows(
    model: CostModel, contenders: Mapping[str, _Contender], given: AcceptLengths, batch: int
) -> list[PlanRow]:
    plain = model.cycle(batch, None)
    if plain is None:
        raise UserError(
            f"--batch {batch}: no speculation was not measured there, and the model does not "
            f"reach it; measured: {', '.join(map(str, model.batches))}"
        )
    found = {
        name: (contender, cycle)
        for name, contender in contenders.items()
        if (cycle := contender.cycle(model, name, batch))
    }
    chains = [
        length / cycle.ms
        for name, (contender, cycle) in found.items()
        if contender.eagle3
        and contender.tree[1] == 1
        and (length := given.of(name, contender.tree)) is not None
    ]
    rows = [_row(batch, NONE, None, plain, plain, 1.0)]
    for name, (contender, cycle) in found.items():
        steps = contender.tree[0]
        length = given.of(name, contender.tree, contender.eagle3)
        chain = model.cycle(batch, (steps, 1, steps + 1))
        further = {
            "break_even": cycle.ms / plain.ms,
            "over_chain": cycle.ms / chain.ms if chain else None,
            "beats_chain": cycle.ms * max(chains) if chains else None,
        }
        row = _row(batch, name, contender.tree, cycle, plain, length)
        rows.append(row.model_copy(update=further))
    return rows


def _row(
    batch: int, name: str, tree: Tree | None, cycle: Cycle, plain: Cycle, length: float | None
) -> PlanRow:
    return PlanRow(
        batch=batch,
        name=name,
        tree=tree,
        cycle_ms=cycle.ms,
        source=cycle.source,
        accept_length=length,
        tok_s=None if length is None else 1000 * batch * length / cycle.ms,
        speedup=None if length is None else length * plain.ms / cycle.ms,
    )


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
