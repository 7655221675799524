"""A recorded cycle does what the function did that was recorded, for other batches of its size."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import simulate, variants
from sglang_qwen3next_eagle3.overlay.cycle.phases import GRAPH_OF
from sglang_qwen3next_eagle3.overlay.seams import cycles as under_test
from sglang_qwen3next_eagle3.overlay.seams import joining, plans, recording, sizes
from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles, prepare_tracking
from sglang_qwen3next_eagle3.overlay.seams.joining import NotJoinable
from sglang_qwen3next_eagle3.overlay.seams.plain import is_plain
from sglang_qwen3next_eagle3.overlay.seams.plans import CyclePlan, copy_to_cpu, inputs_of
from sglang_qwen3next_eagle3.overlay.seams.recording import (
    GraphRecording,
    NotRecordable,
    OnlyOnDevice,
)
from tests.support.made_up_cycles import (
    HIDDEN,
    POOL,
    N,
    Published,
    Relay,
    Worker,
    batch_of,
    result_of,
    turn_of,
    values,
)
from tests.support.op_graph import OpGraph


@pytest.fixture
def cycles(monkeypatch: pytest.MonkeyPatch) -> Cycles:
    monkeypatch.setattr(under_test, "hindrance", lambda worker: None)
    monkeypatch.setattr(under_test, "_track", lambda batch: None)
    monkeypatch.setattr(
        under_test, "_read_done", lambda runner: variants.host().say_read_done(runner, "ours")
    )
    return Cycles(OpGraph, "cpu")


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


class FakeJoins:
    """What is captured on a CPU takes operations in by doing them."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.parts, self.marks = refuses, 0, 0

    def child(self, graph: Any) -> None:
        if self.refuses:
            raise NotJoinable("CUDA refuses: no")
        self.parts += 1
        graph.replay()

    def mark(self) -> Any:
        self.marks += 1
        return f"mark {self.marks}"


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


def test_a_plan_of_memory_counts_as_many_as_are_recorded() -> None:
    assert under_test._MOST == sizes.MOST_RECORDED
