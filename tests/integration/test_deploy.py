"""deploy/ as promtool reads it."""

import subprocess
from pathlib import Path

import pytest

from tests.support import deployed, prometheus
from tests.support.deployed import PROMETHEUS

promtool_is_there = pytest.mark.skipif(prometheus.promtool() is None, reason=prometheus.MISSING)


def promtool(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [prometheus.promtool() or "", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROMETHEUS)


@promtool_is_there
def test_prometheus_reads_its_configuration_and_the_rules() -> None:
    ended = promtool("check", "config", "prometheus.yml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(deployed.rules())} rules found" in ended.stdout


@promtool_is_there
def test_each_alert_fires_and_stays_silent_as_its_tests_say() -> None:
    ended = promtool("test", "rules", "alerts_test.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@promtool_is_there
def test_prometheus_parses_every_query_of_the_dashboard(tmp_path: Path) -> None:
    expressions = [query.filled() for query in deployed.queries()]
    ended = promtool("check", "rules", prometheus.rule_file(expressions, tmp_path / "x.yaml"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(expressions)} rules found" in ended.stdout


@promtool_is_there
def test_a_query_that_prometheus_cannot_parse_would_be_seen(tmp_path: Path) -> None:
    ended = promtool("check", "rules", prometheus.rule_file(["sum(rate(up[1m])"], tmp_path / "x"))
    assert ended.returncode != 0
