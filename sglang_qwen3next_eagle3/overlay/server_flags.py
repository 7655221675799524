"""The flags of the installed SGLang's server, read off its own parser, for `serving.flags`."""

from typing import Any

Table = dict[str, dict[str, Any]]
"""By destination, or by the first name of what takes other values than another of its destination.

names: as the parser takes them; values: how many words follow one: "0", "1", or "?", "*" and "+" as
argparse means them; type: where they are numbers or JSON, "int", "float", "tokens" (256k, 256Ki) or
"json"; in_file: false where SGLang ends at a `--config` file that names the destination."""
_TYPES = {"int": "int", "float": "float", "human_readable_int": "tokens", "loads": "json"}


def table(empty_parser: Any) -> Table:
    """The table of the release in this environment; SGLang is imported, which takes seconds.

    empty_parser: an `argparse.ArgumentParser`, which gets SGLang's flags.
    """
    from sglang.srt.server_args import ServerArgs
    from sglang.srt.server_args_config_parser import ConfigArgumentMerger

    ServerArgs.add_cli_args(empty_parser)
    found: Table = {}
    for action in empty_parser._actions:
        if action.option_strings:
            takes = _takes(action)
            row = found.get(action.dest, takes)
            same = {key: row[key] for key in ("values", "type") if key in row} == takes
            key = action.dest if same else action.option_strings[0]
            row = found.setdefault(key, {"names": [], **takes})
            row["names"] += action.option_strings
    for dest in {*ConfigArgumentMerger(empty_parser).unsupported_actions, "help"}:
        found[dest]["in_file"] = False
    return found


def _takes(action: Any) -> dict[str, Any]:
    takes = {"values": "1" if action.nargs is None else str(action.nargs)}
    kind = _TYPES.get(getattr(action.type, "__name__", ""))
    return takes if kind is None else {**takes, "type": kind}
