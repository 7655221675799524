"""The verb `train`: from conversations to a served head, one step an action."""

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

# Action, module (imported only when it is called for), what it does.
ACTIONS = {
    "prepare": ("data.prepare", "conversations of many formats to SpecForge's JSONL"),
    "vocab": ("vocab", "choose the draft vocabulary by how often answers use a token"),
    "capture": ("capture.capture", "write the target's auxiliary and last hidden states to disk"),
    "run": ("trainer.run", "train a head with SpecForge, by a recipe"),
    "export": ("export", "a checkpoint to a head that can be served"),
    "evaluate": ("evaluate", "accuracy by draft step, predicted and served accept length"),
}


class _Lazy(argparse.ArgumentParser):
    """An action's parser. Its options are added when it is called, so that `train --help` and the
    other actions import nothing of it."""

    action: str

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        _module(self.action).add_arguments(self)
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=_Lazy
    )
    for action, (_, summary) in ACTIONS.items():
        sub = actions.add_parser(action, help=summary, description=summary, allow_abbrev=False)
        sub.action = action


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError, as the action does."""
    status: int = _module(arguments.action).run(arguments)
    return status


def _module(action: str) -> Any:
    return importlib.import_module(f"sglang_qwen3next_eagle3.train.{ACTIONS[action][0]}")
