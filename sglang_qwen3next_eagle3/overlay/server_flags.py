"""The flags of the installed SGLang's server, read off its own parser, for `serving.flags`."""

import contextlib
import importlib
from typing import Any

Table = dict[str, dict[str, Any]]
"""By destination, or by the first name of what takes other values than another of its destination.

names: as the parser takes them; values: how many words follow one: "0", "1", or "?", "*" and "+" as
argparse means them; type: where they are numbers or JSON, "int", "float", "tokens" (256k, 256Ki) or
"json"; keys: what a `--config` file may call it besides its destination; in_file: false where
SGLang ends at a file that names it; candidates: of adaptive drafting, the numbers of steps that its
own configuration chooses from."""
_MERGERS = ("sglang.srt.utils.server_args_config_parser", "sglang.srt.server_args_config_parser")
"""What reads a `--config` file, newest release first."""
_TYPES = {"int": "int", "float": "float", "human_readable_int": "tokens", "loads": "json"}


def table(empty_parser: Any) -> Table:
    """The table of the release in this environment; SGLang is imported, which takes seconds.

    empty_parser: an `argparse.ArgumentParser`, which gets SGLang's flags.
    """
    from sglang.srt.server_args import ServerArgs
    from sglang.srt.speculative.adaptive_spec_params import resolve_candidate_steps_from_config

    ServerArgs.add_cli_args(empty_parser)
    merger = config_merger()
    keys_of = getattr(merger, "_config_keys", lambda action: {action.dest})
    refused = {*merger.ConfigArgumentMerger(empty_parser).unsupported_actions, "help"}
    found: Table = {}
    keys: dict[str, set[str]] = {}
    for action in empty_parser._actions:
        if action.option_strings:
            takes = _takes(action)
            row = found.get(action.dest, takes)
            same = {key: row[key] for key in ("values", "type") if key in row} == takes
            key = action.dest if same else action.option_strings[0]
            row = found.setdefault(key, {"names": [], **takes})
            row["names"] += action.option_strings
            keys.setdefault(key, set()).update(keys_of(action))
    for dest, row in found.items():
        # Of two rows of one destination, a file's key is the first one's.
        others = keys[dest] - found.keys()
        if others:
            row["keys"] = sorted(others)
        own = others if dest.startswith("-") else {dest, *others}
        if own and own <= refused:
            row["in_file"] = False
    steps = resolve_candidate_steps_from_config()
    found["speculative_adaptive_config"]["candidates"] = sorted(set(steps))
    return found


def config_merger() -> Any:
    """SGLang's module that reads a `--config` file, wherever this release keeps it."""
    for name in _MERGERS:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise ImportError(f"SGLang has none of {', '.join(_MERGERS)}")


def _takes(action: Any) -> dict[str, Any]:
    takes = {"values": "1" if action.nargs is None else str(action.nargs)}
    kind = _TYPES.get(getattr(action.type, "__name__", ""))
    return takes if kind is None else {**takes, "type": kind}
