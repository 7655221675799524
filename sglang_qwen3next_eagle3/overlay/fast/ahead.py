"""Kernels compiled before they are launched, side by side.

One by one, what a check at start launches takes most of a first start. So it is gone through
without launching anything: Triton is asked for each kernel with the very arguments of its launch,
and other processes compile them into Triton's cache (`compile_pool`), where this one finds them.
What they cannot be told, threads compile. What fails here is compiled at its launch, as it would be
without this.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from sglang_qwen3next_eagle3.overlay.fast.compile_job import Job, cached, describe
from sglang_qwen3next_eagle3.overlay.fast.compile_pool import Compiled, at_a_time
from sglang_qwen3next_eagle3.overlay.fast.device import INTERPRETED

logger = logging.getLogger(__name__)


class Compiling(Protocol):
    """What `compile_pool.Compilers` does."""

    def compile(self, jobs: Sequence[Job]) -> list[Compiled]: ...


class Tuned(Exception):
    """A kernel is tuned at its first launch: that cannot be done ahead."""


class Asked(NamedTuple):
    """A kernel that a launch needs. cached: asks whether the launch would find it. job: for another
    process, if it can be told. here: what compiles it in this one and keeps it; None where threads
    must not."""

    cached: Callable[[], bool]
    job: Job | None
    here: tuple[Callable[[], Any], Callable[[Any], None]] | None


class Collected:
    """What Triton hands over to be compiled, in place of its own `AsyncCompileMode`.

    Nothing is compiled while it collects. The compiler asks the environment, which belongs to all
    threads: who launches within a setting of its own (`kernels/attention.py`) would set it for what
    others compile, and have put it back before its own kernel is compiled. Such a kernel is for a
    process of its own, which has the environment of the launch; without one it is left to its
    launch.

    elsewhere: whether there are other processes to be told.
    """

    def __init__(self, elsewhere: bool) -> None:
        from triton._C.libtriton import get_cache_invalidating_env_vars

        self._elsewhere = elsewhere
        self._settings = get_cache_invalidating_env_vars
        self._ours = get_cache_invalidating_env_vars()
        self.asked: dict[str, Asked] = {}

    def submit(
        self, key: str, compile_fn: Callable[[], Any], finalize_fn: Callable[[Any], None]
    ) -> object:
        if key not in self.asked:
            job = describe(key, compile_fn) if self._elsewhere else None
            here = self._settings() == self._ours
            if here or job is not None:
                self.asked[key] = Asked(
                    partial(cached, key, compile_fn),
                    job,
                    (compile_fn, finalize_fn) if here else None,
                )
        return self

    def forget(self, kernel: Any) -> None:
        """Triton 3.8 keeps at once what it was given, as if it were the compiled kernel."""
        for of_device in kernel.device_caches.values():
            compiled = of_device[0]
            for key in [key for key, value in compiled.items() if value is self]:
                del compiled[key]


@dataclass(frozen=True)
class Made:
    """What became of kernels that launches need: those that are there for them.

    there: how many were before. told: those that other processes compiled, `processes` at a time.
    here: how many this one did. seconds: since the first launch was gone through. missed: why
    launches were not gone through to the end, whose kernels are left to them.
    """

    there: int
    told: tuple[Compiled, ...]
    here: int
    processes: int
    seconds: float
    missed: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts, told = list[str](), len(self.told)
        if self.there:
            parts.append(f"{self.there} {'was' if self.there == 1 else 'were'} there")
        if told:
            longest = max(self.told, key=lambda one: one.seconds)
            parts.append(
                f"{told} compiled by {self.processes} processes "
                f"(longest {longest.job.name} {longest.seconds:.1f} s)"
            )
        if self.here:
            parts.append(f"{self.here}{'' if told else ' compiled'} by the server")
        count = self.there + told + self.here
        whole = f"{count} kernel{'' if count == 1 else 's'} made ready in {self.seconds:.1f} s"
        whole = f"{whole}: {', '.join(parts)}" if parts else whole
        if not self.missed:
            return whole
        steps = f"{len(self.missed)} step{'' if len(self.missed) == 1 else 's'}"
        return f"{whole}; {steps} not gone through to the end, first: {self.missed[0]}"


class Ahead:
    """Collects launches, and compiles what they need. Used by one thread.

    compilers: other processes.
    """

    def __init__(self, at_once: int, compilers: Compiling | None = None) -> None:
        from triton.runtime import _async_compile

        self._at_once, self._compilers = at_once, compilers
        self._mode = Collected(compilers is not None)
        self._missed = list[str]()
        self._begun = time.monotonic()
        self._active: Any = _async_compile.active_mode

    def run(self, steps: Callable[[], Any]) -> None:
        """Go through steps, whose kernels are noted and not launched: what they would have
        written is undefined. A step that raises ends them."""
        from triton.runtime.autotuner import Autotuner
        from triton.runtime.jit import JITFunction

        run, tuned, thread = JITFunction.run, Autotuner.run, threading.get_ident()
        gone_through: list[Any] = []

        def noted(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            if threading.get_ident() != thread:
                return run(kernel, *args, grid=grid, warmup=warmup, **options)
            gone_through.append(kernel)
            return run(kernel, *args, grid=grid, warmup=True, **options)

        def untuned(kernel: Any, *args: Any, **options: Any) -> Any:
            if threading.get_ident() == thread:
                raise Tuned("in a step that leaves that to its launch")
            return tuned(kernel, *args, **options)

        token = self._active.set(self._mode)
        JITFunction.run, Autotuner.run = noted, untuned
        try:
            with self.surviving():
                steps()
        finally:
            JITFunction.run, Autotuner.run = run, tuned
            self._active.reset(token)
            for kernel in gone_through:
                self._mode.forget(kernel)

    @contextmanager
    def surviving(self) -> Iterator[None]:
        """What raises inside ends what is inside and nothing else, and is told."""
        try:
            yield
        except Exception as error:
            logger.debug("not all is compiled ahead", exc_info=error)
            self._missed.append(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])

    def finish(self) -> Made:
        """Compile what was noted."""
        asked, self._mode.asked = self._mode.asked, {}
        missed, self._missed = tuple(self._missed), []
        there = {key for key, one in asked.items() if one.cached()}
        told = {key: one.job for key, one in asked.items() if one.job and key not in there}
        made, compiled = dict[str, Any](), list[Compiled]()
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="compile") as pool:

            def compile_here(keys: Sequence[str]) -> None:
                for key in keys:
                    if here := asked[key].here:
                        made[key] = pool.submit(here[0])

            compile_here([key for key in asked if key not in told])
            if self._compilers is not None:
                compiled = self._compilers.compile(list(told.values()))
            # Now found in Triton's cache, or compiled after all.
            compile_here(list(told))
        ready = {key for key, one in asked.items() if one.here is None and one.cached()}
        for key, future in made.items():
            if (here := asked[key].here) and future.exception() is None:
                here[1](future.result())
                ready.add(key)
        by_key = {job.key: key for key, job in told.items()}
        others = {by_key[one.job.key]: one for one in compiled if by_key[one.job.key] in ready}
        return Made(
            there=len(ready & there),
            told=tuple(others.values()),
            here=len(ready - there - set(others)),
            processes=self._at_once,
            seconds=time.monotonic() - self._begun,
            missed=missed,
        )


@contextmanager
def compiling(compilers: Compiling | None = None) -> Iterator[Ahead | None]:
    """Compile side by side what is gone through inside, at its end; None where it cannot be done.
    What goes wrong inside is left to the launches."""
    ahead: Ahead | None = None
    if not INTERPRETED:
        try:
            ahead = Ahead(at_a_time(), compilers)
        except (ImportError, AttributeError) as error:
            logger.debug("nothing is compiled ahead", exc_info=error)
    try:
        yield ahead
    except Exception as error:
        logger.debug("not all is compiled ahead", exc_info=error)
    finally:
        if ahead is not None:
            try:
                ahead.finish()
            except Exception as error:
                logger.debug("not all is compiled ahead", exc_info=error)
