"""`bench join`: parts of one benchmark, measured on several GPUs or machines, as one result."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.provenance import command_line
from sglang_qwen3next_eagle3.bench import options, speed
from sglang_qwen3next_eagle3.bench import run as run_suites
from sglang_qwen3next_eagle3.bench.results import assemble
from sglang_qwen3next_eagle3.bench.results.journal import claim, reading, refuse_another, request_of
from sglang_qwen3next_eagle3.bench.results.records import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="of `bench run` or `bench speed`, asked for the same but for configurations and "
        "repetitions (and batches, of `bench run`); of a pass that several hold, the first one's "
        "counts",
    )
    options.add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError: a part is of another benchmark, damaged, or being measured."""
    options.require_plots(not arguments.no_plots)
    parts = [Result.load(folder) for folder in arguments.folders]
    request = request_of(arguments.folders[0])
    for folder in arguments.folders[1:]:
        refuse_another(folder, request_of(folder), request)
    if (arguments.out / "passes").exists():
        raise UserError(f"{arguments.out} holds a benchmark already: choose a new folder for --out")
    with contextlib.ExitStack() as stack:
        # Parts are read only; what is being measured is not whole yet.
        journals = [stack.enter_context(reading(folder)) for folder in arguments.folders]
        joined = stack.enter_context(claim(arguments.out, request))
        doubled = sum(joined.take(journal) for journal in journals)
        if doubled:
            print(
                f"{doubled} passes are in several folders: the first one's count", file=sys.stderr
            )
        result = assemble.result(
            joined,
            parts[0].kind,
            _provenance(parts, command_line(arguments.words)),
            _settings(parts),
            [row for part in parts for row in part.configurations],
            speed.NOTES if parts[0].kind == "speed" else (),
            _greedy(parts),
        )
        result.save(arguments.out / "result.json")
        describe = speed.describe if result.kind == "speed" else run_suites.describe
        text = describe(result, arguments.out, plots=not arguments.no_plots)
    print(json.dumps(result.model_dump(mode="json"), indent=1) if arguments.json else text)
    return 0


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
