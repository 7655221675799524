"""A real Prometheus that scrapes one server, and its answers."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from sglang_qwen3next_eagle3.base.processes import child, free_port
from tests.support.deployed import PROMETHEUS, RULES

MISSING = "prometheus is not installed (Debian: apt-get install prometheus)"
Sample = tuple[dict[str, str], float]
Series = tuple[dict[str, str], list[tuple[float, float]]]


def binary() -> str | None:
    return shutil.which("prometheus")


def promtool() -> str | None:
    return shutil.which("promtool")


@dataclass(frozen=True)
class Prometheus:
    url: str

    def query(self, expression: str) -> list[Sample]:
        """Labels and value of each series that there is now."""
        found = self._get("query", query=expression)["data"]["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """Labels and (time, value) of each series; times are seconds since 1970."""
        asked = {"query": expression, "start": start, "end": end, "step": step}
        found = self._get("query_range", **asked)["data"]["result"]
        return [
            (one["metric"], [(float(t), float(value)) for t, value in one["values"]])
            for one in found
        ]

    def rules(self) -> list[dict[str, Any]]:
        groups = self._get("rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _get(self, what: str, **asked: Any) -> dict[str, Any]:
        reply = httpx.get(f"{self.url}/api/v1/{what}", params=asked, timeout=60)
        answer: dict[str, Any] = reply.json()
        assert answer["status"] == "success", f"{asked}: {answer}"
        return answer


@contextlib.contextmanager
def scraping(server_url: str, folder: Path, seconds: int = 5) -> Iterator[Prometheus]:
    """Prometheus as deploy/ has it, but asking this server, every so many seconds."""
    executable = binary()
    assert executable is not None, MISSING
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": f"{seconds}s", "evaluation_interval": f"{seconds}s"}
    config["rule_files"] = [str(RULES)]
    (scrape,) = config["scrape_configs"]
    scrape["static_configs"] = [{"targets": [server_url.removeprefix("http://")]}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    command = [
        executable,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}"
    with child(command, folder / "prometheus.log", name="prometheus") as started:
        started.wait_until(lambda: _ready(url), 120)
        yield Prometheus(url)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def rule_file(expressions: list[str], path: Path) -> Path:
    """A file of rules that record these expressions, for promtool to parse."""
    recorded = [{"record": f"x:{n}", "expr": text} for n, text in enumerate(expressions)]
    # JSON is YAML.
    path.write_text(json.dumps({"groups": [{"name": "x", "rules": recorded}]}), encoding="utf-8")
    return path
