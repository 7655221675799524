"""deploy/ and compose.yaml: Prometheus, its alerts, and Grafana's dashboard."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.overlay.metrics import table
from tests.support import deployed
from tests.support.deployed import GRAFANA, PROMETHEUS, ROOT, RULES

PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
OURS = {metric.name for metric in table.METRICS}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def test_each_alert_is_made_to_fire_and_to_stay_silent() -> None:
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yaml").read_text(encoding="utf-8"))["tests"]
    tested = [rule for case in cases for rule in case["alert_rule_test"]]
    fired = {rule["alertname"] for rule in tested if rule["exp_alerts"]}
    silent = {rule["alertname"] for rule in tested if not rule["exp_alerts"]}
    assert fired == silent == set(deployed.alerts())


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_alert_says_what_is_wrong_and_where_it_is_explained() -> None:
    for name, alert in deployed.alerts().items():
        assert alert["annotations"]["summary"].endswith((".", "now."))
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert (ROOT / page).is_file()
        assert anchor == name.lower()
        assert anchor in anchors(PAGE), f"docs/operating.md has no section {name}"
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["for"]


def test_the_page_has_every_metric_of_ours_with_its_type() -> None:
    for metric in table.METRICS:
        assert re.search(
            rf"^\| `{metric.name}(\{{[^`]*\}})?` \| {metric.kind} \| .+ \|$", PAGE, re.M
        )
        for label in metric.labels:
            assert f"`{metric.name}{{{','.join(metric.labels)}}}`" in PAGE, label


def test_the_picture_of_the_dashboard_is_there_and_small() -> None:
    (picture,) = re.findall(r"!\[[^\]]+\]\((images/[^)]+)\)", PAGE)
    assert 10_000 < (ROOT / "docs" / picture).stat().st_size < 200_000


def test_what_is_asked_of_ours_exists_and_all_of_ours_is_asked_for() -> None:
    recorded = {rule["record"] for rule in deployed.rules() if "record" in rule}
    texts = [rule["expr"] for rule in deployed.rules()]
    texts += [query.expression for query in deployed.queries()]
    asked = {re.sub(r"_bucket$", "", name) for text in texts for name in deployed.metrics(text)}
    ours = {name for name in asked if name.startswith("sglang_qwen3next_eagle3")}
    assert ours == OURS | recorded
    assert all(name.startswith("sglang:") for name in asked - ours - {"up"})


def test_every_panel_has_queries_a_unit_and_a_place_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in deployed.panels():
        title = panel["title"]
        assert panel["targets"], title
        assert panel["description"].endswith("."), title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["datasource"] == DATASOURCE, title
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters)), title
        for target in panel["targets"]:
            assert target["datasource"] == DATASOURCE, title
            assert target["expr"].strip(), title
            assert target["legendFormat"], title
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, title
        taken |= cells


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    data = deployed.dashboard()
    ids = [panel["id"] for panel in data["panels"]]
    assert len(ids) == len(set(ids))
    assert data["title"]
    assert data["uid"]
    assert "id" not in data, "that is the importing Grafana's"
    rows = [panel["title"] for panel in data["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Speculation", "Memory and slots", "Errors"]
    variables = {one["name"]: one for one in data["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["instance"]["datasource"] == DATASOURCE
    for query in deployed.queries():
        used = set(re.findall(r"\$(\w+)", query.expression))
        assert used <= {"__rate_interval", *variables}, query
        assert "$instance" in query.expression, query


def test_legends_name_labels_that_their_query_keeps() -> None:
    for query in deployed.queries():
        for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
            assert re.search(rf"by \([^)]*\b{label}\b[^)]*\)", query.expression), query


def compose() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return data


def test_what_compose_mounts_is_there_and_where_the_configurations_look() -> None:
    services = compose()["services"]
    mounted: dict[str, Path] = {}
    named: set[str] = set()
    for service in services.values():
        for volume in service.get("volumes", []):
            source, inside, *_ = volume.split(":")
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                mounted[inside] = ROOT / source
            else:
                named.add(source)
    assert named == set(compose()["volumes"])
    provider = yaml.safe_load(
        (GRAFANA / "provisioning/dashboards/dashboards.yaml").read_text(encoding="utf-8")
    )["providers"][0]
    assert mounted[f"{provider['options']['path']}/dashboard.json"] == GRAFANA / "dashboard.json"
    assert mounted["/etc/grafana/provisioning"] == GRAFANA / "provisioning"
    assert mounted["/etc/prometheus/prometheus.yml"] == PROMETHEUS / "prometheus.yml"
    assert mounted["/etc/prometheus/alerts.yaml"] == RULES


def test_services_reach_each_other_by_the_names_that_compose_gives_them() -> None:
    services = compose()["services"]
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    (scrape,) = config["scrape_configs"]
    assert scrape["job_name"] == "sglang"
    assert scrape["static_configs"] == [{"targets": ["server:30000"]}]
    source = yaml.safe_load(
        (GRAFANA / "provisioning/datasources/prometheus.yaml").read_text(encoding="utf-8")
    )["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert set(services) == {"server", "prometheus", "grafana"}
    for service in services.values():
        for dependency in service.get("depends_on", {}):
            assert dependency in services


def test_no_service_of_compose_is_open_to_other_machines_without_a_key() -> None:
    for name, service in compose()["services"].items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), name


def test_compose_hands_keys_on_as_files_and_never_in_a_command_or_a_variable() -> None:
    data = compose()
    served = data["services"]["server"]
    words = served["command"]
    for key in ("api-key", "admin-api-key"):
        assert words[words.index(f"--{key}-file") + 1] == f"/run/secrets/{key}"
        assert data["secrets"][key] == {"file": f"${{KEYS:-./keys}}/{key}"}
    assert served["secrets"] == list(data["secrets"])
    assert not {"--api-key", "--admin-api-key"} & set(words)
    assert not [name for name in served["environment"] if "API_KEY" in name]


def test_the_keys_of_compose_come_into_no_commit_and_no_image() -> None:
    assert "/keys/" in (ROOT / ".gitignore").read_text().split()
    assert "keys" in (ROOT / ".dockerignore").read_text().split()


def test_launch_takes_the_command_of_compose(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", w) for w in compose()["services"]["server"]["command"]
    ]
    assert launch.main([*words, "--dry-run"]) == 0
    assert "_API_KEY_FILE=/run/secrets/api-key" in capsys.readouterr().out
