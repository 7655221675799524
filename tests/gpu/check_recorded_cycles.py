"""Recordings of cycles on a GPU with real CUDA graphs, but a made-up worker in SGLang's place.

    python -m tests.gpu.check_recorded_cycles

Needs neither SGLang nor a model; takes seconds. The streams are those of SGLang's scheduler: cycles
on one, copies to the host on another. Prints what was compared, what a cycle takes the host with
and without a recording, and what it takes the GPU where its graphs are parts of one and where they
are not: their kernels, some of which begin before the one before them ends, are of known length.
"""

import statistics
import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.seams import cycles as recorded
from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles
from sglang_qwen3next_eagle3.overlay.seams.joining import Joins, keep
from sglang_qwen3next_eagle3.overlay.seams.plans import CyclePlan, copy_to_cpu
from tests.support.made_up_cycles import POOL, Relay, Worker, turn_of

TURNS = 400
LATE = 60_000_000
"""Of the GPU's clock: 30 ms or more."""
ASKED = (None, (True, True, False), None, (False, True, False), (True, False, True))
"""Of batches by turns: top_k, top_p, min_p; None is greedy."""


def stand_in() -> None:
    """For what is imported from SGLang."""
    for name in ("sglang", "sglang.srt", "sglang.srt.managers"):
        sys.modules[name] = ModuleType(name)
    module: Any = ModuleType("sglang.srt.managers.overlap_utils")
    module.RelayPayload = SimpleNamespace(from_draft_input=lambda left: left)
    sys.modules[module.__name__] = module
    recorded.hindrance = lambda worker: None
    recorded._track = lambda batch: None
    recorded.holds_all = lambda relay: True
    recorded._published = lambda relay: None


def graphed(worker: Worker, kept: bool = False, more: Callable[[], None] | None = None) -> None:
    """The worker's graph is one of CUDA's, kept or not, with something more in it."""
    worker.verify()
    if more is not None:
        more()

    def capture(backend: Any, key: str) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            worker.verify()
            if more is not None:
                more()
        backend._graphs[key] = graph

    if kept:
        keep(capture, worker.backend, "all")
    else:
        capture(worker.backend, "all")


def stock_to_host(result: Any, **_: Any) -> None:
    for name in ("next_token_ids", "accept_lens"):
        tensor = getattr(result, name)
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        tensor.record_stream(torch.cuda.current_stream())
        setattr(result, name, host)
    result.copy_done.record()


class Late:
    """Cycles that the GPU begins late: the host has launched one long before it runs."""

    def __init__(self, cycles: Cycles) -> None:
        self._cycles = cycles

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cycles, name)

    def around(self, *arguments: Any, **named: Any) -> Any:
        torch.cuda._sleep(LATE)
        return self._cycles.around(*arguments, **named)


