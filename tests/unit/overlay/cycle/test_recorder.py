"""What a scheduler's process records, and what is made of it."""

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.cycle import recorder as recorders
from sglang_qwen3next_eagle3.overlay.cycle import recording
from sglang_qwen3next_eagle3.overlay.cycle.phases import GPU, GRAPH_OF, LAUNCH, LOOP, NAMES, PHASES
from sglang_qwen3next_eagle3.overlay.cycle.recorder import Recorder
from sglang_qwen3next_eagle3.overlay.cycle.recording import MARK, MOST, SHIFT, Control

RECEIVE, RUN, DRAFT = "receive requests", "run batch", "draft"


class Loop:
    """A scheduler's loop of three phases."""

    def __init__(self, folder: Path, capacity: int = recorders.CAPACITY) -> None:
        self.control = Control.create(folder)
        self.recorder = Recorder(folder, "tp0", capacity)
        self.recorder.announce()
        timed = {name: self.recorder.timed(name) for name in (RECEIVE, RUN, DRAFT)}
        self.timed = timed

    def turn(self, batch: int, decode: bool = True, work: Any = lambda: None) -> None:
        self.recorder.turn()
        self.timed[RECEIVE](lambda: None)
        if batch:
            self.recorder.batch(batch, decode)
            self.timed[RUN](lambda: self.timed[DRAFT](work))


def entries(*events: tuple[int, int]) -> list[int]:
    return [now << SHIFT | code for now, code in events]


def enter(name: str) -> int:
    return 2 * NAMES.index(name)


def test_a_phase_has_the_time_that_those_within_it_leave() -> None:
    times = entries(
        (0, enter(RECEIVE)), (10, enter(RECEIVE) + 1),
        (12, MARK + 3),
        (15, enter(RUN)), (20, enter(DRAFT)), (50, enter(DRAFT) + 1), (60, enter(RUN) + 1),
        (100, enter(RECEIVE)), (101, enter(RECEIVE) + 1),
    )  # fmt: skip
    (cycle,) = recording.cycles(times)
    assert cycle.batch == 3
    assert cycle.own == {RECEIVE: 10, RUN: 5 + 10, DRAFT: 30, LOOP: 5 + 40}
    assert cycle.nanoseconds == 100
    assert cycle.calls == {RECEIVE: 1, RUN: 1, DRAFT: 1}


