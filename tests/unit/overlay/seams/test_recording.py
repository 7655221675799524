"""A recording by itself: what it takes in, refuses and leaves behind."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import simulate, variants
from sglang_qwen3next_eagle3.overlay.seams import recording
from sglang_qwen3next_eagle3.overlay.seams.cycles import prepare_tracking
from sglang_qwen3next_eagle3.overlay.seams.plans import CyclePlan, inputs_of
from sglang_qwen3next_eagle3.overlay.seams.recording import (
    GraphRecording,
    NotRecordable,
    OnlyOnDevice,
)
from tests.support.made_up_cycles import (
    HIDDEN,
    N,
    batch_of,
    result_of,
)
from tests.support.op_graph import OpGraph


def test_what_is_still_copied_to_the_host_is_waited_for() -> None:
    """Before it is written over, some cycles later."""
    plan = CyclePlan(GraphRecording(OpGraph, None, "cpu"), inputs_of(batch_of(2, 1)), N)
    waited: list[Any] = []
    stream = SimpleNamespace(wait_event=waited.append)
    plan.wait_for_copies(stream)
    size = torch.zeros(2 * N, dtype=torch.int32), torch.ones(2, dtype=torch.int32)
    plan.keep(result_of(*size, size[1], size[0].view(2, N), torch.zeros(2, HIDDEN)))
    first = plan.fresh()
    first.copy_done = "first"
    while plan.fresh().next_token_ids.data_ptr() != first.next_token_ids.data_ptr():
        assert waited == []
        plan.wait_for_copies(stream)
    assert waited == ["first"]
    assert plan.fresh().copy_done is None


def test_a_result_of_another_kind_is_refused() -> None:
    plan = CyclePlan(GraphRecording(OpGraph, None, "cpu"), inputs_of(batch_of(2, 1)), N)
    short = torch.zeros(2, dtype=torch.int32)
    with pytest.raises(NotRecordable, match="int32"):
        plan.keep(result_of(short, short, short, short, short))
    result = result_of(short, short, short, short, short)
    result.routed_experts_output = object()
    with pytest.raises(NotRecordable, match="routings"):
        plan.keep(result)


@pytest.mark.parametrize("newer", [False, True])
def test_tracking_is_asked_before_and_not_within(
    monkeypatch: pytest.MonkeyPatch, newer: bool
) -> None:
    monkeypatch.setattr(variants, "has_layer_boundaries", lambda: newer)
    asked: list[Any] = []
    batch = SimpleNamespace(
        mamba_track_mask=1, mamba_track_seqlens=1, mamba_prefill_track_mask_cpu=1,
        mamba_track_seqlens_cpu=1, mamba_track_indices="told",
    )  # fmt: skip
    prepare_tracking(asked.append, batch)
    assert asked == [batch]
    recorded = GraphRecording(OpGraph, None, "cpu")
    recorded.begin()
    prepare_tracking(asked.append, batch)
    recorded.end()
    assert asked == [batch]
    there = None if newer else 1
    assert vars(batch) == {
        "mamba_track_mask": None, "mamba_track_seqlens": None, "mamba_track_indices": "told",
        "mamba_prefill_track_mask_cpu": there, "mamba_track_seqlens_cpu": there,
    }  # fmt: skip


def test_what_crosses_to_the_host_is_refused() -> None:
    """`meta` stands for the device."""
    there, here = torch.empty(3, device="meta"), torch.ones(3)
    with OnlyOnDevice("meta"):
        there.add_(1)
        here.add_(1)
        assert here.sum().item() == 6, "the host's own is the host's"
        for crosses in (
            lambda: here.to("meta"),
            lambda: there.copy_(here),
            lambda: there.fill_(here[0]),
            lambda: torch.where(there > 0, torch.tensor(3.0), there),
        ):
            with pytest.raises(NotRecordable):
                crosses()


def test_a_number_of_the_host_is_asked_for_in_each_run() -> None:
    told = iter([3, 5, 7])
    recorded = GraphRecording(OpGraph, None, "cpu")
    place = torch.zeros(1, dtype=torch.int32)
    recorded.begin()
    place.copy_(recorded.number(lambda: next(told)) * 2)
    recorded.end()
    found = []
    for _ in range(3):
        recorded.run()
        found.append(int(place))
    assert found == [6, 10, 14]


def test_a_recording_that_breaks_leaves_nothing_behind() -> None:
    recorded = GraphRecording(OpGraph, None, "cpu")
    recorded.begin()
    with pytest.raises(NotRecordable):
        GraphRecording(OpGraph, None, "cpu").begin()
    recorded.abandon()
    assert recording.current() is None
    assert recorded.steps == []
    assert int(torch.ones(1)) == 1


def test_a_capture_that_cuda_broke_off_is_left() -> None:
    ended: list[Any] = []

    class Broken(OpGraph):
        def capture_end(self) -> None:
            super().capture_end()
            ended.append(self)
            if len(ended) == 1:
                raise RuntimeError("operation failed due to a previous error during capture")

    recorded = GraphRecording(Broken, None, "cpu")
    recorded.begin()
    recorded.abandon()
    # torch's generator draws again behind a capture that came to its end.
    assert [len(graph._done) for graph in ended] == [0, 0]
    assert ended[0] is not ended[1]
    assert recording.current() is None
    assert recorded.steps == []


class Routed:
    """Where torch allocates; a capture may fail at any of its steps, as CUDA's may."""

    def __init__(self, *fails: str) -> None:
        self.into_pool = False
        self.calls: list[str] = []
        self._fails = list(fails)

    def graph(self) -> SimpleNamespace:
        return SimpleNamespace(capture_begin=self._begin, capture_end=self._end, replay=None)

    def leave(self, device: int, pool: Any) -> None:
        if not self.into_pool:
            raise RuntimeError("not currently recording to this pool")
        self.into_pool = False

    def _begin(self, pool: Any, capture_error_mode: str) -> None:
        self.into_pool = True
        self._step("begin")

    def _end(self) -> None:
        self._step("end")
        self.into_pool = False

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if self._fails and self._fails[0] == name:
            self._fails.pop(0)
            raise RuntimeError(f"{name}: an error of CUDA's")


