"""A recorded cycle does what the function did that was recorded, for other batches of its size."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.cycle.phases import GRAPH_OF
from sglang_qwen3next_eagle3.overlay.seams import cycles as under_test
from sglang_qwen3next_eagle3.overlay.seams import recording, sizes
from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles
from sglang_qwen3next_eagle3.overlay.seams.plain import is_plain
from sglang_qwen3next_eagle3.overlay.seams.plans import copy_to_cpu
from tests.support.made_up_cycles import (
    POOL,
    Published,
    Relay,
    Worker,
    batch_of,
    turn_of,
    values,
)
from tests.support.op_graph import OpGraph


@pytest.mark.parametrize(("tracks", "newer"), [(False, False), (True, False), (True, True)])
def test_a_recorded_cycle_gives_what_the_worker_gives(
    cycles: Cycles, tracks: bool, newer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either release's names."""
    monkeypatch.setattr(variants, "has_layer_boundaries", lambda: newer)
    ours, theirs = Worker(cycles), Worker(Cycles(OpGraph, "cpu"))
    for turn in range(40):
        size = 1 + turn * turn // 2 % 3
        batch = batch_of(size, turn, tracks)
        own_lens, stock_lens = Published(), Published()
        expected = theirs.cycle(theirs, batch_of(size, turn, tracks), stock_lens)
        spec, before = batch.spec_info, dict(vars(batch))
        ours.read_done = None
        found = cycles.around(ours.cycle, ours, batch, on_publish=own_lens)
        assert len(own_lens.seen) == 1
        for own, stock in zip(values(found, own_lens), values(expected, stock_lens), strict=True):
            assert torch.equal(own, stock), turn
            assert own.dtype == stock.dtype
        assert ours.read_done is not None
        if turn > 20:
            assert vars(batch) == before, "a recorded cycle leaves the batch alone"
            assert batch.spec_info is spec
            assert ours.read_done == "ours"
        # SGLang writes into what it is given.
        found.next_token_ids = found.accept_lens = found.next_draft_input.topk_p = None
        found.logits_output.hidden_states = None
    assert vars(ours.backend._graphs["all"])[GRAPH_OF] == "verify graph"
    assert ours.said == 3 * 3, "twice SGLang's, once recorded, for each size"
    assert theirs.said == 40


