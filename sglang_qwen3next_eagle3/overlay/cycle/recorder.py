"""What a scheduler's process records between two words of a benchmark.

Times go into a list, two entries a call; stacks are counted by a thread that
looks at the scheduler's every two milliseconds. While nothing is recorded a hooked function costs
one question more.
"""

import inspect
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from sglang_qwen3next_eagle3.overlay.cycle import recording
from sglang_qwen3next_eagle3.overlay.cycle.phases import GPU, GRAPH_OF, LAUNCH, LOOP, NAMES, RUN
from sglang_qwen3next_eagle3.overlay.cycle.recording import KINDS, MARK, MOST, SHIFT, Control
from sglang_qwen3next_eagle3.overlay.hooks import Hook, wrap

CAPACITY: Final = 1 << 20
"""Entries of times, after which a recording is full; a cycle has about a hundred."""
PERIOD: Final = 0.002
_SWITCH: Final = 0.0002
"""Seconds after which the interpreter lets the sampling thread in: Python's own would be 5 ms, by
which every sample would be of a place that gives way by itself."""
_REPLAYS: Final = 3000
"""Graphs whose time on the GPU is taken, of a recording."""
_MOST_FUNCTIONS: Final = 80
_OURS: Final = (str(Path(__file__).parent), str(Path(__file__).parents[1] / "hooks.py"))


class Recorder:
    """Of one scheduler, by whose thread alone it is called, the sampling apart.

    folder: where `recording` says; rank: its name there.
    """

    def __init__(self, folder: Path, rank: str, capacity: int = CAPACITY) -> None:
        self.folder, self.rank = folder, rank
        self.on = False
        self._control = Control(folder)
        self._code, self._number = 0, 0
        self._times: list[int] = []
        self._capacity, self._full = capacity, False
        self._thread = threading.get_ident()
        self._codes: dict[CodeType, str] = {}
        self._replays = _Replays(self._phase_of)
        self._call_ns = self.call_ns()
        self._sampler: _Sampler | None = None

    def announce(self) -> None:
        recording.announce(self.folder, self.rank, {"pid": os.getpid()})

    def call_ns(self, calls: int = 200) -> float:
        """What recording one call takes itself, in nanoseconds; before anything is recorded."""
        recorded = wrap(_nothing, Hook("", self.timed(RUN.name), ""))
        self.on = True
        took = _nanoseconds(recorded, calls) - _nanoseconds(_nothing, calls)
        self.on = False
        self._times.clear()
        return max(took, 0) / calls

    def timed(self, name: str) -> Callable[..., Any]:
        """Of a hook: the original's time is that of the phase."""
        enter = 2 * NAMES.index(name)
        leave = enter + 1
        note, clock = self._times.append, time.perf_counter_ns
        ours = name not in (GPU, LAUNCH)  # other threads may wait for the GPU, too

        def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if not self.on or not (ours or threading.get_ident() == self._thread):
                return original(*args, **kwargs)
            note(clock() << SHIFT | enter)
            try:
                return original(*args, **kwargs)
            finally:
                note(clock() << SHIFT | leave)

        around.__qualname__ = f"timed.{name}"
        return around

    def know(self, name: str, function: Callable[..., Any]) -> None:
        """Whose code a phase is, for sampled stacks."""
        code = getattr(inspect.unwrap(function), "__code__", None)
        if code is not None:
            self._codes[code] = name

    def batch(self, requests: int, decode: bool) -> None:
        """What this turn runs."""
        if self._sampler is not None:
            self._sampler.runs(decode)
        if self.on and decode:
            self._times.append(time.perf_counter_ns() << SHIFT | MARK + min(requests, MOST))

    def replay(self, original: Callable[..., Any], graph: Any, *args: Any, **kwargs: Any) -> Any:
        """A graph, with its time on the GPU."""
        if not self.on or threading.get_ident() != self._thread:
            return original(graph, *args, **kwargs)
        return self._replays.around(original, graph, args, kwargs)

    def turn(self) -> None:
        """Before every turn of the loop: begin or end what the benchmark wants."""
        if self._control.code != self._code:
            self._switch()
        elif self._sampler is not None:
            self._sampler.turn()
        elif self.on and len(self._times) > self._capacity:
            self.on, self._full = False, True

    def _switch(self) -> None:
        # Once: as soon as a recording is written the benchmark may want the next one.
        code = self._control.code
        number = self._control.number
        if self._code:
            self._finish()
        self._code, self._number = code, number
        if KINDS[code] == "times":
            self._full = False
            self._replays.begin()
            self.on = True
        elif KINDS[code] == "stacks":
            self._sampler = _Sampler(self._thread, self._phase_of)
            self._sampler.start()

    def _finish(self) -> None:
        about: dict[str, Any] = {"rank": self.rank, "full": self._full, "call_ns": self._call_ns}
        if self._sampler is not None:
            about["stacks"] = self._sampler.finish()
            self._sampler = None
            times = []
        else:
            self.on = False
            about["graphs"] = self._replays.milliseconds()
            first = self._times[0] >> SHIFT << SHIFT if self._times else 0
            times = [entry - first for entry in self._times]
            self._times.clear()
        recording.write(self.folder, self._number, self.rank, about, times)

    def _phase_of(self, frame: FrameType | None) -> str:
        while frame is not None:
            name = self._codes.get(frame.f_code)
            if name is not None:
                return name
            frame = frame.f_back
        return LOOP


