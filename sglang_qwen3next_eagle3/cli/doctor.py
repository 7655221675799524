"""`doctor`: what stands between this machine and a server that serves well."""

import argparse
import json
import sys

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.cli import launch
from sglang_qwen3next_eagle3.cli.arguments import add_sglang_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Takes the options of `launch`; without a profile it looks at the machine alone. Exit "
        "status: 0 fine, 1 serves slower or at risk, 2 does not serve."
    )
    launch.add_serving_arguments(parser)
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help="plan for another machine's: H200, H100, H20, A100, B200, or so many GiB",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_sglang_flags(parser, "flags for SGLang, as `launch` would pass them")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError: the profile cannot be read, or the options contradict each other."""
    from sglang_qwen3next_eagle3.serving import doctor

    if arguments.profile is None:
        _refuse_without_profile(arguments)
        report = doctor.of_machine()
    else:
        chosen, options = launch.chosen(arguments)
        report = doctor.of_profile(arguments.profile, chosen, options, arguments.gpu)
    if arguments.json:
        print(json.dumps(doctor.as_data(report), indent=2))
    else:
        from rich.console import Console

        doctor.show(report, Console(highlight=False, file=sys.stdout, width=_width()))
    return report.status


def _refuse_without_profile(arguments: argparse.Namespace) -> None:
    """What would be ignored without a word."""
    bare = argparse.ArgumentParser(add_help=False)
    add_arguments(bare)
    nothing = vars(bare.parse_args([]))
    given = [
        name
        for name, value in vars(arguments).items()
        if name in nothing and name != "json" and value != nothing[name]
    ]
    if given:
        raise UserError(
            f"{_spelled(given[0])} without a profile would be ignored: add --profile NAME"
        )


def _spelled(name: str) -> str:
    return "what stands behind --" if name == "sglang" else f"--{name.replace('_', '-')}"


def _width() -> int | None:
    """Whole lines where nobody's terminal is: in files and pipes."""
    return None if sys.stdout.isatty() else 120