def run(relayed: bool, sampled: bool, joined: bool, kept: bool) -> None:
    """sampled: two of three batches are, in three ways; both draw from a generator that is where
    the other's was. joined: in one graph, if the worker's was kept."""
    joins = Joins() if joined else None
    cycles = Cycles(relayed=relayed, sampled=sampled, joins=joins)
    chances = {False: torch.cuda.get_rng_state(), True: torch.cuda.get_rng_state()}
    ours, theirs = Worker(cycles, "cuda"), Worker(Cycles(), "cuda")
    own, stock = Relay(cycles, "cuda"), Relay(cycles, "cuda")
    graphed(ours, kept)
    graphed(theirs)
    forward, copying, schedule = (torch.cuda.Stream() for _ in range(3))
    seen: list[tuple[int, Any, Any]] = []
    seen_late = 0
    torch.cuda.synchronize()
    chance = torch.Generator().manual_seed(3)
    waiting: list[tuple[int, Any, Any]] = []
    host: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(TURNS):
        size = 1 + turn * turn // 2 % 3
        places = torch.randperm(POOL, generator=chance)[:size].cuda()
        results = []
        late = turn > TURNS // 2 and turn % 8 == 0
        watched: Any = Late(cycles) if late else cycles
        for worker, relay, around in ((theirs, stock, None), (ours, own, watched)):
            with torch.cuda.stream(forward):
                forward.wait_stream(torch.cuda.default_stream())
                torch.cuda.set_rng_state(chances[around is not None])
                asked = ASKED[turn % 5] if sampled else None
                begun = time.perf_counter()
                result = turn_of(worker, relay, around, places, turn, asked)
                if not late:
                    host[around is not None].append(time.perf_counter() - begun)
                chances[around is not None] = torch.cuda.get_rng_state()
                result.copy_done = torch.cuda.Event()
            mark = vars(relay).pop("publish_ready", None)
            if mark is not None:
                # Before anything else waits for the cycle, as the scheduler does.
                with torch.cuda.stream(schedule):
                    schedule.wait_event(mark)
                    lengths = own.new_seq_lens_buf[places]
                    there = schedule.record_event()
                seen_late += late
                assert not (late and there.query()), "the lengths are there before the cycle"
                there.synchronize()
                seen.append((turn, lengths, stock.new_seq_lens_buf[places]))
            copying.wait_stream(forward)
            with torch.cuda.stream(copying):
                copy_to_cpu(stock_to_host, result, return_logprob=False, return_hidden_states=False)
            results.append(result)
        waiting.append((turn, *results))
        # As with overlapped scheduling, a result is looked at while the next cycle runs.
        if len(waiting) > 1:
            compare(*waiting.pop(0))
    torch.cuda.synchronize()
    for turn, lengths, wanted in seen:
        assert torch.equal(lengths, wanted), f"lengths seen early, turn {turn}"
    assert torch.equal(own.new_seq_lens_buf, stock.new_seq_lens_buf)
    for name, rows in own.rows.items():
        assert torch.equal(rows, stock.rows[name]), name
    plans = [plan for plan in cycles._plans.values() if isinstance(plan, CyclePlan)]
    assert len(plans) == (12 if sampled else 3), cycles._said
    assert torch.equal(*chances.values()), "as many numbers are drawn"
    launches = {len(plan.recording.steps) for plan in plans}
    assert launches == {(1 if relayed else 3) if joined and kept else 8}, launches
    assert bool(seen) == bool(seen_late) == (joined and kept and relayed)
    without, recording = (
        statistics.median(host[name][len(host[name]) // 2 :]) * 1e6 for name in (False, True)
    )
    print(
        f"relayed {relayed}, sampled {sampled}, joined {joined}, kept {kept}: {launches} steps, "
        f"{len(seen)} lengths seen early, {seen_late} of them of cycles that began late, "
        f"{TURNS} turns equal, {ours.said} of them the worker's own; "
        f"host: {without:.0f} us without, {recording:.0f} with",
        flush=True,
    )


def compare(turn: int, expected: Any, found: Any) -> None:
    for result in (expected, found):
        result.copy_done.synchronize()
    assert torch.equal(found.next_token_ids, expected.next_token_ids), turn
    assert torch.equal(found.accept_lens, expected.accept_lens), turn


@triton.jit
def _spin(source, target, turns, EARLY: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    value = tl.load(source + place)
    for _ in range(turns):
        value = value * 1.0001 + 0.001
    tl.store(target + place, value)


def work(kernels: int, early: bool) -> Callable[[], None]:
    """So many kernels of some 5 us; early: each begins before the one before it ends."""
    halves = torch.rand(2, 132 * 128, device="cuda")

    def launch() -> None:
        for turn in range(kernels):
            _spin[(132,)](
                halves[turn % 2], halves[1 - turn % 2], 1000, EARLY=early, BLOCK=128,
                launch_pdl=early,
            )  # fmt: skip

    return launch


def timed(early: bool) -> None:
    """A cycle's two graphs of 100 kernels each."""
    forward = torch.cuda.Stream()
    places = torch.arange(1, device="cuda")
    for joined in (False, True):
        cycles = Cycles(relayed=True, joins=Joins() if joined else None)
        worker, relay = Worker(cycles, "cuda"), Relay(cycles, "cuda")
        graphed(worker, joined, work(100, early))
        torch.cuda.synchronize()
        free = torch.cuda.mem_get_info()[0]
        graph, alone = worker.backend._graphs["all"], []
        with torch.cuda.stream(forward):
            for _ in range(20):
                before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                before.record()
                graph.replay()
                after.record()
                after.synchronize()
                alone.append(before.elapsed_time(after) * 1e3)
            for turn in range(3):
                turn_of(worker, relay, cycles, places, turn)
            torch.cuda.synchronize()
            (plan,) = cycles._recorded()
            taken = (free - torch.cuda.mem_get_info()[0]) / 2**20
            given = [relay_places.clone() for relay_places in plan.inputs]
            for _ in range(10):
                plan.run(given, lambda lens: None)
            torch.cuda._sleep(30_000_000)
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            begun = time.perf_counter()
            for _ in range(200):
                plan.run(given, lambda lens: None)
            host = (time.perf_counter() - begun) / 200 * 1e6
            after.record()
            after.synchronize()
            whole = before.elapsed_time(after) / 200 * 1e3
            ahead = ""
            if joined:
                left = seen_early(plan, given, relay)
                assert 0.3 * whole < left < 0.7 * whole, f"{left:.0f} of {whole:.0f} us"
                ahead = f", its event {left:.0f} us before its end"
        print(
            f"early {early}, joined {joined}: two graphs of {statistics.median(alone):.1f} us each "
            f"alone; a cycle {whole:.1f} us on the GPU, {host:.0f} us of the host, "
            f"{len(plan.recording.steps)} steps, {taken:.1f} MiB{ahead}",
            flush=True,
        )


def seen_early(plan: Any, given: list[Any], relay: Relay) -> float:
    """How long before the end of a recorded cycle the event of its lengths is there, us.

    Also where the same plan was launched before and has not begun: its event is one.
    """
    torch.cuda.synchronize()
    torch.cuda._sleep(LATE)
    plan.run(given, lambda lens: None)
    first = torch.cuda.current_stream().record_event()
    plan.run(given, lambda lens: None)
    second = torch.cuda.current_stream().record_event()
    vars(relay)["publish_ready"].synchronize()
    assert first.query(), "the event is of the second cycle"
    assert not second.query(), "the event is before the end of the second cycle"
    begun = time.perf_counter()
    second.synchronize()
    return (time.perf_counter() - begun) * 1e6


def main() -> None:
    stand_in()
    with torch.inference_mode():
        for relayed, sampled in ((False, False), (True, False), (False, True), (True, True)):
            for joined, kept in ((False, False), (True, True)):
                run(relayed, sampled, joined, kept)
        run(True, False, joined=True, kept=False)
        for early in (False, True):
            timed(early)


if __name__ == "__main__":
    main()
