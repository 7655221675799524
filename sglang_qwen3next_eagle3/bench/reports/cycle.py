"""A result of `bench cycle` as Markdown: phases by configuration, by rank, and what sampled stacks
say."""

from collections.abc import Iterator, Sequence

from sglang_qwen3next_eagle3.bench import markdown
from sglang_qwen3next_eagle3.bench.markdown import NOTHING
from sglang_qwen3next_eagle3.bench.reports import run
from sglang_qwen3next_eagle3.bench.results.cycles import (
    CycleMeasurement,
    CycleResult,
    Milliseconds,
    RankCycles,
    Stacks,
)
from sglang_qwen3next_eagle3.overlay.cycle.phases import GPU, LOOP, NAMES

_FUNCTIONS, _LINES = 40, 30


def cycle_report(result: CycleResult) -> str:
    """The whole report."""
    parts = ["# Where the host's time goes in a cycle", *_whole(result)]
    for batch in dict.fromkeys(cell.batch for cell in result.cells):
        parts += _beside(batch, [cell for cell in result.cells if cell.batch == batch])
    for cell in result.cells:
        parts += _cell(cell)
    parts += _failed(result)
    parts += ["## What was run"]
    parts += [markdown.table(["what", ""], markdown.flat(result.provenance), words=2)]
    parts += [*run.servers(result), *run.settings(result), *run.regenerate(result)]
    return "\n\n".join(parts) + "\n"


def _whole(result: CycleResult) -> Iterator[str]:
    header = ["Configuration", "B", "rank", "cycles", "cycle: mean", "p50", "p95"]
    header += ["waits for the GPU", "request broadcast", "all else", "the recorder in it"]
    header += ["GPU in graphs", "tok/s"]
    lines = []
    for cell in result.cells:
        for rank in cell.ranks:
            waits, broadcast = rank.own(GPU), rank.own("request broadcast")
            graphs = _in_graphs(rank)
            lines.append(
                [
                    cell.configuration,
                    str(cell.batch),
                    rank.rank,
                    f"{rank.cycles}{' (full)' if rank.full else ''}",
                    *_spread(rank.cycle),
                    _ms(waits),
                    _ms(broadcast),
                    _ms(rank.cycle.mean - waits - broadcast),
                    _ms(rank.recorder_ms),
                    NOTHING if graphs is None else _ms(graphs),
                    markdown.speed(cell.output_tok_s),
                ]
            )
    yield markdown.table(header, lines, words=1)
    yield (
        "Milliseconds. A cycle is a turn of the scheduler's loop that ran a decode batch of all "
        "requests. A scheduler that hardly waits for the GPU is what the cycle waits for. The "
        "GPU's time in graphs begins when the GPU has come to a graph, so it holds what the GPU "
        "then waits until the graph is handed over; what is left of the cycle it spent on kernels "
        "between graphs, or idle. `bench speed` says what a cycle takes unwatched."
    )
    if walls := [f"- {_named(cell)}: {wall}" for cell in result.cells if (wall := _wall(cell))]:
        yield "\n".join(walls)


_FULL, _NONE = 0.85, 0.05
"""Of a cycle: from where on the GPU counts as busy, and up to where nobody waits for it."""


def _wall(cell: CycleMeasurement) -> str | None:
    """What the cycle waits for; None without graphs, where nobody knows."""
    rank = cell.ranks[0]
    graphs = _in_graphs(rank)
    if graphs is None:
        return None
    waits = min(each.own(GPU) / each.cycle.mean for each in cell.ranks)
    busy = graphs / rank.cycle.mean
    spent = (
        f"the GPU is in graphs for {markdown.percent(busy)} of a cycle, and every scheduler waits "
        f"for it for {markdown.percent(waits)} or more"
    )
    if waits <= _NONE:
        return f"the host is the wall: {spent}"
    if busy >= _FULL:
        longest = max(rank.gpu, key=lambda name: rank.gpu[name].mean)
        return f"the GPU is the wall, and most of it the {longest}: {spent}"
    return f"neither is the wall alone: {spent}"


