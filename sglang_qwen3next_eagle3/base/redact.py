"""What may stand in a log or a result: no secrets, no paths of the machine."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

HIDDEN = "***"
_SECRET = re.compile(r"(?:^|[-_])(?:(?:key|password|secret)s?|token)$", re.IGNORECASE)
# In prose and in SGLang's log a token is mostly one of a text: `#new-token: 64`, `eos_token=2`.
_SECRET_IN_TEXT = re.compile(
    r"(?:^|[-_])(?:(?:key|password|secret)s?|(?:hf|hub|api|auth|access)[-_]?token)$|^apikey$",
    re.IGNORECASE,
)
# Named like one and none: `--bucket-time-to-first-token` are seconds.
_HARMLESS = re.compile(r"[-_](?:first|per)[-_]token$", re.IGNORECASE)
_FLAGS = ("--api-key", "--admin-api-key", "--ssl-keyfile-password")
"""Of SGLang and of ours; below, the least that its parser takes for each of them."""
_LEAST = ("--ap", "--ad", "--ssl-keyfile-")
_QUOTED = (
    # Up to its end or, where the log cuts it off, that of the line.
    r"'(?:\\.|[^'\\\n])*(?:'|(?!.))"
    r"|\"(?:\\.|[^\"\\\n])*(?:\"|(?!.))"
    r"|\\\"(?:(?!\\\").)*(?:\\\"|(?!.))"  # of JSON within JSON
)
# A word as a shell takes it; and a value among others, which ends before the next one's name.
_WORD = rf"(?P<value>(?:{_QUOTED}|\\.|\S)+)"
_VALUE = rf"(?P<value>{_QUOTED}|(?:[^\s,;(){{}}]|[,;](?=\S)(?!['\"]?[\w-]+['\"]?\s*[=:]))+)"
_NOTHING = re.compile(r"(?:None|null)(?:[\s,;)}\]]|$)")
# What shows itself whatever stands before it: a token of the hub, a key in a header, the password
# of an address.
_HUB_TOKEN = re.compile(r"(?P<kept>\b)hf_[A-Za-z0-9]{8,}")
_SCHEME = r"(?:bearer|basic|digest|token)\s+"
_HEADER = re.compile(
    rf"(?P<kept>\bauthorization\\?['\"]?\s*[:=,]\s*(?:b?\\?['\"])?(?:{_SCHEME})?|\bbearer\s+)"
    rf"(?!{_SCHEME})[^\s'\",;\\)}}]+",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"(?P<kept>\b[a-z][a-z0-9+.-]{0,15}://)[^\s/'\"]+(?=@)", re.IGNORECASE)
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
            found.append(_bare(word))
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
    return _bare(value) if isinstance(value, str) else value


def text_without_secrets(text: str) -> str:
    """A line of a log with the values of secrets masked: `api_key='K'`, `--api-key K`, a token.

    Counts of tokens and the tokens of a vocabulary stay.
    """

    def hide(match: re.Match[str]) -> str:
        name, sign = match.group("name", "sign")
        secret = is_secret(name) if name.startswith("--") else _SECRET_IN_TEXT.search(name)
        if not secret or _NOTHING.match(text, match.start("value")):
            return match.group()
        return f"{name}{sign}{HIDDEN}"

    text = _bare(text)
    for pattern in _named_values():
        text = pattern.sub(hide, text)
    return text


@cache
def _named_values() -> tuple[re.Pattern[str], ...]:
    """A name and its value: passed as a flag, listed as words, assigned. Compiled for who has a
    text: in most commands nobody has."""
    flag = r"(?P<name>--[A-Za-z][\w-]*)"
    return (
        # In prose a key may be followed by any word: only a flag's value stands behind a space.
        re.compile(flag + r"(?P<sign>\s*=\s*|\s+)" + _WORD),
        re.compile(flag + rf"(?P<sign>['\"],\s*)(?P<value>{_QUOTED})"),
        re.compile(r"(?P<name>(?<![\w-])[A-Za-z][\w-]*)(?P<sign>\\?['\"]?\s*[=:]\s*)" + _VALUE),
    )


def _bare(text: str) -> str:
    for pattern in (_HUB_TOKEN, _HEADER, _LOGIN):
        text = pattern.sub(rf"\g<kept>{HIDDEN}", text)
    return text


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
