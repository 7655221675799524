"""Which recordings are kept, and when they go."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.seams import cycles as under_test
from sglang_qwen3next_eagle3.overlay.seams import plans, recording
from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles
from sglang_qwen3next_eagle3.overlay.seams.plans import CyclePlan
from tests.support.made_up_cycles import (
    FakeJoins,
    N,
    Published,
    Worker,
    batch_of,
    values,
)
from tests.support.op_graph import OpGraph


def test_a_recording_goes_with_the_graphs_it_was_made_of(cycles: Cycles) -> None:
    """SGLang may capture anew, and the new runner may lie where the old one lay."""
    worker = Worker(cycles)
    for turn in range(4):
        cycles.around(worker.cycle, worker, batch_of(2, turn), on_publish=lambda lens: None)
    assert worker.said == 3
    (key, plan) = next(iter(cycles._plans.items()))
    assert isinstance(plan, CyclePlan)
    plan.of([object(), *under_test._runners_of(worker)[1:]])  # of an address that another has now
    cycles.around(worker.cycle, worker, batch_of(2, 5), on_publish=lambda lens: None)
    assert worker.said == 4
    assert cycles._plans[key] == 1


class Runner:
    """As SGLang's: it may go."""


def _captured_anew(worker: Worker) -> None:
    draft = worker.draft_worker
    draft.cuda_graph_runner = None  # as where there is one step
    draft.cuda_graph_runner_for_draft_extend = Runner()
    worker.target_worker.model_runner.decode_cuda_graph_runner = Runner()


def test_recordings_whose_graphs_are_gone_are_dropped(cycles: Cycles) -> None:
    worker = Worker(cycles)
    _captured_anew(worker)
    held = worker.draft_worker.cuda_graph_runner_for_draft_extend
    for size in (1, 2, 3):
        for turn in range(4):
            cycles.around(worker.cycle, worker, batch_of(size, turn), on_publish=lambda lens: None)
    first = cycles._recorded()
    assert len(first) == 3
    given = first[0].fresh()
    _captured_anew(worker)
    # Another state of a worker: its runners are there, whoever is asked for at the moment.
    worker.target_worker.model_runner.decode_cuda_graph_runner = Runner()
    del held
    cycles.around(worker.cycle, worker, batch_of(2, 9), on_publish=lambda lens: None)
    assert cycles._recorded() == []
    assert all(plan.recording.steps == [] for plan in first)
    ids, lens = vars(given)[plans._TO_HOST]()
    assert ids.shape[0] == N * lens.shape[0], "what it gave is still copied"
    for turn in range(4):
        cycles.around(worker.cycle, worker, batch_of(2, turn), on_publish=lambda lens: None)
    assert len(cycles._recorded()) == 1


def test_recordings_of_another_state_of_the_worker_stay(cycles: Cycles) -> None:
    worker, kept = Worker(cycles), []
    for size in (1, 2):
        _captured_anew(worker)
        kept.append(under_test._runners_of(worker))
        for turn in range(4):
            cycles.around(worker.cycle, worker, batch_of(size, turn), on_publish=lambda lens: None)
    assert [plan.requests for plan in cycles._recorded()] == [1, 2]


def test_before_sglang_captures_anew_all_recordings_are_dropped(cycles: Cycles) -> None:
    worker = Worker(cycles)
    for turn in range(4):
        cycles.around(worker.cycle, worker, batch_of(2, turn), on_publish=lambda lens: None)
    assert len(cycles._recorded()) == 1
    seen: list[int] = []
    backend = SimpleNamespace(_graphs={})

    def capture_one(backend: Any, shape_key: str) -> None:
        seen.append(len(cycles._plans))

    cycles.capture(capture_one, backend, "4")
    assert seen == [0]
    for turn in range(4):
        cycles.around(worker.cycle, worker, batch_of(2, turn), on_publish=lambda lens: None)
    assert len(cycles._recorded()) == 1


