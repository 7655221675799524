"""What may stand in a log or a result: no keys, no paths of the machine."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_KEY = "--api-key"
_HIDDEN = "***"
_ABSOLUTE = re.compile(r"(?<![\w.~/:-])~?/(?:[^\s/:'\",;()\[\]]+/)+")


def masked(words: Sequence[str]) -> list[str]:
    """A command line without its API key."""
    found = list(words)
    for index, word in enumerate(words):
        if index and words[index - 1] == _KEY:
            found[index] = _HIDDEN
        elif word.startswith(f"{_KEY}="):
            found[index] = f"{_KEY}={_HIDDEN}"
    return found


def without_paths(value: Any) -> Any:
    """The value with every absolute path in it cut down to its last part, also behind `--flag=`."""
    if isinstance(value, Mapping):
        return {key: without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(entry) for entry in value]
    if not isinstance(value, str):
        return value
    flag, equals, rest = value.partition("=")
    if flag.startswith("-") and equals:
        return f"{flag}={without_paths(rest)}"
    return Path(value).name if value.startswith(("/", "~")) else value


def text_without_paths(text: str) -> str:
    """A line of a log with the folders of absolute paths left out."""
    return _ABSOLUTE.sub("", text)
