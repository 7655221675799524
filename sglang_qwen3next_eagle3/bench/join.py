"""`bench join`: parts of one benchmark, measured on several GPUs or machines, as one result."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import figures
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.provenance import command_line
from sglang_qwen3next_eagle3.base.workfolder import refuse_other_request
from sglang_qwen3next_eagle3.bench import reports
from sglang_qwen3next_eagle3.bench.results.journal import claim, reading, request_of
from sglang_qwen3next_eagle3.bench.results.records import Result


@dataclass(frozen=True)
class Joined:
    """doubled: passes that several parts hold, of which the first part's counts."""

    result: Result
    report: str
    doubled: int


def join_results(
    folders: Sequence[Path], out: Path, *, plots: bool = True, words: Sequence[str] = ()
) -> Joined:
    """The result of all passes of the folders, in `out`. words: the command line.

    Raises:
        UserError: a part is of another benchmark, damaged, or being measured; `out` is not new.
    """
    if plots:
        figures.require("--no-plots")
    parts = [Result.load(folder) for folder in folders]
    request = request_of(folders[0])
    for folder in folders[1:]:
        refuse_other_request(folder, request_of(folder), request)
    if (out / "passes").exists():
        raise UserError(f"{out} holds a benchmark already: choose a new folder for --out")
    with contextlib.ExitStack() as stack:
        # Parts are read only; what is being measured is not whole yet.
        journals = [stack.enter_context(reading(folder)) for folder in folders]
        joined = stack.enter_context(claim(out, request))
        doubled = sum(joined.take(journal) for journal in journals)
        result = joined.result(
            parts[0].kind,
            _provenance(parts, command_line(words)),
            _settings(parts),
            [row for part in parts for row in part.configurations],
            _greedy(parts),
        )
        result.save(out / "result.json")
        return Joined(result, reports.write(result, out, plots=plots), doubled)


def _provenance(parts: Sequence[Result], command: str) -> dict[str, Any]:
    """The first part's, with what differs of each part, its date and command in any case."""
    first = parts[0].provenance
    # A part may have been joined itself: its parts are what was measured.
    measured = [
        {**part.provenance, **each}
        for part in parts
        for each in part.provenance.get("parts") or [part.provenance]
    ]
    said = [
        {
            key: value
            for key, value in each.items()
            if key in ("date", "command") or (key != "parts" and value != first.get(key))
        }
        for each in measured
    ]
    return {**first, "command": command, "parts": said}


def _settings(parts: Sequence[Result]) -> dict[str, Any]:
    """The first part's, and everything that any of them was asked to measure."""
    settings = dict(parts[0].settings)
    for key in ("batches", "accept_lengths"):
        if key in settings:
            values = {value for part in parts for value in part.settings.get(key, ())}
            settings[key] = sorted(values)
    if "suites" in settings:
        settings["suites"] = {
            k: v for part in parts[::-1] for k, v in part.settings["suites"].items()
        }
    if "repeats" in settings:
        settings["repeats"] = max(part.settings["repeats"] for part in parts)
    return settings


def _greedy(parts: Sequence[Result]) -> set[str]:
    """The suites whose answers can be compared."""
    return {
        name
        for part in parts
        for name, suite in part.settings.get("suites", {}).items()
        if suite["temperature"] == 0
    }