@pytest.mark.parametrize("free", [2**30 - 1, 2**31])
def test_nothing_is_recorded_where_little_memory_is_left(
    cycles: Cycles,
    free: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = iter([free, free - 17 * 2**20])
    monkeypatch.setattr(under_test, "_free", lambda device: next(told))
    caplog.set_level("INFO")
    worker = Worker(cycles)
    for turn in range(5):
        cycles.around(worker.cycle, worker, batch_of(2, turn), on_publish=lambda lens: None)
    (line,) = [record.message for record in caplog.records]
    if free < 2**30:
        assert worker.said == 5
        assert "stay SGLang's: NotRecordable: 1.0 GiB of the GPU's memory are free" in line
    else:
        assert worker.said == 3
        assert line.endswith("cycles of 2 requests are recorded: 8 steps, 17 MiB")


class Rank(Worker):
    """Whose graph adds up over all ranks: each time that it runs it leaves what it had to add."""

    def __init__(self, cycles: Cycles) -> None:
        self.sums, self.sum = torch.zeros(200), torch.zeros(1, dtype=torch.int64)
        super().__init__(cycles)

    def verify(self) -> None:
        super().verify()
        self.sums.index_copy_(0, self.sum, self.logits.sum()[None])
        self.sum.add_(1)


@pytest.mark.parametrize("why", ["memory", "joins", "an error"])
def test_ranks_that_record_and_ranks_that_do_not_meet_in_their_sums(
    cycles: Cycles,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each decides alone. The same graphs run in the same order on all, with the same to add up."""
    free = 2**40
    monkeypatch.setattr(under_test, "_free", lambda device: free)
    accepts: Any = FakeJoins()
    refuses: Any = FakeJoins(refuses=why == "joins")
    of_ranks = [Cycles(OpGraph, "cpu", joins=joins) for joins in (accepts, refuses)]
    ranks = [Rank(cycles) for cycles in of_ranks]

    def breaks(of: Any, batch: Any, **kwargs: Any) -> Any:
        if recording.current() is not None:
            raise RuntimeError("only here")
        return ranks[1].cycle(of, batch, **kwargs)

    originals = [ranks[0].cycle, breaks if why == "an error" else ranks[1].cycle]
    for turn in range(24):
        found = []
        for number, (rank, cycles) in enumerate(zip(ranks, of_ranks, strict=True)):
            free = 2**20 if number and why == "memory" else 2**40
            lens = Published()
            batch = batch_of(1 + turn % 2, turn)
            result = cycles.around(originals[number], rank, batch, on_publish=lens)
            found.append(values(result, lens))
        assert all(torch.equal(*pair) for pair in zip(*found, strict=True)), turn
        assert torch.equal(ranks[0].sum, ranks[1].sum), turn
        assert torch.equal(ranks[0].sums, ranks[1].sums), turn
    assert int(ranks[0].sum) == 2 * 24
    assert [len(plan.recording.steps) for plan in of_ranks[0]._recorded()] == [3, 3]
    there = [len(plan.recording.steps) for plan in of_ranks[1]._recorded()]
    assert there == ([8, 8] if why == "joins" else [])
    assert caplog.text.count("instead of one" if why == "joins" else "stay SGLang's") == (
        1 if why == "joins" else 2
    )


def test_sizes_that_came_once_leave_room_for_those_that_come_often(
    cycles: Cycles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_MOST", 1)
    worker = Worker(cycles)
    for size in (1, 2, 3, 4):
        cycles.around(worker.cycle, worker, batch_of(size, size), on_publish=lambda lens: None)
    for turn in range(4):
        cycles.around(worker.cycle, worker, batch_of(2, turn), on_publish=lambda lens: None)
    assert len(cycles._recorded()) == 1
    for turn in range(4):
        cycles.around(worker.cycle, worker, batch_of(3, turn), on_publish=lambda lens: None)
    assert len(cycles._recorded()) == 1


def test_another_state_of_the_worker_has_recordings_of_its_own(cycles: Cycles) -> None:
    worker = Worker(cycles)
    for turn in range(4):
        cycles.around(worker.cycle, worker, batch_of(2, turn), on_publish=lambda lens: None)
    assert worker.said == 3
    worker.draft_worker.cuda_graph_runner = object()
    for turn in range(4):
        cycles.around(worker.cycle, worker, batch_of(2, turn), on_publish=lambda lens: None)
    assert worker.said == 6