def test_what_is_recorded_is_read_as_cycles(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.turn(1)
    number = loop.control.begin("times")
    for batch, decode in ((2, True), (2, True), (1, False), (0, True), (500, True), (2, True)):
        loop.turn(batch, decode)
    loop.control.end()
    loop.turn(2)
    (found,) = recording.read(tmp_path, number, seconds=1)
    assert found.rank == "tp0"
    assert not found.about["full"]
    assert found.about["call_ns"] > 0
    cycles = list(recording.cycles(found.times))
    # The last turn's end is not known, and what is no decode batch is no cycle.
    assert [cycle.batch for cycle in cycles] == [2, 2, MOST]
    assert all(cycle.calls == {RECEIVE: 1, RUN: 1, DRAFT: 1} for cycle in cycles)
    assert all(time >= 0 for cycle in cycles for time in cycle.own.values())


def test_each_recording_begins_anew(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    for turns in (3, 5):
        number = loop.control.begin("times")
        for _ in range(turns):
            loop.turn(1)
        loop.control.end()
        loop.turn(1)
        (found,) = recording.read(tmp_path, number, seconds=1)
        assert len(list(recording.cycles(found.times))) == turns - 1


def test_an_exception_leaves_a_phase_too(tmp_path: Path) -> None:
    def fails() -> None:
        raise ValueError("no memory")

    loop = Loop(tmp_path)
    number = loop.control.begin("times")
    with pytest.raises(ValueError, match="no memory"):
        loop.turn(1, work=fails)
    loop.turn(1)
    loop.control.end()
    loop.turn(1)
    (found,) = recording.read(tmp_path, number, seconds=1)
    (cycle,) = recording.cycles(found.times)
    assert cycle.calls == {RECEIVE: 1, RUN: 1, DRAFT: 1}


def test_nothing_is_kept_while_nothing_is_asked_for(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.turn(1)
    assert loop.recorder._times == []
    assert recording.ranks(tmp_path) == ["tp0"]


def test_a_full_recording_says_so(tmp_path: Path) -> None:
    loop = Loop(tmp_path, capacity=50)
    number = loop.control.begin("times")
    for _ in range(100):
        loop.turn(1)
    loop.control.end()
    loop.turn(1)
    (found,) = recording.read(tmp_path, number, seconds=1)
    assert found.about["full"]
    assert 5 < len(list(recording.cycles(found.times))) < 15


@pytest.mark.parametrize("name", [GPU, LAUNCH])
def test_threads_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    loop = Loop(tmp_path)
    timed = loop.recorder.timed(name)
    loop.control.begin("times")
    loop.turn(1)
    before = len(loop.recorder._times)
    other = threading.Thread(target=timed, args=(lambda: None,))
    other.start()
    other.join()
    assert len(loop.recorder._times) == before
    timed(lambda: None)
    assert len(loop.recorder._times) == before + 2


def test_stacks_are_counted_by_phase_and_function_while_a_batch_runs(tmp_path: Path) -> None:
    def draws() -> None:
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass

    loop = Loop(tmp_path)
    loop.recorder.know(DRAFT, draws)
    number = loop.control.begin("stacks")
    end = time.monotonic() + 60
    sampler = None
    while time.monotonic() < end and (sampler is None or sampler._samples < 5):
        loop.turn(1, work=draws)
        sampler = loop.recorder._sampler
    loop.control.end()
    loop.turn(1)
    (found,) = recording.read(tmp_path, number, seconds=1)
    stacks = found.about["stacks"]
    assert stacks["samples"] >= 5
    assert stacks["phases"][DRAFT] > stacks["samples"] / 2
    names = dict(stacks["functions"])
    (drawing,) = (count for name, count in names.items() if "draws" in name)
    assert drawing == stacks["phases"][DRAFT]
    assert not any("overlay/cycle/recorder.py" in name for name in names), (
        "our own frames are left out"
    )
    assert list(found.times) == []


def test_no_stack_is_counted_while_no_batch_runs(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    number = loop.control.begin("stacks")
    loop.turn(0)
    time.sleep(5 * recorders.PERIOD)
    loop.control.end()
    loop.turn(0)
    (found,) = recording.read(tmp_path, number, seconds=1)
    assert found.about["stacks"]["samples"] == 0


def test_the_next_recording_may_be_wanted_before_the_last_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(tmp_path)
    loop.control.begin("times")
    loop.turn(1)
    loop.control.end()
    written = recording.write

    def write(*args: Any) -> None:
        written(*args)
        loop.control.begin("stacks")

    monkeypatch.setattr(recording, "write", write)
    loop.turn(1)
    monkeypatch.undo()
    loop.turn(1)
    loop.control.end()
    loop.turn(1)
    (found,) = recording.read(tmp_path, loop.control.number, seconds=1)
    assert "stacks" in found.about


def test_a_rank_that_writes_nothing_is_not_waited_for_without_end(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    number = loop.control.begin("times")
    with pytest.raises(TimeoutError, match="tp0 wrote no recording"):
        recording.read(tmp_path, number, seconds=0.0)

    def gone() -> None:
        raise ProcessLookupError

    with pytest.raises(ProcessLookupError):
        recording.read(tmp_path, number, seconds=60, check=gone)


def test_graphs_have_a_time_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With events that pretend: each notes the call's number, so a graph takes one of them."""
    clock = iter(range(1000))

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(clock)

        def synchronize(self) -> None: ...

        def elapsed_time(self, other: "Event") -> float:
            return other.at - self.at

    torch = SimpleNamespace(cuda=SimpleNamespace(Event=Event))
    monkeypatch.setitem(sys.modules, "torch", torch)
    loop = Loop(tmp_path)
    # Of a recorded cycle, a graph says itself whose it is, and small ones between are nobody's.
    told = SimpleNamespace(**{GRAPH_OF: "verify graph"}), SimpleNamespace(**{GRAPH_OF: ""})
    graphs = object(), object(), *told

    def replays() -> None:
        for graph in graphs:
            loop.recorder.replay(lambda graph: None, graph)

    loop.recorder.know(DRAFT, replays)
    for _ in range(2):
        number = loop.control.begin("times")
        loop.turn(1, work=replays)
        loop.turn(1, work=replays)
        loop.control.end()
        loop.turn(0)
        (found,) = recording.read(tmp_path, number, seconds=1)
        assert found.about["graphs"] == {DRAFT: [1.0] * 4, "verify graph": [1.0] * 2}


def test_a_folder_that_is_none_of_a_benchmark_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        Control(tmp_path)
    (tmp_path / "control").write_bytes(b"on")
    with pytest.raises(UserError, match="tells no recording"):
        Control(tmp_path)


def test_codes_have_room_for_every_phase() -> None:
    assert 2 * len(NAMES) + 1 < MARK
    assert len({phase.target for phase in PHASES}) == len(PHASES)
