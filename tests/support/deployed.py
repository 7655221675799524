"""What deploy/ holds: the dashboard's panels, the rules, and the metrics that they ask for."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RULES = PROMETHEUS / "alerts.yaml"

_NAME = re.compile(r"(?<![\w:.\"])(sglang[\w:]+|up)(?![\w(])")
_STRING = re.compile(r'"[^"]*"')


@dataclass(frozen=True)
class Query:
    """One target of a panel. legend: with `{{label}}` in it."""

    panel: str
    legend: str
    expression: str

    def filled(self, interval: str = "1m", instance: str = ".*") -> str:
        """As Grafana would send it."""
        text = self.expression.replace("$__rate_interval", interval)
        return text.replace("$instance", instance)


def dashboard() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((GRAFANA / "dashboard.json").read_text(encoding="utf-8"))
    return data


def panels() -> list[dict[str, Any]]:
    """All but the rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries(panel: dict[str, Any] | None = None) -> Iterator[Query]:
    """Of one panel, or of all."""
    for one in panels() if panel is None else [panel]:
        for target in one["targets"]:
            yield Query(one["title"], target["legendFormat"], target["expr"])


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def metrics(expression: str) -> set[str]:
    """The names of the metrics and of the recorded figures that an expression asks for."""
    return set(_NAME.findall(_STRING.sub('""', expression)))
