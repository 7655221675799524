"""What SpecForge 0.2.0 prints while it trains (training/assembly.py): `step N: {metrics}`."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LINE = re.compile(r"step (\d+): (\{.*\})\s*$")
_ERROR = re.compile(r"(?:\[rank\d+\]:\s*)?[\w.]*(?:Error|Exception)\b.*")
_NUMBERS = {"nan": "NaN", "inf": "Infinity"}


@dataclass(frozen=True)
class StepReport:
    """One line of metrics. values: numbers, and lists of numbers by draft step."""

    step: int
    values: dict[str, Any]

    @property
    def is_evaluation(self) -> bool:
        return "eval/avg_loss" in self.values

    def describe(self) -> str:
        """For people: `step 500: acc_0 0.61 acc_6 0.24 loss 6.81`."""
        if self.is_evaluation:
            accuracies = " ".join(f"{a:.3f}" for a in self.values.get("eval/per_position_acc", ()))
            # SpecForge counts drafts alone; a verification yields the target's own token too.
            length = 1 + self.values.get("eval/simulated_acc_len", math.nan)
            return f"step {self.step}: held out: acc {accuracies}, accept length about {length:.2f}"
        steps = sorted(key for key in self.values if re.fullmatch(r"acc_\d+", key))
        shown = [*steps[:1], *steps[1:][-1:], "loss"]
        figures = (f"{key} {self.values[key]:.3f}" for key in shown if key in self.values)
        return f"step {self.step}: {' '.join(figures)}"


def parse(line: str) -> StepReport | None:
    """The report in a line of the log, or None if there is none."""
    found = _LINE.match(line)
    if found is None:
        return None
    text = re.sub(r"\b(nan|inf)\b", lambda word: _NUMBERS[word[0]], found[2])
    try:
        return StepReport(int(found[1]), json.loads(text.replace("'", '"')))
    except ValueError:
        return None


def last_metrics(log: Path, step: int) -> dict[str, dict[str, Any]]:
    """The last training and the last evaluation report until a step, under `training` and
    `evaluation`; nothing under a name that the log has no report for."""
    found: dict[str, StepReport] = {}
    if log.is_file():
        with log.open(encoding="utf-8", errors="replace") as stream:
            for report in filter(None, map(parse, stream)):
                if report.step <= step:
                    # A run that went on repeats the steps behind its checkpoint: the later counts.
                    found["evaluation" if report.is_evaluation else "training"] = report
    return {
        name: {"step": report.step, **_without_timings(report.values)}
        for name, report in found.items()
    }


def _without_timings(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix("eval/"): value
        for name, value in values.items()
        if not name.startswith("perf/")
    }


def reason(tail: Sequence[str]) -> str:
    """The line that says why SpecForge failed: the last exception, else the last line."""
    lines = [line.strip() for line in tail if line.strip()]
    errors = [line for line in lines if _ERROR.fullmatch(line)]
    return (errors or lines or ["it printed nothing"])[-1]
