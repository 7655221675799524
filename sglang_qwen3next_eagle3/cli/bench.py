"""`sglang-qwen3next-eagle3 bench`: run, speed, plan, join, compare, report, suites."""

import argparse
import json
import sys
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench import options, speed
from sglang_qwen3next_eagle3.bench import run as run_suites
from sglang_qwen3next_eagle3.bench.results import join
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.bench.speed import describe
from sglang_qwen3next_eagle3.bench.suites import suites
from sglang_qwen3next_eagle3.bench.trees import plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    suites_of_prompts = add(
        "run", "suites of prompts over HTTP: speed, acceptance, equality, as in the card's tables"
    )
    run_suites.add_arguments(suites_of_prompts)
    suites_of_prompts.set_defaults(call=run_suites.run)
    trees = add("speed", "what a draft tree costs: dummy weights, simulated acceptance")
    speed.add_arguments(trees)
    trees.set_defaults(call=speed.run)
    planning = add("plan", "which tree pays at which accept length, from a result of `bench speed`")
    plan.add_plan_arguments(planning)
    planning.set_defaults(call=plan.run_plan)
    joining = add("join", "parts of one benchmark, measured on several GPUs or machines, as one")
    join.add_arguments(joining)
    joining.set_defaults(call=join.run)
    comparing = add("compare", "two results side by side")
    comparing.add_argument("a", type=Path, help="a result file or its folder")
    comparing.add_argument("b", type=Path, help="another")
    comparing.add_argument("--json", action="store_true", help="print JSON")
    comparing.set_defaults(call=_compare)
    reporting = add("report", "write the report and the plots of a result again")
    reporting.add_argument("result", type=Path, help="a result file or its folder")
    reporting.add_argument("--no-plots", action="store_true", help="no PNGs")
    reporting.add_argument("--readme", action="store_true", help="print a README's table only")
    reporting.set_defaults(call=_report)
    listing = add("suites", "list the suites")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(call=_suites)


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError."""
    try:
        with options.interruptible():
            status: int = arguments.call(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return run_suites.INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{error.filename or 'a file'}: {error.strerror or error}") from None
    return status


def _compare(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.results import compare

    compared = compare.compare(Result.load(arguments.a), Result.load(arguments.b))
    print(json.dumps(compared.data, indent=2) if arguments.json else compared.markdown)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.reports import run as report
    from sglang_qwen3next_eagle3.bench.reports import speed as speed_report

    result = Result.load(arguments.result)
    if arguments.readme:
        rows = speed_report.readme_rows if result.kind == "speed" else report.readme_rows
        print(rows(result))
        return 0
    folder = arguments.result if arguments.result.is_dir() else arguments.result.parent
    if result.kind == "speed":
        print(describe(result, folder, plots=not arguments.no_plots))
    else:
        print(run_suites.describe(result, folder, plots=not arguments.no_plots))
    return 0


def _suites(arguments: argparse.Namespace) -> int:
    found = [suites.load(name) for name in suites.suite_names()]
    if arguments.json:
        print(
            json.dumps([suite.model_dump(mode="json", by_alias=True) for suite in found], indent=2)
        )
        return 0
    width = max((len(suite.name) for suite in found), default=0)
    for suite in found:
        print(f"{suite.name:{width}}  {suite.description}")
    return 0
