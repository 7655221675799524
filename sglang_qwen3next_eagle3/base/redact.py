"""What may stand in a log or a result: no secrets, no paths of the machine."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN = "***"
_SECRET = re.compile(r"(?:^|[-_])(?:key|token|password|secret)$", re.IGNORECASE)
# Named like one and none: `--bucket-time-to-first-token` are seconds.
_HARMLESS = re.compile(r"[-_](?:first|per)[-_]token$", re.IGNORECASE)
_FLAGS = ("--api-key", "--admin-api-key", "--ssl-keyfile-password")
"""Of SGLang and of ours; below, the least that its parser takes for each of them."""
_LEAST = ("--ap", "--ad", "--ssl-keyfile-")
_VALUE = r"(?P<value>'[^']*'|\"[^\"]*\"|[^\s,;(){}]+)"
# In prose a key may be followed by any word: only a flag's value stands behind a space.
_ASSIGNED = re.compile(r"(?P<name>--[\w-]+|[A-Za-z][\w-]*)(?P<sign>['\"]?\s*[=:]\s*)" + _VALUE)
_PASSED = re.compile(r"(?P<name>--[A-Za-z][\w-]*)(?P<sign>\s+)" + _VALUE)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_ABSOLUTE = re.compile(r"(?<![\w.~/:-])~?/(?:[^\s/:'\",;()\[\]]+/)+")


def is_secret(name: str) -> bool:
    """Whether a flag, a key of a profile or a variable of the environment holds a secret.

    Flags also in the abbreviations that argparse takes for them.
    """
    if name.startswith("--"):
        pairs = zip(_FLAGS, _LEAST, strict=True)
        if any(flag.startswith(name) and name.startswith(least) for flag, least in pairs):
            return True
    return bool(_SECRET.search(name)) and not _HARMLESS.search(name)


def masked(words: Sequence[str]) -> list[str]:
    """A command line without its secrets."""
    found: list[str] = []
    hidden = False
    for word in words:
        name, equals, _ = word.partition("=")
        if hidden:
            found.append(HIDDEN)
        elif equals and is_secret(name):
            found.append(f"{name}={HIDDEN}")
        else:
            found.append(_HUB_TOKEN.sub(HIDDEN, word))
        hidden = not hidden and not equals and word.startswith("--") and is_secret(word)
    return found


def without_secrets(value: Any) -> Any:
    """Data as it may be written to disk: what a secret's key holds is masked, at any depth."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if entry and is_secret(str(key)) else without_secrets(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        words = all(isinstance(entry, str) for entry in value)
        return masked(value) if words else [without_secrets(entry) for entry in value]
    return _HUB_TOKEN.sub(HIDDEN, value) if isinstance(value, str) else value


def text_without_secrets(text: str) -> str:
    """A line of a log with the values of secrets masked: `api_key='K'`, `--api-key K`, a token."""

    def hide(match: re.Match[str]) -> str:
        name, sign, value = match.group("name", "sign", "value")
        return f"{name}{sign}{HIDDEN}" if is_secret(name) and value != "None" else match.group()

    for pattern in (_ASSIGNED, _PASSED):
        text = pattern.sub(hide, text)
    return _HUB_TOKEN.sub(HIDDEN, text)


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
