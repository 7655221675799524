"""What a prefill launches, gone through: the tuned kernels, and the block without its choice."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from sglang_qwen3next_eagle3.overlay.fast import ahead, prefill_rehearsal, rehearsal


class Configuration:
    def __init__(self, warps: int) -> None:
        self.warps = warps

    def all_kwargs(self) -> dict[str, int]:
        return {"num_warps": self.warps}


class Tuner:
    """Triton's `Autotuner` around a kernel, as far as it is asked for its configurations."""

    arg_names: ClassVar = ["x", "y"]
    nargs: Any = None

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.fn = SimpleNamespace(run=lambda *args, **options: self.asked.append((args, options)))

    def prune_configs(self, options: Any) -> list[Configuration]:
        assert self.nargs == {"x": 1}
        return [Configuration(2), Configuration(4)]

    def run(self, *args: Any, **options: Any) -> Any:
        pytest.fail("it was tuned by launches that are none")


def test_a_tuned_kernel_is_asked_for_in_all_its_configurations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from triton.runtime import autotuner

    monkeypatch.setattr(autotuner, "Autotuner", Tuner)
    before, tuner = Tuner.run, Tuner()
    step = prefill_rehearsal.in_all_configurations(lambda: tuner.run(1, y=2, grid=(3,)))
    assert step() is None
    assert tuner.asked == [((1,), {"y": 2, "grid": (3,), "num_warps": warps}) for warps in (2, 4)]
    assert Tuner.run is before
    assert tuner.nargs is None

    def failing() -> None:
        raise MemoryError("no room for it")

    with pytest.raises(MemoryError):
        prefill_rehearsal.in_all_configurations(failing)()
    assert Tuner.run is before


def test_what_another_thread_tunes_meanwhile_is_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import autotuner

    tuned: list[str] = []

    class Tuned(Tuner):
        def run(self, *args: Any, **options: Any) -> Any:
            tuned.append(threading.current_thread().name)

    monkeypatch.setattr(autotuner, "Autotuner", Tuned)
    other = threading.Thread(target=lambda: Tuned().run(1), name="other")

    def step() -> None:
        other.start()
        other.join()

    prefill_rehearsal.in_all_configurations(step)()
    assert tuned == ["other"]


def test_the_log_says_why_prefills_were_not_gone_through(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And what the check launches is compiled all the same."""
    gone_through: list[str] = []

    @contextmanager
    def compiling(_: Any) -> Iterator[ahead.Ahead]:
        yield ahead.Ahead(1)

    def no_prefill(*_: Any) -> None:
        raise AttributeError("a batch has no such field")

    monkeypatch.setattr(ahead, "compiling", compiling)
    monkeypatch.setattr(rehearsal, "go_through", lambda *_: gone_through.append("check"))
    monkeypatch.setattr(prefill_rehearsal, "go_through", no_prefill)
    runner: Any = SimpleNamespace()
    with caplog.at_level(logging.INFO):
        rehearsal.rehearse(runner, runner)
    assert gone_through == ["check"]
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("sglang-qwen3next-eagle3: fast path: 0 kernels made ready in ")
    assert line.endswith(
        "; 1 step not gone through to the end, first: AttributeError: a batch has no such field"
    )
