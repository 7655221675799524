"""The metrics as a scrape shows them, from a registry of each test's own."""

import pytest
from prometheus_client import CollectorRegistry

from sglang_qwen3next_eagle3.overlay.metrics import cycle_costs, table
from sglang_qwen3next_eagle3.overlay.metrics.families import Refusals, Verifications, say

LABELS = {"model_name": "demo", "tp_rank": "0"}
(COSTS,) = cycle_costs.parse("3,4,8 1:10/6 4:16/8")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    found: float | None = registry.get_sample_value(name, {**LABELS, **labels})
    return found


def positions(registry: CollectorRegistry) -> list[float | None]:
    return [value(registry, table.ACCEPTED.name, position=str(n)) for n in (1, 2, 3, 4)]


def test_a_verification_is_counted_once_for_each_request_that_goes_on(
    registry: CollectorRegistry,
) -> None:
    metrics = Verifications(LABELS, 3, None, registry)
    metrics.cycle([2, 0, 3], proposed=7, requests=4, pass_number=1, now=0.0)
    metrics.cycle([1], proposed=7, requests=1, pass_number=2, now=0.5)
    metrics.cycle([], proposed=7, requests=1, pass_number=3, now=1.0)
    assert value(registry, table.VERIFICATIONS.name) == 4
    assert value(registry, table.PROPOSED.name) == 28
    assert positions(registry) == [3, 2, 1, None]


def test_every_series_of_speculation_is_there_before_the_first_request(
    registry: CollectorRegistry,
) -> None:
    Verifications(LABELS, 3, COSTS, registry)
    assert value(registry, table.VERIFICATIONS.name) == 0
    assert positions(registry) == [0, 0, 0, None]
    assert value(registry, f"{table.CYCLE.name}_count") == 0
    for of in table.TIMES:
        assert value(registry, table.COST_MODEL.name, of=of) == 0


def test_positions_beyond_the_steps_get_their_series_when_they_come(
    registry: CollectorRegistry,
) -> None:
    metrics = Verifications(LABELS, 2, None, registry)
    metrics.cycle([4], proposed=7, requests=1, pass_number=1, now=0.0)
    assert positions(registry) == [1, 1, 1, 1]


def test_cycles_are_timed_where_no_prefill_came_between(registry: CollectorRegistry) -> None:
    metrics = Verifications(LABELS, 3, None, registry)
    for number, now in ((1, 10.0), (2, 10.01), (4, 99.0), (5, 99.02)):
        metrics.cycle([0], proposed=7, requests=1, pass_number=number, now=now)
    assert value(registry, f"{table.CYCLE.name}_count") == 2
    assert value(registry, f"{table.CYCLE.name}_sum") == pytest.approx(0.03)
    assert value(registry, f"{table.CYCLE.name}_bucket", le="0.015") == 1


def test_without_costs_there_is_no_series_of_the_cost_model(registry: CollectorRegistry) -> None:
    metrics = Verifications(LABELS, 3, None, registry)
    metrics.cycle([1], proposed=7, requests=1, pass_number=1, now=0.0)
    metrics.cycle([1], proposed=7, requests=1, pass_number=2, now=0.01)
    assert [value(registry, table.COST_MODEL.name, of=of) for of in table.TIMES] == [None] * 3


def test_the_estimated_speedup_follows_from_the_times_of_the_cost_model(
    registry: CollectorRegistry,
) -> None:
    """Three tokens a cycle that should take 10 ms and took 12, of steps of 6 ms: 1.8 times."""
    metrics = Verifications(LABELS, 3, COSTS, registry)
    for number in range(1, 12):
        metrics.cycle([2], proposed=7, requests=1, pass_number=number, now=number * 0.012)
    actual, expected, plain = (value(registry, table.COST_MODEL.name, of=of) for of in table.TIMES)
    assert actual == pytest.approx(0.12)
    assert expected == pytest.approx(0.1)
    assert plain == pytest.approx(0.18)


def test_cycles_of_more_requests_than_were_measured_are_not_compared(
    registry: CollectorRegistry,
) -> None:
    metrics = Verifications(LABELS, 3, COSTS, registry)
    for number in (1, 2):
        metrics.cycle([1] * 5, proposed=7, requests=5, pass_number=number, now=number * 0.02)
    assert value(registry, table.COST_MODEL.name, of="actual") == 0
    assert value(registry, f"{table.CYCLE.name}_count") == 1


def test_refusals_are_counted_by_reason_from_nought(registry: CollectorRegistry) -> None:
    refusals = Refusals(LABELS, table.REASONS, registry)
    refusals.count("length")
    refusals.count("length")
    counted = {r: value(registry, table.REFUSALS.name, reason=r) for r in table.REASONS}
    assert counted == {"shape": 0, "choices": 0, "length": 2, "field": 0, "scheduler": 0}


def test_what_is_known_at_the_start_is_said_once(registry: CollectorRegistry) -> None:
    say(table.FAST_PATH, LABELS, 1.0, registry, stages="dense,moe")
    assert value(registry, table.FAST_PATH.name, stages="dense,moe") == 1


def test_names_are_prometheus_own_way(registry: CollectorRegistry) -> None:
    for metric in table.METRICS:
        assert metric.name.startswith(table.PREFIX)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.meaning.endswith(".")
    assert list(table.CYCLE_BUCKETS) == sorted(set(table.CYCLE_BUCKETS))
