"""The flags of the installed SGLang's server, read off its own parser, for `serving.flags`."""

from typing import Any

Table = dict[str, dict[str, Any]]
"""By destination: names, as the parser takes them; values, how many words follow one: "0", "1", or
"?", "*" and "+" as argparse means them; and type, where they are numbers or JSON: "int", "float",
"tokens" (256k, 256Ki) or "json"."""
_TYPES = {"int": "int", "float": "float", "human_readable_int": "tokens", "loads": "json"}


def table(empty_parser: Any) -> Table:
    """The table of the release in this environment; SGLang is imported, which takes seconds.

    empty_parser: an `argparse.ArgumentParser`, which gets SGLang's flags.
    """
    from sglang.srt.server_args import ServerArgs

    ServerArgs.add_cli_args(empty_parser)
    found: Table = {}
    for action in empty_parser._actions:
        if action.option_strings:
            values = "1" if action.nargs is None else str(action.nargs)
            entry = found.setdefault(action.dest, {"names": [], "values": values})
            entry["names"] += action.option_strings
            if (kind := _TYPES.get(getattr(action.type, "__name__", ""))) is not None:
                entry["type"] = kind
    return found