def _nothing() -> None:
    pass


def _nanoseconds(function: Callable[[], Any], calls: int, rounds: int = 7) -> int:
    """Of so many calls, where nothing else disturbs them."""
    took = []
    for _ in range(rounds):
        before = time.perf_counter_ns()
        for _ in range(calls):
            function()
        took.append(time.perf_counter_ns() - before)
    return min(took)


class _Replays:
    """Events of CUDA around graphs, made once and used again.

    The time begins when the GPU has come to the graph, so it holds what the GPU then waits for the
    host to hand it over.
    """

    def __init__(self, phase_of: Callable[[FrameType | None], str]) -> None:
        self._phase_of = phase_of
        self._names: dict[int, str] = {}
        self._pairs: list[tuple[Any, Any]] = []
        self._used: list[str] = []

    def begin(self) -> None:
        self._used = []

    def around(self, original: Callable[..., Any], graph: Any, args: Any, kwargs: Any) -> Any:
        place = len(self._used)
        name = self._names.get(id(graph))
        if name is None:
            told: str | None = getattr(graph, GRAPH_OF, None)
            name = self._phase_of(sys._getframe()) if told is None else told
            self._names[id(graph)] = name
        if place == _REPLAYS or not name:
            return original(graph, *args, **kwargs)
        if place == len(self._pairs):
            import torch

            event: Any = torch.cuda.Event
            made = [event(enable_timing=True) for _ in range(2)]
            self._pairs.append((made[0], made[1]))
        before, after = self._pairs[place]
        self._used.append(name)
        before.record()
        try:
            return original(graph, *args, **kwargs)
        finally:
            after.record()

    def milliseconds(self) -> dict[str, list[float]]:
        """Of each phase's graphs, one after the other."""
        found: dict[str, list[float]] = {}
        for name, (before, after) in zip(self._used, self._pairs, strict=False):
            after.synchronize()
            found.setdefault(name, []).append(round(before.elapsed_time(after), 4))
        return found


class _Sampler:
    """A thread that counts where another one is."""

    def __init__(self, thread: int, phase_of: Callable[[FrameType | None], str]) -> None:
        self._thread, self._phase_of = thread, phase_of
        self._decodes = self._ran = False
        self._end = threading.Event()
        self._samples = 0
        self._phases: Counter[str] = Counter()
        self._inclusive: Counter[CodeType] = Counter()
        self._own: Counter[tuple[CodeType, int]] = Counter()
        self._sampling = threading.Thread(target=self._run, name="bench-cycle", daemon=True)
        self._interval = sys.getswitchinterval()

    def start(self) -> None:
        sys.setswitchinterval(_SWITCH)
        self._sampling.start()

    def turn(self) -> None:
        """A turn's first half is counted by what the turn before has run."""
        self._decodes, self._ran = self._ran, False

    def runs(self, decode: bool) -> None:
        self._decodes = self._ran = decode

    def _run(self) -> None:
        while not self._end.wait(PERIOD):
            if self._decodes:
                self._look(sys._current_frames().get(self._thread))

    def _look(self, frame: FrameType | None) -> None:
        if frame is None:
            return
        self._samples += 1
        self._phases[self._phase_of(frame)] += 1
        seen: set[CodeType] = set()
        while frame is not None:
            code = frame.f_code
            if not code.co_filename.startswith(_OURS):
                if not seen:
                    self._own[code, frame.f_lineno or 0] += 1
                seen.add(code)
            frame = frame.f_back
        self._inclusive.update(seen)

    def finish(self) -> dict[str, Any]:
        self._end.set()
        self._sampling.join()
        sys.setswitchinterval(self._interval)
        inclusive = self._inclusive.most_common(_MOST_FUNCTIONS)
        own = self._own.most_common(_MOST_FUNCTIONS)
        return {
            "samples": self._samples,
            "phases": dict(self._phases.most_common()),
            "functions": [[_spelled(code), count] for code, count in inclusive],
            "lines": [[f"{_spelled(code)}:{line}", count] for (code, line), count in own],
        }


def _spelled(code: CodeType) -> str:
    """A function and its file, by the last two folders above it: no path of this machine."""
    return f"{code.co_qualname} ({'/'.join(Path(code.co_filename).parts[-3:])})"
