"""`head inspect`: will this head serve this target, and what has to be known about it?"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.findings import Finding, error, worst
from sglang_qwen3next_eagle3.head import captured_layers, check
from sglang_qwen3next_eagle3.head import record as aux_record
from sglang_qwen3next_eagle3.head.captured_layers import CALIBRATE
from sglang_qwen3next_eagle3.head.files import Files, Folder, OnHub
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.head.record import AuxRecord
from sglang_qwen3next_eagle3.model import hub
from sglang_qwen3next_eagle3.model.target import Target

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
VERDICT_COLOURS = ("green", "yellow", "red")
VERDICTS = ("serves", "serves, with warnings", "does not serve")


@dataclass(frozen=True)
class HeadReport:
    """name, target: as the user spelled them. head: None where its files are not a head's."""

    name: str
    target_name: str
    target: Target
    head: Head | None
    record: AuxRecord | None
    findings: tuple[Finding, ...]

    @property
    def status(self) -> int:
        """Exit status: 0 serves, 1 serves with warnings, 2 does not serve."""
        return worst(self.findings)

    @property
    def verdict(self) -> str:
        return VERDICTS[self.status]


def files_of(name: str, revision: str | None = None) -> Files:
    """A head's files, without downloading weights: on the hub they are read by ranges.

    Raises:
        UserError: there is no such head.
    """
    from huggingface_hub import constants

    folder = hub.local_folder(name, "head")
    if folder is None and not constants.HF_HUB_OFFLINE:
        return OnHub(name, revision, "head")
    return Folder(hub.resolve(name, revision, "head"))


def inspect(name: str, files: Files, target_name: str, target: Target) -> HeadReport:
    """Hold a head against its contract and a target. What is wrong is a finding, no exception."""
    try:
        head = Head.from_files(files)
    except UserError as refused:
        return HeadReport(name, target_name, target, None, None, (error("file", str(refused)),))
    found = check.findings(head, target)
    record = None
    command = f"{CALIBRATE} --target {target_name} --head {name}"
    if "fc.weight" in head.tensors and not any(finding.level == "error" for finding in found):
        try:
            record = aux_record.find(files)
            found += captured_layers.findings(head, target, record, command)
        except UserError as refused:
            found.append(error("calibration", str(refused)))
    return HeadReport(name, target_name, target, head, record, tuple(found))


def facts(head: Head, target: Target) -> dict[str, Any]:
    """What a head is, in figures; a key is absent where its config or file does not tell."""
    stored = head.tensors.values()
    config = head.config
    found: dict[str, Any] = {
        "tensors": len(head.tensors),
        "bytes": sum(info.bytes for info in stored),
        "parameters": sum(
            info.elements for name, info in head.tensors.items() if name not in {"d2t", "t2d"}
        ),
        "dtypes": sorted({info.dtype for info in stored}),
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "vocab_size": config.get("vocab_size"),
        "draft_vocab_size": config.get("draft_vocab_size"),
        "aux_ids": head.layer_ids,
        "context": config.get("max_position_embeddings"),
        "target_context": target.context_length,
        "own_embedding": "embed_tokens.weight" in head.tensors,
    }
    fc = head.tensors.get("fc.weight")
    if fc is not None and isinstance(config.get("hidden_size"), int):
        found["aux_states"] = head.aux_count
    if head.vocabulary is not None and isinstance(config.get("vocab_size"), int):
        found["coverage"] = len(set(head.vocabulary.target_ids)) / config["vocab_size"]
        found["t2d_agrees"] = _agrees(head)
    return {key: value for key, value in found.items() if value is not None}


def _agrees(head: Head) -> bool | None:
    assert head.vocabulary is not None
    known = head.vocabulary.known
    if known is None:
        return None
    return {i for i, has in enumerate(known) if has} == set(head.vocabulary.target_ids)


def as_json(report: HeadReport) -> str:
    """For scripts: the verdict, the figures, the tensors and all findings."""
    head = report.head
    data: dict[str, Any] = {
        "head": report.name,
        "target": report.target_name,
        "verdict": report.verdict,
        "status": report.status,
        "findings": [asdict(finding) for finding in report.findings],
    }
    if head is not None:
        data["facts"] = facts(head, report.target)
        data["calibrated"] = None if report.record is None else report.record.selection
        data["tensors"] = {
            name: {"shape": list(info.shape), "dtype": info.dtype}
            for name, info in sorted(head.tensors.items())
        }
    return json.dumps(data, indent=2)


def show(report: HeadReport, console: "Console") -> None:
    """Print a report for people: what the head is, its tensors, the findings, the verdict."""
    from rich.markup import escape

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


def _facts(head: Head, target: Target) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _lines(head, target):
        table.add_row(f"[bold]{name}[/]", escape(value))
    return table


def _lines(head: Head, target: Target) -> Iterator[tuple[str, str]]:
    f = facts(head, target)
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


def _tensors(head: Head) -> "Table":
    from rich.table import Table

    table = Table("tensor", "shape", "dtype", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, info in sorted(head.tensors.items()):
        table.add_row(name, " x ".join(map(str, info.shape)), info.dtype)
    return table