def _in_graphs(rank: RankCycles) -> float | None:
    """Milliseconds a cycle, if there are graphs; each phase has one, in every cycle."""
    return sum(each.mean for each in rank.gpu.values()) if rank.gpu else None


def _beside(batch: int, cells: Sequence[CycleMeasurement]) -> Iterator[str]:
    """The first rank of every configuration."""
    yield f"## Milliseconds a cycle by phase, B={batch}, {cells[0].ranks[0].rank}"
    lines = []
    for name in (*NAMES, LOOP):
        values = [cell.ranks[0].own(name) for cell in cells]
        if any(values):
            lines.append([name, *(_ms(value) if value else NOTHING for value in values)])
    lines.append(["**cycle**", *(_ms(cell.ranks[0].cycle.mean) for cell in cells)])
    yield markdown.table(["Phase", *(cell.configuration for cell in cells)], lines)
    yield "Means, each phase without those within it."


def _cell(cell: CycleMeasurement) -> Iterator[str]:
    first = cell.ranks[0]
    length = cell.simulated_accept_length
    simulated = "" if length is None else f", accept length {length:g}"
    yield f"## {_named(cell)}{simulated}"
    lines = [
        [
            phase.name,
            f"{phase.calls:g}" if phase.calls else NOTHING,
            *_spread(phase.own),
            markdown.percent(phase.own.mean / first.cycle.mean),
            *_sampled(first, phase.name),
        ]
        for phase in first.phases
    ]
    header = ["Phase", "calls a cycle", "mean", "p50", "p95", "share"]
    header += ["share of samples"] if first.stacks is not None else []
    yield markdown.table(header, lines)
    if first.gpu:
        rows = [[name, *_spread(each)] for name, each in first.gpu.items()]
        yield markdown.table(["Graph within", "on the GPU: mean", "p50", "p95"], rows)
    if len(cell.ranks) > 1:
        yield "By rank, means:"
        names = [phase.name for phase in first.phases]
        rows = [[name, *(_ms(rank.own(name)) for rank in cell.ranks)] for name in names]
        yield markdown.table(["Phase", *(rank.rank for rank in cell.ranks)], rows)
    for rank in cell.ranks:
        if rank.stacks is not None:
            yield from _stacks(rank.rank, rank.stacks)


def _named(cell: CycleMeasurement) -> str:
    return f"{cell.configuration}, B={cell.batch}"


def _sampled(rank: RankCycles, name: str) -> list[str]:
    if rank.stacks is None:
        return []
    share = rank.stacks.phases.get(name, 0) / max(1, rank.stacks.samples)
    return [markdown.percent(share)]


def _stacks(rank: str, stacks: Stacks) -> Iterator[str]:
    def rows(counts: Sequence[tuple[str, int]]) -> list[list[str]]:
        # What is in every stack is how the process came to its loop.
        told = [(name, count) for name, count in counts if count < stacks.samples]
        return [[name, markdown.percent(count / stacks.samples)] for name, count in told]

    if not stacks.samples:
        return
    functions = markdown.table(["function", "share"], rows(stacks.functions)[:_FUNCTIONS])
    lines = markdown.table(["line", "share"], rows(stacks.lines)[:_LINES])
    title = (
        f"{rank}: {stacks.samples} sampled stacks, functions anywhere in them and lines that ran"
    )
    yield markdown.folded(title, f"{functions}\n\n{lines}")


def _failed(result: CycleResult) -> Iterator[str]:
    broken = [row for row in result.configurations if row.status == "failed"]
    if broken:
        yield "## What failed"
    for row in broken:
        yield f"**{row.name}** failed: {row.error or 'no reason is recorded'}"
        if row.log_tail:
            yield markdown.code("\n".join(row.log_tail), "text")


def _spread(value: Milliseconds) -> list[str]:
    return [_ms(value.mean), _ms(value.p50), _ms(value.p95)]


def _ms(value: float) -> str:
    return f"{value:.3f}"
