"""`train prepare`: conversations from anywhere to the JSONL that SpecForge and `train` read.

The output folder gets train.jsonl and eval.jsonl, a line each `{"id", "conversations"}`, and
prepare.json: what was read, what was left out and why, and the checksums. The same arguments give
the same files byte for byte (unless answers are regenerated), and start again what was killed.
"""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import sha256
from sglang_qwen3next_eagle3.train.data import mixing, pool
from sglang_qwen3next_eagle3.train.data.decontaminate import Excluded, read_texts
from sglang_qwen3next_eagle3.train.data.mixing import Candidate
from sglang_qwen3next_eagle3.train.data.pool import Pool, Rules
from sglang_qwen3next_eagle3.train.data.regenerate import (
    AnswerJournal,
    Failure,
    Settings,
    regenerate,
    served_model,
)
from sglang_qwen3next_eagle3.train.data.sources import Opened, Source, open_source
from sglang_qwen3next_eagle3.train.data.workspace import REPORT, Workspace, claim

__all__ = ["EVAL", "REPORT", "TRAIN", "Preparation", "prepare", "summary"]

TRAIN, EVAL = "train.jsonl", "eval.jsonl"


@dataclass(frozen=True)
class Preparation:
    """All that `prepare` is told. samples: training and evaluation together, None for all;
    evaluation: a count, or a fraction of what is drawn."""

    sources: tuple[Source, ...]
    out: Path
    samples: int | None = None
    evaluation: int | float = 0.02
    seed: int = 0
    min_answer_chars: int = 16
    excludes: tuple[Path, ...] = ()
    regenerate: Settings | None = None


def _request(plan: Preparation, opened: Sequence[Opened]) -> dict[str, Any]:
    """What determines the outcome; where it comes from (paths, the server) may change."""
    settings = plan.regenerate
    again = ("model", "max_tokens", "temperature")
    return {
        "sources": [
            {
                "label": one.source.label,
                **one.identity,
                "weight": None if one.source.weight is None else str(one.source.weight),
                "format": one.source.format,
            }
            for one in opened
        ],
        "samples": plan.samples,
        "evaluation": plan.evaluation,
        "seed": plan.seed,
        "min_answer_chars": plan.min_answer_chars,
        "excludes": [sha256(path) for path in plan.excludes],
        "regenerate": settings and {name: getattr(settings, name) for name in again},
    }


def prepare(plan: Preparation) -> dict[str, Any]:
    """Make the folder, or find it made. The report, as prepare.json holds it.

    Raises:
        UserError: a source is missing or wholly bad, nothing is left, the folder holds something
            else, the disk is full, or the server is gone (what was answered is kept).
        KeyboardInterrupt: the same goes on.
    """
    try:
        return _prepare(plan)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"{where}{error.strerror or error}: mend that and run the same command again"
        ) from None


def _prepare(plan: Preparation) -> dict[str, Any]:
    opened = [open_source(source) for source in plan.sources]
    excluded = Excluded(text for path in plan.excludes for text in read_texts(path))
    with claim(plan.out, _request(plan, opened)) as workspace:
        if workspace.report is not None:
            print(f"{plan.out} is prepared already", file=sys.stderr)
            return workspace.report
        if plan.regenerate is not None:
            asked = replace(plan.regenerate, model=served_model(plan.regenerate))
            plan = replace(plan, regenerate=asked)
        rules = Rules(excluded, plan.min_answer_chars, keep_answers=plan.regenerate is None)
        with closing(Pool(workspace.work, rules)) as read:
            for one in opened:
                read.read(one)
            return _build(plan, workspace, read)


def _build(plan: Preparation, workspace: Workspace, read: Pool) -> dict[str, Any]:
    """Draw, split, ask for answers if planned, write, and publish. The report.

    plan.regenerate: with the served model's name.

    Raises:
        UserError: nothing is left to train on, or the server is gone (what was answered is kept).
    """
    available = [len(candidates) for candidates in read.candidates]
    counts = mixing.quotas(available, _weights(plan), plan.samples)
    drawn = mixing.draw(read.candidates, counts, plan.seed)
    held = plan.evaluation
    if isinstance(held, float):
        held = max(1, round(held * len(drawn))) if held and len(drawn) > 1 else 0
    train, evaluation = mixing.split(drawn, held, plan.seed)
    if not train:
        raise UserError(
            f"nothing is left to train on: {sum(available)} conversations of "
            f"{sum(c.read for c in read.counts)} records are fit, {len(evaluation)} of them are "
            "for evaluation"
        )
    report = _report(workspace.request, plan, read, counts)
    report["short"] = _short_of(plan, available, counts)
    if len(evaluation) < held:
        report["short"].append(
            f"evaluation: {held} wanted, {len(evaluation)} without splitting a first question"
        )
    for line in report["short"]:
        print(f"note: {line}", file=sys.stderr)
    workspace.bind()
    parts = {TRAIN: train, EVAL: evaluation}
    if plan.regenerate is None:
        files = {
            name: _write(workspace.work / name, map(read.sample, part))
            for name, part in parts.items()
        }
    else:
        files, report["regenerate"] = _regenerate(plan, workspace, read, parts)
    if not files[TRAIN]["conversations"]:
        raise UserError("no conversation to train on was answered: run the same command again")
    report["files"] = files
    workspace.publish(list(files), report)
    return report


