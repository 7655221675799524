"""The metrics of a real server, scraped by a real Prometheus, against what its answers say."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sglang_qwen3next_eagle3.overlay.metrics import table
from tests.support import deployed, prometheus
from tests.support.prometheus import Prometheus
from tests.support.server import PATIENCE, Server

PROMPTS = ("def fibonacci(n):", "Sort a list.", "What is a heap?", "class Stack:", "import os")
WAIT_SECONDS = 300

Scrape = Counter[tuple[str, str]]


def scrape(server: Server) -> Scrape:
    """Our metrics, by name and by the value of their own label, summed over the others."""
    reply = httpx.get(f"{server.url}/metrics", timeout=PATIENCE)
    assert reply.status_code == 200
    own = {metric.name: metric.labels for metric in table.METRICS}
    found: Scrape = Counter()
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            labels = own.get(re.sub(r"_(count|sum|bucket)$", "", sample.name), ("le",))
            value = ",".join(sample.labels.get(label, "") for label in labels)
            if sample.name.startswith(table.PREFIX):
                found[sample.name, value] += sample.value
    return found


def at_rest(server: Server) -> Scrape:
    """Once nothing runs any more of what others have asked, and given up."""
    found = scrape(server)
    while True:
        time.sleep(3)
        again = scrape(server)
        if again == found:
            return again
        found = again


def ask(server: Server, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/generate", json=body, timeout=PATIENCE)


def traffic(server: Server) -> list[dict[str, Any]]:
    """Answers of all kinds, several at once; the `meta_info` of each."""
    bodies: list[dict[str, Any]] = [
        {"text": text, "sampling_params": {"temperature": 0, "max_new_tokens": 24 + 8 * number}}
        for number, text in enumerate(PROMPTS)
    ]
    bodies += [
        {"text": "a", "sampling_params": {"temperature": 0.7, "max_new_tokens": 16, "n": 2}},
        {"text": "b", "sampling_params": {"temperature": 0, "max_new_tokens": 1}},
        {"text": "c", "sampling_params": {"max_new_tokens": 12, "regex": "(ab){2,8}"}},
    ]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda body: ask(server, **body), bodies))
    assert [reply.status_code for reply in replies] == [200] * len(bodies)
    answers = [reply.json() for reply in replies]
    flat = [one for answer in answers for one in (answer if isinstance(answer, list) else [answer])]
    return [one["meta_info"] for one in flat]


def test_the_counters_agree_exactly_with_what_the_answers_say(tree_server: Server) -> None:
    before = at_rest(tree_server)
    answers = traffic(tree_server)
    verified = sum(answer.get("spec_verify_ct", 0) for answer in answers)
    proposed = sum(answer.get("spec_num_proposed_drafts", 0) for answer in answers)
    accepted: Counter[str] = Counter()
    for answer in answers:
        for drafts, times in enumerate(answer.get("spec_correct_drafts_histogram", [])):
            for position in range(1, drafts + 1):
                accepted[str(position)] += times
    expected = {
        (table.VERIFICATIONS.name, ""): verified,
        (table.PROPOSED.name, ""): proposed,
        **{(table.ACCEPTED.name, position): count for position, count in accepted.items()},
    }
    risen = scrape(tree_server)
    risen.subtract(before)
    assert {key: risen[key] for key in expected} == expected
    assert verified > 20
    assert accepted.total() == sum(a.get("spec_num_correct_drafts", 0) for a in answers) > 0
    assert 0 < risen[f"{table.CYCLE.name}_count", ""] <= verified


def test_each_refusal_is_counted_once_by_its_reason(tree_server: Server) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("choices", {"text": "a", "sampling_params": {"n": 0}}),
        ("shape", {"text": "a", "rid": ["a", "b"]}),
        ("length", {"text": "a", "sampling_params": {"max_new_tokens": 999_999}}),
        ("field", {"input_ids": [999_999]}),
        ("scheduler", {"text": "a", "sampling_params": {"ebnf": "root ::= ("}}),
    ]
    for reason, body in asked:
        before = scrape(tree_server)
        reply = ask(tree_server, **body)
        assert reply.status_code == 400, f"{reason}: {reply.text}"
        risen = scrape(tree_server)
        risen.subtract(before)
        rises = {r: risen[table.REFUSALS.name, r] for r in table.REASONS}
        assert rises == {r: float(r == reason) for r in table.REASONS}, reply.text


def test_what_the_server_was_started_with_is_told(tree_server: Server) -> None:
    found = scrape(tree_server)
    assert [value for (name, value) in found if name == table.CAPTURED.name] == [
        "output:3,7,11,SGLANG_QWEN3NEXT_EAGLE3_AUX_LAYERS"
    ]
    assert found[table.FAST_PATH.name, "none"] == 0
    assert [value for (name, value) in found if name == table.FAST_PATH.name] == ["none"]


@pytest.fixture(scope="module")
def asked(tree_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen a server before, during and after its traffic."""
    if prometheus.binary() is None:
        pytest.skip(prometheus.MISSING)
    with prometheus.scraping(tree_server.url, tmp_path_factory.mktemp("prometheus")) as one:
        # SGLang's counters have no series before their first event, and a rate needs two samples.
        every_kind(tree_server)
        until(lambda: scraped(one) >= 2)
        every_kind(tree_server)
        seen = scraped(one)
        until(lambda: scraped(one) >= seen + 2)
        until(lambda: one.query("sglang_qwen3next_eagle3:estimated_speedup:rate5m"))
        yield one


