"""Findings of a check: what was found, how bad it is, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
RANKS: dict[Level, int] = {"note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class Finding:
    """level: an error does not serve, a warning serves but should be looked at.

    subject: what it is about, the same word for the same cause, for scripts. text: what was seen;
    remedy: what to do about it; means: what it leads to, where the text does not say that.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""
    means: str = ""

    def __str__(self) -> str:
        text = f"{self.text}; {self.means}" if self.means else self.text
        return f"{text}: {self.remedy}" if self.remedy else text


def error(subject: str, text: str, remedy: str = "", means: str = "") -> Finding:
    return Finding("error", subject, text, remedy, means)


def warning(subject: str, text: str, remedy: str = "", means: str = "") -> Finding:
    return Finding("warning", subject, text, remedy, means)


def note(subject: str, text: str, remedy: str = "", means: str = "") -> Finding:
    return Finding("note", subject, text, remedy, means)


def worst(findings: Iterable[Finding]) -> int:
    """How a check ends as an exit status. 0: at most notes; 1: warnings; 2: errors."""
    return max((RANKS[finding.level] for finding in findings), default=0)
