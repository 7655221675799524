"""`sglang-qwen3next-eagle3 head inspect` and `head calibrate`."""

import argparse
import sys

from sglang_qwen3next_eagle3 import hub
from sglang_qwen3next_eagle3.profile import DEMO
from sglang_qwen3next_eagle3.target import Target

TARGET = "Qwen/Qwen3-Coder-Next"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser(
        "inspect",
        help="will it serve? reads headers and small tensors only, also on the hub",
        description="Exit status: 0 serves, 1 serves with warnings, 2 does not serve.",
        allow_abbrev=False,
    )
    inspect.add_argument("head", help="folder or hub name of an EAGLE3 head, or demo")
    inspect.add_argument("--revision", help="revision of the head on the hub")
    inspect.add_argument("--target", help=f"its target: folder or hub name (default {TARGET})")
    inspect.add_argument("--target-revision", help="revision of the target on the hub")
    inspect.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError."""
    return _inspect(arguments)


def _inspect(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3 import head_inspect, head_table

    name = arguments.target or (DEMO if arguments.head == DEMO else TARGET)
    head_name, target_name = demo_folders(arguments.head, name)
    folder = hub.resolve(target_name, arguments.target_revision, "target", only_config=True)
    target = Target.from_path(folder)
    files = head_inspect.files_of(head_name, arguments.revision)
    report = head_inspect.inspect(arguments.head, files, name, target)
    if arguments.json:
        print(head_inspect.as_json(report))
    else:
        from rich.console import Console

        head_table.show(report, Console(highlight=False, file=sys.stdout))
    return report.status


def demo_folders(head: str, target: str) -> tuple[str, str]:
    """Both with the demo pair's folders in place of the name `demo`; the pair is built if need be.

    Raises:
        UserError: the pair cannot be kept.
    """
    if DEMO not in (head, target):
        return head, target
    from sglang_qwen3next_eagle3.demo.constructed import demo_pair

    pair = demo_pair()
    return (
        str(pair.head) if head == DEMO else head,
        str(pair.target) if target == DEMO else target,
    )