@pytest.mark.parametrize("fails", [["end"], ["end", "begin"], ["end", "end"], []])
def test_memory_is_allocated_where_it_was_whatever_fails(
    monkeypatch: pytest.MonkeyPatch, fails: list[str]
) -> None:
    torch_has = Routed(*fails)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", torch_has.leave, raising=False)
    recorded = GraphRecording(torch_has.graph, "a pool", "cpu")
    recorded.begin()
    assert torch_has.calls == ["begin"]
    recorded.abandon()
    assert not torch_has.into_pool
    assert recording.current() is None


@pytest.mark.parametrize("ends", ["end", "step"])
def test_a_recording_whose_end_fails_is_left(monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    torch_has = Routed("end", "end")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", torch_has.leave, raising=False)
    recorded = GraphRecording(torch_has.graph, "a pool", "cpu")
    recorded.begin()
    with pytest.raises(RuntimeError, match="end: an error"):
        getattr(recorded, ends)()
    recorded.abandon()
    assert not torch_has.into_pool
    assert recording.current() is None
    assert torch_has.calls == ["begin", "end", "end", "begin", "end"], "the generator is told"


def test_a_recording_that_never_began_is_left() -> None:
    recorded = GraphRecording(OpGraph, None, "cpu")
    recorded.abandon()
    assert recording.current() is None


@pytest.mark.parametrize("again", ["begin", "none"])
def test_a_capture_that_could_not_begin_is_left(
    monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    torch_has = Routed("begin", "end", again)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", torch_has.leave, raising=False)
    recorded = GraphRecording(torch_has.graph, "a pool", "cpu")
    with pytest.raises(RuntimeError, match="begin: an error"):
        recorded.begin()
    recorded.abandon()
    assert not torch_has.into_pool
    assert recording.current() is None
    assert torch_has.calls[:3] == ["begin", "end", "begin"], "the generator is told"


@pytest.mark.parametrize("length", [-1, 1, 2, 3, 4, 9])
def test_simulated_acceptance_on_the_device(length: int) -> None:
    """As SGLang's, which is held against it in tests/contract."""
    index = torch.tensor([[0, 1, -1, -1], [4, 5, 6, -1]], dtype=torch.int32)
    lens = torch.tensor([2, 3], dtype=torch.int32)
    predict = torch.arange(8, dtype=torch.int32)
    told = torch.tensor([length], dtype=torch.int32)
    found = simulate.accepting(told, predict, lens, index)
    assert [tensor.dtype for tensor in found] == [torch.int32] * 3
    if length < 1:
        assert all(torch.equal(*pair) for pair in zip(found, (predict, lens, index), strict=True))
        return
    taken = min(length, 4)
    assert found[0].tolist() == [100] * 8
    assert found[1].tolist() == [taken, taken]
    assert found[2].tolist() == [
        [*range(start, start + taken), *[-1] * (4 - taken)] for start in (0, 4)
    ]
