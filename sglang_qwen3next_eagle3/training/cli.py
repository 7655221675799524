"""The verb `train`: from conversations to a served head, one step an action."""

import argparse
import importlib
import sys

# Action, module (imported only when it is called for), what it does.
ACTIONS = {
    "prepare": ("prepare", "conversations of many formats to SpecForge's JSONL"),
    "vocab": ("vocab", "choose the draft vocabulary by how often answers use a token"),
    "capture": ("capture", "write the target's auxiliary and last hidden states to disk"),
    "run": ("run", "train a head with SpecForge, by a recipe"),
    "export": ("export", "a checkpoint to a head that can be served"),
    "evaluate": ("evaluate", "accuracy by draft step, predicted and served accept length"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    # Only the called action's module is imported: `--help` answers at once.
    called = next((word for word in sys.argv[1:] if word in ACTIONS), None)
    for action, (module, summary) in ACTIONS.items():
        sub = actions.add_parser(action, help=summary, description=summary, allow_abbrev=False)
        if action == called:
            importlib.import_module(f"{__package__}.{module}").add_arguments(sub)


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError, as the action does."""
    module = importlib.import_module(f"{__package__}.{ACTIONS[arguments.action][0]}")
    status: int = module.run(arguments)
    return status
