"""A recorded cycle of sampled batches draws what the worker draws."""

from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles
from tests.support.made_up_cycles import (
    N,
    Published,
    Worker,
    batch_of,
    values,
)
from tests.support.op_graph import OpGraph

ASKED = [(False, False, False), (True, True, False), (False, True, False), (True, False, True)]
"""Of sampled batches: top_k, top_p, min_p."""


@pytest.fixture
def sampled(cycles: Cycles) -> Cycles:
    return Cycles(OpGraph, "cpu", sampled=True)


def test_a_recorded_cycle_draws_what_the_worker_draws(sampled: Cycles) -> None:
    """Greedy and sampled batches by turns, each with other temperatures and limits: the same
    tokens where the generator begins at the same place, and it ends where it would have."""
    ours, theirs = Worker(sampled), Worker(Cycles(OpGraph, "cpu"))
    drawn = {}
    for name, worker, cycles in (("ours", ours, sampled), ("theirs", theirs, None)):
        torch.manual_seed(11)
        found: list[Any] = []
        for turn in range(80):
            size, asked = 1 + turn // 2 % 2, [None, *ASKED][turn % 5]
            batch, lens = batch_of(size, turn, asked=asked), Published()
            info, before = batch.sampling_info, dict(vars(batch.sampling_info))
            if cycles is None:
                result = worker.cycle(worker, batch, lens)
            else:
                result = cycles.around(worker.cycle, worker, batch, on_publish=lens)
            found.append(values(result, lens))
            if turn > 40:
                assert batch.sampling_info is info, "a recorded cycle leaves the batch alone"
                assert vars(info) == before
        drawn[name] = found, torch.rand(4)
    for turn, (own, stock) in enumerate(zip(drawn["ours"][0], drawn["theirs"][0], strict=True)):
        assert all(torch.equal(*pair) for pair in zip(own, stock, strict=True)), turn
    assert torch.equal(drawn["ours"][1], drawn["theirs"][1])
    assert ours.said == 3 * 2 * 5, "twice the worker's, once recorded, of each size and kind"
    assert theirs.said == 80
    again = set()
    for _ in range(20):
        batch = batch_of(1, 76, asked=ASKED[0])
        found_now = sampled.around(ours.cycle, ours, batch, on_publish=lambda lens: None)
        again.add(tuple(found_now.next_token_ids.tolist()))
    assert len(again) > 1, "a replay draws anew"


def test_which_sampled_batches_are_recorded(cycles: Cycles, sampled: Cycles) -> None:
    worker = Worker(sampled)
    batch = batch_of(2, 1, asked=ASKED[1])
    assert sampled._is_plain(worker, batch)
    assert not cycles._is_plain(worker, batch), "unless it is asked for"
    assert cycles._is_plain(worker, batch_of(2, 1))
    assert not sampled._is_plain(worker, batch_of(1 + 64 // N, 1, asked=ASKED[1]))
    assert sampled._is_plain(worker, batch_of(1 + 64 // N, 1))
    for changes in (
        {"sampling_seed": torch.ones(2)},
        {"return_sampling_masks": [False, True]},
        {"acc_additive_penalties": torch.ones(2)},
    ):
        batch = batch_of(2, 1, asked=ASKED[1])
        vars(batch.sampling_info).update(changes)
        assert not sampled._is_plain(worker, batch), changes
    worker.server_args.tp_size = 2
    assert not sampled._is_plain(worker, batch_of(2, 1, asked=ASKED[1]))
    assert sampled._is_plain(worker, batch_of(2, 1))
