"""Recordings of cycles on a GPU with real CUDA graphs, but a made-up worker in SGLang's place.

    python -m tests.gpu.check_recorded_cycles

Needs neither SGLang nor a model; takes seconds. The streams are those of SGLang's scheduler: cycles
on one, copies to the host on another. Prints what was compared, and what a cycle takes the host
with and without a recording.
"""

import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.seams import cycles as recorded
from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles, copy_to_cpu
from tests.support.made_up_cycles import POOL, Relay, Worker, turn_of

TURNS = 400
ASKED = (None, (True, True, False), None, (False, True, False), (True, False, True))
"""Of batches by turns: top_k, top_p, min_p; None is greedy."""


def stand_in() -> None:
    """For what is imported from SGLang."""
    for name in ("sglang", "sglang.srt", "sglang.srt.managers"):
        sys.modules[name] = ModuleType(name)
    module: Any = ModuleType("sglang.srt.managers.overlap_utils")
    module.RelayPayload = SimpleNamespace(from_draft_input=lambda left: left)
    sys.modules[module.__name__] = module
    recorded._hindrance = lambda worker: None
    recorded._track = lambda batch: None
    recorded._holds_all = lambda relay: True
    recorded._published = lambda relay: None


def graphed(worker: Worker) -> None:
    """The worker's graph is one of CUDA's."""
    worker.verify()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        worker.verify()
    worker.backend._graphs["all"] = graph


def stock_to_host(result: Any, **_: Any) -> None:
    for name in ("next_token_ids", "accept_lens"):
        tensor = getattr(result, name)
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        tensor.record_stream(torch.cuda.current_stream())
        setattr(result, name, host)
    result.copy_done.record()


def run(relayed: bool, sampled: bool) -> None:
    """sampled: two of three batches are, in three ways; both draw from a generator that is where
    the other's was."""
    cycles = Cycles(relayed=relayed, sampled=sampled)
    chances = {False: torch.cuda.get_rng_state(), True: torch.cuda.get_rng_state()}
    ours, theirs = Worker(cycles, "cuda"), Worker(Cycles(), "cuda")
    own, stock = Relay(cycles, "cuda"), Relay(cycles, "cuda")
    graphed(ours)
    graphed(theirs)
    forward, copying = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    chance = torch.Generator().manual_seed(3)
    waiting: list[tuple[int, Any, Any]] = []
    host: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(TURNS):
        size = 1 + turn * turn // 2 % 3
        places = torch.randperm(POOL, generator=chance)[:size].cuda()
        results = []
        for worker, relay, around in ((theirs, stock, None), (ours, own, cycles)):
            with torch.cuda.stream(forward):
                forward.wait_stream(torch.cuda.default_stream())
                torch.cuda.set_rng_state(chances[around is not None])
                asked = ASKED[turn % 5] if sampled else None
                begun = time.perf_counter()
                result = turn_of(worker, relay, around, places, turn, asked)
                host[around is not None].append(time.perf_counter() - begun)
                chances[around is not None] = torch.cuda.get_rng_state()
                result.copy_done = torch.cuda.Event()
            copying.wait_stream(forward)
            with torch.cuda.stream(copying):
                copy_to_cpu(stock_to_host, result, return_logprob=False, return_hidden_states=False)
            results.append(result)
        waiting.append((turn, *results))
        # As with overlapped scheduling, a result is looked at while the next cycle runs.
        if len(waiting) > 1:
            compare(*waiting.pop(0))
    torch.cuda.synchronize()
    assert torch.equal(own.new_seq_lens_buf, stock.new_seq_lens_buf)
    for name, rows in own.rows.items():
        assert torch.equal(rows, stock.rows[name]), name
    plans = [plan for plan in cycles._plans.values() if isinstance(plan, recorded.CyclePlan)]
    assert len(plans) == (12 if sampled else 3), cycles._said
    assert torch.equal(*chances.values()), "as many numbers are drawn"
    late = {name: sorted(times[TURNS // 2 :]) for name, times in host.items()}
    print(
        f"relayed {relayed}, sampled {sampled}: {TURNS} turns equal, {ours.said} of them the "
        "worker's own; host: "
        f"{late[False][TURNS // 4] * 1e6:.0f} us without, {late[True][TURNS // 4] * 1e6:.0f} with",
        flush=True,
    )


def compare(turn: int, expected: Any, found: Any) -> None:
    for result in (expected, found):
        result.copy_done.synchronize()
    assert torch.equal(found.next_token_ids, expected.next_token_ids), turn
    assert torch.equal(found.accept_lens, expected.accept_lens), turn


def main() -> None:
    stand_in()
    with torch.inference_mode():
        for relayed, sampled in ((False, False), (True, False), (False, True), (True, True)):
            run(relayed, sampled)


if __name__ == "__main__":
    main()