def test_what_a_cycle_takes_and_leaves_is_recorded_too(
    cycles: Cycles, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SimpleNamespace(RelayPayload=SimpleNamespace(from_draft_input=lambda left: left))
    monkeypatch.setitem(sys.modules, "sglang.srt.managers.overlap_utils", module)
    monkeypatch.setattr(under_test, "holds_all", lambda relay: True)
    waits: list[Any] = []
    monkeypatch.setattr(under_test, "_published", waits.append)
    recorded = Cycles(OpGraph, "cpu", relayed=True)
    ours, theirs = Worker(recorded), Worker(Cycles(OpGraph, "cpu"))
    own, stock = Relay(recorded), Relay(recorded)
    chance = torch.Generator().manual_seed(3)
    for turn in range(60):
        places = torch.randperm(POOL, generator=chance)[: 1 + turn * turn // 2 % 3]
        expected = turn_of(theirs, stock, None, places, turn)
        found = turn_of(ours, own, recorded, places, turn)
        assert torch.equal(found.next_token_ids, expected.next_token_ids), turn
        assert torch.equal(found.accept_lens, expected.accept_lens)
        assert torch.equal(own.new_seq_lens_buf, stock.new_seq_lens_buf), turn
        for name, rows in own.rows.items():
            assert torch.equal(rows, stock.rows[name]), (turn, name)
    assert stock.gathered == stock.stashed == 60
    assert own.gathered < 30, "the others are gathered by the recording"
    assert own.stashed < 30
    assert len(waits) > 30


def test_what_a_recorded_cycle_gave_is_copied_at_once(cycles: Cycles) -> None:
    worker = Worker(cycles)
    results = [
        cycles.around(worker.cycle, worker, batch_of(2, turn), on_publish=lambda lens: None)
        for turn in range(4)
    ]
    asked: list[Any] = []
    recorded: list[str] = []
    event = SimpleNamespace(record=lambda: recorded.append("done"))

    def original(result: Any, **kwargs: Any) -> None:
        asked.append((result, kwargs))

    ours, stock = results[3], results[0]
    ours.copy_done = event
    expected = [ours.next_token_ids.clone(), ours.accept_lens.clone()]
    copy_to_cpu(original, ours, return_logprob=False, return_hidden_states=False)
    assert recorded == ["done"]
    assert torch.equal(ours.next_token_ids, expected[0])
    assert torch.equal(ours.accept_lens, expected[1])
    # The next cycle writes over its own, not over what is on the host.
    cycles.around(worker.cycle, worker, batch_of(2, 9), on_publish=lambda lens: None)
    assert torch.equal(ours.next_token_ids, expected[0])
    copy_to_cpu(original, stock, return_logprob=False, return_hidden_states=False)
    copy_to_cpu(original, results[2], return_logprob=False)
    assert [kwargs["return_hidden_states"] for _, kwargs in asked] == [False, True]


def test_what_cannot_be_recorded_stays_sglang_s(
    cycles: Cycles, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(cycles)
    plain = worker.cycle

    def asks(*args: Any, **kwargs: Any) -> Any:
        result = plain(*args, **kwargs)
        assert int(result.accept_lens[0]) > 0
        return result

    for turn in range(6):
        batch = batch_of(2, turn)
        spec = dict(vars(batch.spec_info))
        published: list[Any] = []
        found = cycles.around(asks, worker, batch, on_publish=published.append)
        expected = plain(worker, batch_of(2, turn), lambda lens: None)
        assert torch.equal(found.next_token_ids, expected.next_token_ids)
        assert len(published) == 1
        if turn == 2:
            assert batch.spec_info == "another", "by the cycle that ran"
        assert spec["topk_p"] is not None
    assert recording.current() is None
    (line,) = [record.message for record in caplog.records]
    assert "cycles of 2 requests stay SGLang's" in line
    assert "_local_scalar_dense needs the host" in line


def test_only_plain_batches_are_recorded(cycles: Cycles) -> None:
    assert is_plain(batch_of(2, 1))
    for changes in (
        {"has_grammar": True},
        {"return_logprob": True},
        {"return_hidden_states": True},
        {"is_extend_in_batch": True},
        {"forward_mode": SimpleNamespace(is_decode=lambda: False)},
        {"seq_lens_cpu": torch.ones(2)},
        {"global_num_tokens": [1]},
        {"spec_info": None},
    ):
        batch = batch_of(2, 1)
        vars(batch).update(changes)
        assert not is_plain(batch), changes
    for changes in (
        {"has_watermark_candidates": True},
        {"acc_additive_penalties": torch.ones(2)},
        {"acc_scaling_penalties": torch.ones(2)},
        {"logit_bias": torch.ones(2)},
        {"has_custom_logit_processor": True},
    ):
        batch = batch_of(2, 1)
        vars(batch.sampling_info).update(changes)
        assert not is_plain(batch), changes
    batch = batch_of(2, 1)
    batch.reqs[1].sampling_params.min_new_tokens = 3
    assert not is_plain(batch)
    worker = Worker(cycles)
    for turn in range(5):
        batch = batch_of(2, turn)
        batch.has_grammar = True
        cycles.around(worker.cycle, worker, batch, on_publish=lambda lens: None)
    assert worker.said == 5
    assert worker.activated == []


def test_what_a_prefill_left_in_a_batch_does_not_make_it_another(cycles: Cycles) -> None:
    """SGLang keeps it until a batch changes its size: in all cycles of a request served alone."""
    left = dict.fromkeys(
        ("mamba_cow_src_indices", "mamba_cow_dst_indices", "mamba_clear_indices"), torch.ones(1)
    )
    worker, seen = Worker(cycles), []

    def cycle(of: Any, batch: Any, **kwargs: Any) -> Any:
        seen.append(batch.mamba_clear_indices)
        return worker.cycle(of, batch, **kwargs)

    for turn in range(4):
        batch = batch_of(2, turn)
        vars(batch).update(left)
        assert is_plain(batch)
        cycles.around(cycle, worker, batch, on_publish=lambda lens: None)
        assert batch.mamba_clear_indices is left["mamba_clear_indices"]
    assert worker.said == 3
    assert seen[-1] is None  # the one that was recorded


def test_what_runs_without_its_graphs_is_not_recorded(
    cycles: Cycles, caplog: pytest.LogCaptureFixture
) -> None:
    """As for more requests than SGLang captured graphs for."""
    worker = Worker(cycles)
    worker.speculative_num_steps = 2  # a draft would have a graph, too, and none is replayed
    for turn in range(5):
        cycles.around(worker.cycle, worker, batch_of(2, turn), on_publish=lambda lens: None)
    assert worker.said == 6  # once more, while it was recorded
    assert recording.current() is None
    assert "more than the graphs were captured for" in caplog.text


def test_a_plan_of_memory_counts_as_many_as_are_recorded() -> None:
    assert under_test._MOST == sizes.MOST_RECORDED
