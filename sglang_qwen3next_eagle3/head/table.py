"""`head inspect` for people: tables on the terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sglang_qwen3next_eagle3.head import inspect as head_inspect
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.head.inspect import Report
from sglang_qwen3next_eagle3.model.target import Target

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
VERDICT_COLOURS = ("green", "yellow", "red")


def show(report: Report, console: Console) -> None:
    """Print a report: what the head is, its tensors, the findings, the verdict."""
    if report.head is not None:
        console.print(_facts(report.head, report.target))
        console.print(_tensors(report.head))
    for finding in sorted(report.findings, key=lambda found: list(COLOURS).index(found.level)):
        colour = COLOURS[finding.level]
        console.print(f"[{colour}]{finding.level}[/] {escape(finding.text)}", soft_wrap=True)
        if finding.remedy:
            console.print(f"    -> {escape(finding.remedy)}", soft_wrap=True)
    colour = VERDICT_COLOURS[report.status]
    name, target = escape(report.name), escape(report.target_name)
    console.print(f"[bold {colour}]{report.verdict}[/]: {name} for {target}", soft_wrap=True)


def _facts(head: Head, target: Target) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _lines(head, target):
        table.add_row(f"[bold]{name}[/]", escape(value))
    return table


def _lines(head: Head, target: Target) -> Iterator[tuple[str, str]]:
    f = head_inspect.facts(head, target)
    size = f["bytes"] / 2**20
    yield "size", f"{f['parameters']:,} parameters, {size:,.1f} MiB in {', '.join(f['dtypes'])}"
    yield "shape", f"{f.get('layers', '?')} layers, hidden {f.get('hidden_size', '?')}"
    yield "embedding", "in the file, not used" if f["own_embedding"] else "shared with the target"
    if "aux_states" in f:
        ids = f"config names {f['aux_ids']}" if "aux_ids" in f else "config names no layers"
        yield "auxiliary states", f"{f['aux_states']}, {ids}"
    vocabulary = f"{f.get('draft_vocab_size', '?')} of {f.get('vocab_size', '?')} tokens"
    if "coverage" in f:
        vocabulary += f" ({f['coverage']:.1%})"
    if "t2d_agrees" in f:
        vocabulary += ", d2t and t2d agree" if f["t2d_agrees"] else ", d2t and t2d disagree"
    yield "draft vocabulary", vocabulary
    yield "context", f"{f.get('context', 'not named')}, the target has {f['target_context']}"


def _tensors(head: Head) -> Table:
    table = Table("tensor", "shape", "dtype", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, info in sorted(head.tensors.items()):
        table.add_row(name, " x ".join(map(str, info.shape)), info.dtype)
    return table
