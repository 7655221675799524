"""The metrics as prometheus_client objects.

This imports prometheus_client, which must not happen before SGLang has named the folder by which
its processes share their metrics: it is loaded by the hooks alone, when a collector of SGLang's is
there already.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from sglang_qwen3next_eagle3.overlay.metrics import table
from sglang_qwen3next_eagle3.overlay.metrics.counts import CycleClock, by_position, cost_share
from sglang_qwen3next_eagle3.overlay.metrics.cycle_costs import CycleCosts
from sglang_qwen3next_eagle3.overlay.metrics.table import Metric

Labels = Mapping[str, str]


def create(metric: Metric, labels: Labels, registry: CollectorRegistry = REGISTRY) -> Any:
    """The family of a metric, to be asked for children with its own labels' values alone."""
    names = [*labels, *metric.labels]
    kinds: dict[str, Any] = {
        "counter": Counter,
        # Of the processes that set one, of which there is one at a time, the last is right.
        "gauge": partial(Gauge, multiprocess_mode="mostrecent"),
        "histogram": partial(Histogram, buckets=table.CYCLE_BUCKETS),
    }
    family = kinds[metric.kind](metric.name, metric.meaning, names, registry=registry)
    return partial(family.labels, **labels)


def say(
    metric: Metric, labels: Labels, value: float, registry: CollectorRegistry = REGISTRY, **own: str
) -> None:
    """A gauge that is set once."""
    create(metric, labels, registry)(**own).set(value)


class Refusals:
    """Requests that were refused, by reason."""

    def __init__(
        self, labels: Labels, reasons: Sequence[str], registry: CollectorRegistry = REGISTRY
    ) -> None:
        child = create(table.REFUSALS, labels, registry)
        # All are there from the start, so that the first refusal is a rise.
        self._children = {reason: child(reason=reason) for reason in reasons}

    def count(self, reason: str) -> None:
        self._children[reason].inc()


class Verifications:
    """What the cycles of one scheduler bring and take.

    labels: those of SGLang's own collector. steps: of the tree; positions beyond them, which an
        adaptive number of steps may bring, get their series when they come.
    """

    def __init__(
        self,
        labels: Labels,
        steps: int,
        costs: CycleCosts | None,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        made = {m: create(m, labels, registry) for m in table.OF_SPECULATION}
        self._verifications = made[table.VERIFICATIONS]()
        self._proposed = made[table.PROPOSED]()
        self._cycle = made[table.CYCLE]()
        self._accepted = made[table.ACCEPTED]
        self._positions = [self._accepted(position=str(n + 1)) for n in range(steps)]
        self._costs = costs
        self._times: dict[str, Any] = {}
        if costs is not None:
            child = create(table.COST_MODEL, labels, registry)
            self._times = {of: child(of=of) for of in table.TIMES}
        self._clock = CycleClock()

    def cycle(
        self,
        accepted: Sequence[int],
        proposed: int,
        requests: int,
        pass_number: int | None,
        now: float,
    ) -> None:
        """Count one cycle.

        accepted: drafts accepted, one number for each request that still wanted tokens.
        proposed: drafts verified for each. requests: of the batch, those with it that had ended.
        pass_number, now: as `CycleClock.elapsed` takes them.
        """
        seconds = self._clock.elapsed(pass_number, now)
        if not accepted:
            return
        self._verifications.inc(len(accepted))
        self._proposed.inc(proposed * len(accepted))
        for position, count in enumerate(by_position(accepted)):
            if position == len(self._positions):
                self._positions.append(self._accepted(position=str(position + 1)))
            self._positions[position].inc(count)
        if seconds is not None:
            self._cycle.observe(seconds)
            self._compare(seconds, requests, accepted)

    def _compare(self, seconds: float, requests: int, accepted: Sequence[int]) -> None:
        share = cost_share(self._costs, seconds, requests, accepted) if self._costs else None
        if share is not None:
            self._times["actual"].inc(share.actual)
            self._times["expected"].inc(share.expected)
            self._times["no_speculation"].inc(share.no_speculation)