def _regenerate(
    plan: Preparation, workspace: Workspace, read: Pool, parts: dict[str, list[Candidate]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    assert plan.regenerate is not None
    labels = [source.label for source in plan.sources]
    asked = [one for part in parts.values() for one in part]
    header = {"served": plan.regenerate.model}
    with AnswerJournal(workspace.work / "answers.jsonl", header) as journal:
        try:
            failures = regenerate(map(read.sample, asked), len(asked), plan.regenerate, journal)
            _refuse_all_failed(failures, asked)
        except BaseException:
            if not len(journal):
                workspace.unbind()
            raise

        def answered(part: Iterable[Candidate]) -> Iterator[dict[str, Any]]:
            for name in pool.names(list(part), labels):
                if name in journal:
                    yield {"id": name, "conversations": journal[name]["conversations"]}

        files = {
            name: _write(workspace.work / name, answered(part)) for name, part in parts.items()
        }
        entries = [journal[name] for name in pool.names(asked, labels) if name in journal]
    settings = asdict(plan.regenerate)
    return files, {
        **{key: settings[key] for key in ("model", "max_tokens", "temperature")},
        "answered": len(entries),
        "cut_by_max_tokens": sum(entry["cut"] > 0 for entry in entries),
        "completion_tokens": sum(entry["tokens"] for entry in entries),
        "failed": dict(Counter(failure.reason for failure in failures)),
        "failures": [asdict(failure) for failure in failures[: pool.LISTED_IN_REPORT]],
    }


def _refuse_all_failed(failures: Sequence[Failure], asked: Sequence[Candidate]) -> None:
    for failure in failures[: pool.LISTED_ON_STDERR]:
        print(f"failed: {failure.id}: {failure.detail} [{failure.reason}]", file=sys.stderr)
    if len(failures) == len(asked):
        reason, count = Counter(f"{one.reason}: {one.detail}" for one in failures).most_common(1)[0]
        raise UserError(f"no conversation was answered, {count} of {len(asked)} with {reason}")


def _write(path: Path, samples: Iterable[dict[str, Any]]) -> dict[str, Any]:
    digest, count = hashlib.sha256(), 0
    with path.open("wb") as stream:
        for sample in samples:
            line = pool.encode(sample)
            digest.update(line)
            stream.write(line)
            count += 1
        stream.flush()
        os.fsync(stream.fileno())
    return {"conversations": count, "sha256": digest.hexdigest()}


def _weights(plan: Preparation) -> list[Fraction] | None:
    weights = [source.weight for source in plan.sources]
    if all(weight is None for weight in weights):
        return None
    return [Fraction(1) if weight is None else weight for weight in weights]


def _short_of(plan: Preparation, available: Sequence[int], counts: Sequence[int]) -> list[str]:
    """What could not be drawn as asked, a line each."""
    if plan.samples is None:
        return []
    lines = []
    weights = _weights(plan)
    if weights is not None:
        wanted = mixing.quotas([plan.samples] * len(available), weights, plan.samples)
        for source, want, have in zip(plan.sources, wanted, available, strict=True):
            if want > have:
                lines.append(f"{source.label} ran out: {want} wanted, {have} there")
    if sum(counts) < plan.samples:
        lines.append(f"all sources ran out: {plan.samples} wanted, {sum(counts)} there")
    return lines


def _report(
    request: Mapping[str, Any], plan: Preparation, read: Pool, counts: Sequence[int]
) -> dict[str, Any]:
    return {
        "package": f"sglang-qwen3next-eagle3 {__version__}",
        "request": dict(request),
        "sources": [
            {
                "label": source.label,
                "name": source.name,
                "format": format_name,
                "format_detected": source.format is None,
                **vars(counted),
                "bad": dict(counted.bad),
                "left_out": dict(counted.left_out),
                "drawn": drawn,
            }
            for source, format_name, counted, drawn in zip(
                plan.sources, read.formats, read.counts, counts, strict=True
            )
        ],
        "excludes": [str(path) for path in plan.excludes],
        "bad": {"total": read.bad.total, "listed": read.bad.listed},
    }


def summary(out: Path, report: Mapping[str, Any]) -> Iterator[str]:
    """The report in a few lines for people."""
    for source in report["sources"]:
        how = "detected" if source["format_detected"] else "given"
        bad = sum(source["bad"].values())
        yield (
            f"{source['label']} (format {source['format']}, {how}): {source['read']} read, "
            f"{bad} bad, {source['too_short']} too short, {source['duplicate']} duplicate, "
            f"{source['excluded']} excluded, {source['kept']} kept, {source['drawn']} drawn"
        )
        if bad:
            yield "  bad: " + ", ".join(f"{n} {why}" for why, n in sorted(source["bad"].items()))
        if gone := source.get("left_out"):
            yield "  read without: " + ", ".join(f"{n} {what}" for what, n in sorted(gone.items()))
    again = report.get("regenerate")
    if again:
        failed = sum(again["failed"].values())
        yield (
            f"{again['answered']} answered by {again['model']} ({again['completion_tokens']} "
            f"tokens, {again['cut_by_max_tokens']} cut by max_tokens), {failed} failed"
        )
    for name, entry in report["files"].items():
        yield f"{out / name}: {entry['conversations']} conversations"
