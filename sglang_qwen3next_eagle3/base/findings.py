"""Findings of a check: what was found, how bad it is, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """level: an error does not serve, a warning serves but should be looked at.

    subject: what it is about, the same word for the same cause, for scripts.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}" if self.remedy else self.text


def error(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding("error", subject, text, remedy)


def warning(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding("warning", subject, text, remedy)


def note(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding("note", subject, text, remedy)


def exit_status(findings: Iterable[Finding]) -> int:
    """0: at most notes; 1: warnings; 2: errors."""
    ranks = {"note": 0, "warning": 1, "error": 2}
    return max((ranks[finding.level] for finding in findings), default=0)
