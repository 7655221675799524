"""Where a result goes: its folder, its plots, and what is printed."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.bench.results.records import Result


def add_output(parser: argparse.ArgumentParser) -> None:
    out = parser.add_argument_group("what comes out")
    out.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="goes on if begun")
    add_no_plots(out, "no PNGs, no matplotlib needed")
    out.add_argument("--json", action="store_true", help="print the result as JSON")


def add_no_plots(group: Any, summary: str) -> None:
    group.add_argument("--no-plots", dest="plots", action="store_false", help=summary)


def print_result(result: "Result", report: str, as_json: bool) -> None:
    print(json.dumps(result.model_dump(mode="json"), indent=1) if as_json else report)
