"""What metrics cost the scheduler for each cycle: ours and SGLang's own.

python -m tests.support.time_metrics
"""

import os
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace as Fake
from typing import Any

CYCLES = 3000
LABELS = {"model_name": "demo", "engine_type": "unified", "tp_rank": "0", "pp_rank": "0"}


def microseconds(work: Callable[[int], object]) -> float:
    """Of this thread's own time for each call, the best of five runs."""
    best = float("inf")
    for _ in range(5):
        begun = time.thread_time()
        for number in range(CYCLES):
            work(number)
        best = min(best, time.thread_time() - begun)
    return best / CYCLES * 1e6


def ours(requests: int) -> float:
    from sglang_qwen3next_eagle3.overlay.metrics import hooks
    from sglang_qwen3next_eagle3.overlay.metrics.cycle_costs import parse
    from sglang_qwen3next_eagle3.overlay.metrics.families import Verifications

    labels = {**LABELS, "moe_ep_rank": str(requests)}
    (costs,) = parse("3,4,8 1:10/6 32:37/16")
    cycles = Verifications(labels, 3, costs, _registry())
    (hook,) = (h for h in hooks.scheduler_hooks(cycles, Fake()) if "_resolve" in h.target)
    batch: Any = Fake(reqs=[Fake(is_retracted=False, finished=lambda: False)] * requests)
    drafts = [n % 4 for n in range(requests)]
    result: Any = Fake(num_correct_drafts_per_req_cpu=drafts, speculative_num_draft_tokens=8)

    def one(number: int) -> None:
        batch.forward_iter = number
        hook.replacement(lambda *_: None, None, result, batch)

    return microseconds(one)


def sglang() -> float:
    """What SGLang does in each cycle, and a fortieth of what it does in each fortieth."""
    from sglang.srt.observability.metrics_collector import SchedulerMetricsCollector, SchedulerStats

    labels = {**LABELS, "moe_ep_rank": "0"}
    server_args: Any = Fake(
        prefill_delayer_max_delay_passes=30,
        prefill_delayer_wait_seconds_buckets=None,
        prefill_delayer_forward_passes_buckets=None,
    )
    collector = SchedulerMetricsCollector(labels=labels, server_args=server_args)

    def each(number: int) -> None:
        collector.increment_decode_cuda_graph_pass(value=True)
        collector.increment_realtime_tokens(decode_tokens=3, dp_cooperation_info=None)
        if number % 40 == 0:
            collector.log_stats(SchedulerStats())

    return microseconds(each)


def _registry() -> Any:
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # As SGLang's server does: the processes share their numbers by files.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        for requests in (1, 8, 32):
            print(f"ours, {requests:2} requests: {ours(requests):6.1f} us a cycle")
        print(f"SGLang's own:      {sglang():6.1f} us a cycle")


if __name__ == "__main__":
    main()
