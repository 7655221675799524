"""SGLang's graphs become parts of a recorded cycle's, and what they cannot be is told."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.seams import cycles as under_test
from sglang_qwen3next_eagle3.overlay.seams import joining, recording
from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles
from sglang_qwen3next_eagle3.overlay.seams.joining import NotJoinable
from sglang_qwen3next_eagle3.overlay.seams.recording import (
    GraphRecording,
)
from tests.support.made_up_cycles import (
    POOL,
    FakeJoins,
    Published,
    Relay,
    Worker,
    batch_of,
    turn_of,
    values,
)
from tests.support.op_graph import OpGraph


@pytest.mark.parametrize("refuses", [False, True])
def test_graphs_become_one(
    cycles: Cycles,
    refuses: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cycle that takes and leaves is one launch, whose events say when the scheduler may go on;
    where one cannot be had, it is as many as ever, and the log says so once."""
    module = SimpleNamespace(RelayPayload=SimpleNamespace(from_draft_input=lambda left: left))
    monkeypatch.setitem(sys.modules, "sglang.srt.managers.overlap_utils", module)
    monkeypatch.setattr(under_test, "holds_all", lambda relay: True)
    monkeypatch.setattr(under_test, "_published", lambda relay: None)
    joins: Any = FakeJoins(refuses)
    recorded = Cycles(OpGraph, "cpu", relayed=True, joins=joins)
    ours, theirs = Worker(recorded), Worker(Cycles(OpGraph, "cpu"))
    own, stock = Relay(recorded), Relay(recorded)
    chance = torch.Generator().manual_seed(3)
    for turn in range(60):
        places = torch.randperm(POOL, generator=chance)[: 1 + turn * turn // 2 % 3]
        expected = turn_of(theirs, stock, None, places, turn)
        ours.read_done = None
        found = turn_of(ours, own, recorded, places, turn)
        assert torch.equal(found.next_token_ids, expected.next_token_ids), turn
        assert torch.equal(found.accept_lens, expected.accept_lens)
        assert torch.equal(own.new_seq_lens_buf, stock.new_seq_lens_buf), turn
        for name, rows in own.rows.items():
            assert torch.equal(rows, stock.rows[name]), (turn, name)
    made = recorded._recorded()
    assert len(made) == 3
    said = ours.read_done
    if refuses:
        assert {len(plan.recording.steps) for plan in made} == {8}
        assert said == "ours"
        (line,) = [it.message for it in caplog.records if it.levelname == "WARNING"]
        assert "several graphs instead of one: NotJoinable: CUDA refuses: no" in line
    else:
        assert {len(plan.recording.steps) for plan in made} == {1}
        assert joins.parts == 2 * 3
        assert joins.marks == 3, "one says both"
        assert said == vars(own)["publish_ready"]
        assert said in ("mark 1", "mark 2", "mark 3")
        assert not caplog.records


class NeverEnds(OpGraph):
    """Its capture breaks, and is over."""

    def __init__(self, said: str) -> None:
        super().__init__()
        self._why, self._ended = said, False

    def capture_end(self) -> None:
        if not self._ended:
            super().capture_end()
        self._ended = True
        raise RuntimeError(self._why)


@pytest.mark.parametrize("fails", ["within", "at its end"])
def test_an_error_at_one_size_leaves_that_size_to_sglang(
    cycles: Cycles, fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are recorded as ever, in one piece."""
    breaks = False

    def graph() -> OpGraph:
        ends = breaks and fails == "at its end"
        return NeverEnds("CUDA error: out of memory") if ends else OpGraph()

    joins: Any = FakeJoins()
    recorded = Cycles(graph, "cpu", joins=joins)
    worker = Worker(recorded)

    def cycle(of: Any, batch: Any, **kwargs: Any) -> Any:
        if breaks and recording.current() is not None and fails == "within":
            raise RuntimeError("out of memory")
        return worker.cycle(of, batch, **kwargs)

    for size in (1, 2, 3):
        breaks = size == 2
        for turn in range(5):
            lens, stock = Published(), Published()
            found = recorded.around(cycle, worker, batch_of(size, turn), on_publish=lens)
            breaks, before = False, breaks
            expected = worker.cycle(worker, batch_of(size, turn), stock)
            breaks = before
            for one, other in zip(values(found, lens), values(expected, stock), strict=True):
                assert torch.equal(one, other), (size, turn)
    assert [plan.requests for plan in recorded._recorded()] == [1, 3]
    assert {len(plan.recording.steps) for plan in recorded._recorded()} == {3}
    (line,) = [it.message for it in caplog.records if it.levelname == "WARNING"]
    assert "cycles of 2 requests stay SGLang's: RuntimeError: " in line


@pytest.mark.parametrize(
    ("said", "parts", "kind"),
    [
        ("CUDA error: invalid argument", True, NotJoinable),
        ("CUDA error: invalid argument", False, RuntimeError),
        ("CUDA error: out of memory", True, RuntimeError),
        ("operation failed due to a previous error during capture", True, RuntimeError),
    ],
)
def test_a_capture_with_parts_that_does_not_end(said: str, parts: bool, kind: type) -> None:
    joins: Any = FakeJoins()
    recorded = GraphRecording(lambda: NeverEnds(said), None, "cpu", joins)
    recorded.begin()
    if parts:
        recorded.replay(SimpleNamespace(replay=lambda: None))
    with pytest.raises(RuntimeError) as error:
        recorded.end()
    assert type(error.value) is kind
    recorded.abandon()
    assert recording.current() is None


def test_graphs_beside_what_the_host_does_become_fewer(cycles: Cycles) -> None:
    """Without the relay in it, the lengths are published in the middle."""
    joins: Any = FakeJoins()
    recorded = Cycles(OpGraph, "cpu", joins=joins)
    ours, theirs = Worker(recorded), Worker(Cycles(OpGraph, "cpu"))
    for turn in range(12):
        batch, lens, stock = batch_of(2, turn), Published(), Published()
        expected = theirs.cycle(theirs, batch_of(2, turn), stock)
        found = recorded.around(ours.cycle, ours, batch, on_publish=lens)
        for one, other in zip(values(found, lens), values(expected, stock), strict=True):
            assert torch.equal(one, other), turn
    (plan,) = recorded._recorded()
    assert len(plan.recording.steps) == 3


def test_sglang_s_graphs_are_kept_as_they_were_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Graph:
        def __new__(cls, keep_graph: bool = False) -> "Graph":
            return super().__new__(cls)

        def __init__(self, keep_graph: bool = False) -> None:
            self.kept, self.instantiated = keep_graph, 0
            made.append(self)

        def instantiate(self) -> None:
            self.instantiated += 1

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    backend = SimpleNamespace(_graphs={})

    def capture_one(backend: Any, shape_key: str, forward: Any, *, hook: Any = None) -> None:
        assert hook == "a hook"
        graph: Any = torch.cuda.CUDAGraph()
        assert isinstance(graph, Graph)
        forward()
        backend._graphs[shape_key] = graph

    joining.keep(capture_one, backend, "4", lambda: None, hook="a hook")
    assert [(graph.kept, graph.instantiated) for graph in made] == [(True, 1)]
    assert torch.cuda.CUDAGraph is Graph

    def fails() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        joining.keep(capture_one, backend, "8", fails, hook="a hook")
    assert torch.cuda.CUDAGraph is Graph
    assert not Graph().kept


@pytest.mark.parametrize("draws", [False, True])
def test_a_graph_that_draws_numbers_is_no_part(
    monkeypatch: pytest.MonkeyPatch, draws: bool
) -> None:
    """It would draw the same ones in each cycle: torch tells only what it replays itself."""

    class Graph:
        def __new__(cls, keep_graph: bool = False) -> "Graph":
            return super().__new__(cls)

        def __init__(self, keep_graph: bool = False) -> None:
            self.kept = keep_graph

        def instantiate(self) -> None:
            pass

        def raw_cuda_graph(self) -> int:
            raise RuntimeError("keep_graph must be True")

    offset = [7]
    generators = [SimpleNamespace(get_offset=lambda: offset[0])]
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    backend = SimpleNamespace(_graphs={})

    def capture_one(backend: Any, shape_key: str) -> None:
        offset[0] += 4 * draws
        backend._graphs[shape_key] = torch.cuda.CUDAGraph()

    joining.keep(capture_one, backend, "4")
    with pytest.raises(NotJoinable, match="draws numbers" if draws else "was not kept"):
        joining.Joins().child(backend._graphs["4"])


@pytest.mark.parametrize("why", ["was not kept", "CUDA refuses"])
def test_what_cannot_be_a_part_is_told(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a GPU CUDA refuses whatever it is asked."""

    def raw() -> int:
        if "kept" in why:
            raise RuntimeError("keep_graph must be True\nand so on")
        return 0

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    with pytest.raises(NotJoinable, match=why):
        joining.Joins().child(SimpleNamespace(raw_cuda_graph=raw))


@pytest.mark.parametrize(
    ("bindings", "why"),
    [
        (None, "cuda-bindings is not there"),
        (SimpleNamespace(cudaGraph_t=int), "cuda-bindings is not of CUDA 13: .*cudaStream_t"),
    ],
)
def test_bindings_that_do_not_fit_are_told(
    bindings: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = None if bindings is None else SimpleNamespace(runtime=bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings", module)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    with pytest.raises(NotJoinable, match=why):
        joining.Joins().child(SimpleNamespace(raw_cuda_graph=lambda: 0))
