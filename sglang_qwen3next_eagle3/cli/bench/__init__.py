"""`sglang-qwen3next-eagle3 bench`: run, speed, auto, start, cycle (measuring), and plan, join,
compare, report, divergences, suites (results)."""

import argparse

from sglang_qwen3next_eagle3.cli.arguments import add_actions
from sglang_qwen3next_eagle3.cli.bench import measuring, results

__all__ = ["ACTIONS", "add_arguments", "run"]

ACTIONS = {**measuring.ACTIONS, **results.ACTIONS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_actions(parser, ACTIONS)


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError."""
    status: int = arguments.call(arguments)
    return status