def every_kind(server: Server) -> None:
    """A whole answer, a streamed one and a refusal."""
    ask(server, text="def", sampling_params={"max_new_tokens": 24})
    stream(server)
    ask(server, text="a", sampling_params={"n": 0})


def scraped(asked: Prometheus) -> float:
    """How often the server has answered."""
    return sum(value for _, value in asked.query(f"count_over_time({table.FAST_PATH.name}[1h])"))


def stream(server: Server) -> None:
    body = {"text": "x =", "stream": True, "sampling_params": {"max_new_tokens": 24}}
    with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=PATIENCE) as reply:
        assert "data: [DONE]" in reply.read().decode()


def until(ready: Any, seconds: float = WAIT_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "Prometheus does not see it"
        time.sleep(0.5)


def test_every_query_of_the_dashboard_returns_figures(asked: Prometheus) -> None:
    empty = []
    for query in deployed.queries():
        found = asked.query(query.filled("10m"))
        if not any(value == value for _, value in found):  # NaN is none
            empty.append(f"{query.panel}: {query.filled('10m')}: {found}")
    assert not empty, "\n".join(empty)


def test_the_rules_are_evaluated_and_their_figures_are_there(asked: Prometheus) -> None:
    until(lambda: all(rule["health"] == "ok" for rule in asked.rules()))
    names = {rule["name"] for rule in asked.rules()}
    recorded = {rule["record"] for rule in deployed.rules() if "record" in rule}
    assert names == recorded | set(deployed.alerts())
    for name in recorded:
        assert asked.query(name), name


def test_a_server_that_does_well_raises_no_alert_and_all_that_alerts_ask_for_exists(
    asked: Prometheus,
) -> None:
    for name, alert in deployed.alerts().items():
        for metric in deployed.metrics(alert["expr"]):
            assert asked.query(f"count({metric}) > 0"), f"{name} asks for {metric}"
    firing = asked.query('ALERTS{alertstate="firing"}')
    # A busy machine may not answer Prometheus in time for a minute, which says nothing of alerts.
    assert {labels["alertname"] for labels, _ in firing} <= {"ServerDown"}


def test_prometheus_and_the_server_say_the_same(tree_server: Server, asked: Prometheus) -> None:
    told = scrape(tree_server)[table.VERIFICATIONS.name, ""]
    until(lambda: asked.query(f"sum({table.VERIFICATIONS.name}) == {told}"))


def test_a_server_that_ends_makes_the_alert_of_it_pending(tmp_path: Path) -> None:
    if prometheus.binary() is None:
        pytest.skip(prometheus.MISSING)
    with prometheus.scraping("http://127.0.0.1:9", tmp_path) as one:
        until(lambda: one.query('ALERTS{alertname="ServerDown", alertstate="pending"}'))
