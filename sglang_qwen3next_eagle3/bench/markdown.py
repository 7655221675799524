"""GitHub-flavoured Markdown: tables, code, figures, and nested settings as rows."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sglang_qwen3next_eagle3.bench.results.summary import Spread

NOTHING = "-"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """words: how many of the first columns hold words; the others are right-aligned."""
    rule = ["---" if column < words else "---:" for column in range(len(header))]
    lines = [[*map(_cell, header)], rule, *([*map(_cell, row)] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str, language: str = "") -> str:
    """A block of code or of a log, whatever fences and colours the text itself has."""
    clean = _CONTROL.sub("", text)
    longest = max(map(len, re.findall(r"`{3,}", clean)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{clean}\n{fence}"


def folded(summary: str, body: str) -> str:
    """What a reader opens by a click."""
    return f"<details><summary>{_cell(summary)}</summary>\n\n{body}\n\n</details>"


def speed(value: float) -> str:
    return f"{value:,.1f}"


def length(value: float) -> str:
    return f"{value:.2f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"


def spread(value: Spread | None, spell: Callable[[float], str], bounds: bool = True) -> str:
    """The median, and where repetitions show in it the ends: "166.9 (165.0 to 168.1)"."""
    if value is None:
        return NOTHING
    median, low, high = map(spell, (value.median, value.low, value.high))
    return f"{median} ({low} to {high})" if bounds and low != high else median


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and text of every value; a list of plain values is one value."""
    for key, value in settings.items():
        yield from _flat(f"{prefix}{key}", value)


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        yield from flat(value, f"{key}.")
    elif isinstance(value, list | tuple):
        if any(isinstance(item, Mapping | list | tuple) for item in value):
            for index, item in enumerate(value):
                yield from _flat(f"{key}.{index}", item)
        else:
            yield key, ", ".join(map(_text, value))
    else:
        yield key, _text(value)


def _text(value: Any) -> str:
    if value is None:
        return NOTHING
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return " ".join(_CONTROL.sub("", text).replace("|", "\\|").split())
