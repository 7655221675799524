"""`head inspect`: will this head serve this target, and what has to be known about it?"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.findings import Finding, error, worst
from sglang_qwen3next_eagle3.head import findings as head_findings
from sglang_qwen3next_eagle3.head import record as aux_record
from sglang_qwen3next_eagle3.head import selection
from sglang_qwen3next_eagle3.head.files import Files, Folder, OnHub
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.head.record import AuxRecord
from sglang_qwen3next_eagle3.head.selection import CALIBRATE
from sglang_qwen3next_eagle3.model import hub
from sglang_qwen3next_eagle3.model.target import Target

VERDICTS = ("serves", "serves, with warnings", "does not serve")


@dataclass(frozen=True)
class Report:
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


def inspect(name: str, files: Files, target_name: str, target: Target) -> Report:
    """Hold a head against its contract and a target. What is wrong is a finding, no exception."""
    try:
        head = Head.from_files(files)
    except UserError as refused:
        return Report(name, target_name, target, None, None, (error("file", str(refused)),))
    found = head_findings.of(head, target)
    record = None
    command = f"{CALIBRATE} --target {target_name} --head {name}"
    if "fc.weight" in head.tensors and not any(finding.level == "error" for finding in found):
        try:
            record = aux_record.find(files)
            found += selection.findings(head, target, record, command)
        except UserError as refused:
            found.append(error("calibration", str(refused)))
    return Report(name, target_name, target, head, record, tuple(found))


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


def as_json(report: Report) -> str:
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
