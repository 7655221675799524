"""Whether what the installed SGLang launches in a cycle can be recorded; on tensors without memory.

    python -m tests.support.check_cycles "TOPK NODES REQUESTS [WORD ...]" ...

Words: relayed, sampled, joined, deferred.

Prints what was recorded, and which operations of it used tensors of the batch itself: none may,
since another batch has others. Each line of words is checked in a process of its own.
"""

import logging
import os
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.managers import overlap_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.adaptive import deferral
from sglang_qwen3next_eagle3.overlay.adaptive.deferral import Deferral
from sglang_qwen3next_eagle3.overlay.hooks import Hook, apply
from sglang_qwen3next_eagle3.overlay.seams import cycles as recorded
from sglang_qwen3next_eagle3.overlay.seams import hooks, recording
from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles
from sglang_qwen3next_eagle3.overlay.seams.plans import CyclePlan
from tests.support import meta_cycle
from tests.support.meta_cycle import DEVICE, Graph, Launches


class Uses(TorchDispatchMode):
    """The tensors that operations are given while a cycle is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any]] = []
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if recording.current() is not None:
            name = func.overloadpacket.__name__
            self.names.append(name)
            self.seen += [(name, leaf) for leaf in tree_leaves((args, kwargs))]
        return func(*args, **(kwargs or {}))


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def own_of(batch: Any) -> list[torch.Tensor]:
    every = [*vars(batch).values(), *vars(batch.spec_info).values()]
    every += vars(batch.sampling_info).values()
    return [each for each in every if isinstance(each, torch.Tensor)]


def described(result: Any) -> list[tuple[Any, ...]]:
    left = result.next_draft_input
    every = [result.next_token_ids, result.accept_lens, result.new_seq_lens, left.bonus_tokens]
    every += [left.topk_p, left.topk_index, left.hidden_states]
    return [(tuple(tensor.shape), tensor.dtype) for tensor in every]


def main() -> None:
    for line in sys.argv[1:]:
        print(f"== {line}", flush=True)
        # A fork, since hooks stay, and to import SGLang takes as long as all else.
        if (child := os.fork()) == 0:
            check(line.split())
            sys.exit()
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(1)


def check(words: list[str]) -> None:
    topk, nodes, requests = map(int, words[:3])
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    worker, relay = meta_cycle.worker_of(topk, nodes), meta_cycle.relay_of(topk)
    recorded._read_done = lambda runner: None
    recorded._published = lambda relay: None
    joins: Any = Joined() if "joined" in words else None
    cycles = Cycles(Graph, DEVICE, relayed="relayed" in words, sampled=True, joins=joins)
    table = {
        hooks.CYCLE: cycles.around, hooks.REPLAY: cycles.replay, hooks.RESOLVE: cycles.resolve,
        hooks.STASH: cycles.stash, hooks.TRACKING: recorded.prepare_tracking,
    }  # fmt: skip
    apply(Hook(target, replacement, "is checked") for target, replacement in table.items())
    if "deferred" in words:
        defer(worker)
    launches, uses = Launches(), Uses()
    for sampled in (False, True)[: 1 + ("sampled" in words)]:
        turns(worker, relay, launches, uses, requests, topk, sampled=sampled)
    plans = [plan for plan in cycles._plans.values() if isinstance(plan, CyclePlan)]
    print(f"recorded: {[len(plan.recording.steps) for plan in plans]} steps")
    print(f"graphs: {Graph.captured}")
    if joins is not None:
        read = variants.host().read_done(variants.host().last_reader(worker))
        print(f"said of one graph: {read}, {relay.publish_ready}; {joins.parts} parts")
    print("takes from the relay:", all(plan.relay is not None for plan in plans))
    if "sampled" in words:
        # Last: it puts other kernels in place of CUDA's.
        from tests.support import check_sampling

        equal, taken = check_sampling.compare()
        print(f"sampled alike: {equal} batches")
        assert taken > equal, "drafts are taken"


class Joined:
    """In place of a graph with parts."""

    parts = 0

    def child(self, graph: Any) -> None:
        self.parts += 1

    def mark(self) -> str:
        return f"a mark behind {self.parts}"


def defer(worker: Any) -> None:
    """0 steps, and the head's cache is filled for three cycles at once."""

    def told(tokens: Any, positions: Any, places: Any, hidden: Any) -> None:
        shapes = {tuple(one.shape) for one in (tokens, positions, places)}
        print(f"filled for {len(tokens)} tokens: {shapes}, {len(hidden)} states")

    for one in (worker, worker.draft_worker):
        one.speculative_num_steps = 0
    kept = Deferral(3)
    kept._tokens = meta_cycle.MOST
    kept._cache = SimpleNamespace(fill=told)
    table = {
        deferral.CYCLE: kept.cycle, deferral.EXTEND: kept.extend, deferral.APPLY: kept.apply,
        deferral.RESOLVE: kept.resolve,
    }  # fmt: skip
    apply(Hook(target, replacement, "is checked") for target, replacement in table.items())


def turns(
    worker: Any,
    relay: Any,
    launches: Launches,
    uses: Uses,
    requests: int,
    topk: int,
    *,
    sampled: bool,
) -> None:
    """Four cycles of one kind of batch: two by SGLang, one that is recorded, and it again."""
    results: list[Any] = []
    kept: list[Any] = []
    uses.names.clear()
    for turn in range(4):
        batch = meta_cycle.batch_of(requests, topk, worker, sampled=sampled)
        overlap_utils.resolve_forward_inputs(batch, relay)
        own = own_of(batch)
        kept.append(own)
        for seen_before in (launches.seen, uses.seen):
            seen_before.clear()
        before = dict(vars(batch))
        with uses:
            result = worker.forward_batch_generation(
                batch, on_publish=partial(relay.publish, batch.req_pool_indices)
            )
        payload = overlap_utils.RelayPayload.from_draft_input(result.next_draft_input)
        relay.stash(batch.req_pool_indices, payload)
        results.append(described(result))
        if turn == 2:
            mine = {storage(tensor) for tensor in own}
            seen = [it for it in (*uses.seen, *launches.seen) if isinstance(it[1], torch.Tensor)]
            wrong = sorted({name for name, tensor in seen if storage(tensor) in mine})
            drawn = sum(name in ("rand", "rand_like") for name in uses.names)
            print(f"numbers are drawn {drawn} times")
            print("used of the batch:", ", ".join(wrong) or "nothing")
            assert len(seen) > 100
        if turn >= 2:
            changed = [name for name, value in vars(batch).items() if before[name] is not value]
            print("changed in the batch:", ", ".join(changed) or "nothing")
    assert results[1] == results[2] == results[3], results


if __name__ == "__main__":
    main()
