"""Kernels compiled before they are launched, side by side.

One by one, what a check at start launches takes most of a first start. So it is gone through
without launching anything: Triton is asked for each kernel with the very arguments of its launch,
and threads compile them (Triton and LLVM let go of Python's lock). What fails here is compiled at
its launch, as it would be without this.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sglang_qwen3next_eagle3.overlay.fast.device import INTERPRETED

logger = logging.getLogger(__name__)
MOST_THREADS = 16


class Tuned(Exception):
    """A kernel is tuned at its first launch: that cannot be done ahead."""


class Collected:
    """What Triton hands over to be compiled, in place of its own `AsyncCompileMode`.

    Nothing is compiled while it collects. The compiler asks the environment, which belongs to all
    threads: who launches within a setting of its own (`kernels/attention.py`) would set it for what
    others compile, and have put it back before its own kernel is compiled. Such a kernel is left to
    its launch.
    """

    def __init__(self) -> None:
        from triton._C.libtriton import get_cache_invalidating_env_vars

        self._settings = get_cache_invalidating_env_vars
        self._ours = get_cache_invalidating_env_vars()
        self.jobs: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {}

    def submit(
        self, key: str, compile_fn: Callable[[], Any], finalize_fn: Callable[[Any], None]
    ) -> object:
        if self._settings() == self._ours:
            self.jobs.setdefault(key, (compile_fn, finalize_fn))
        return self

    def forget(self, kernel: Any) -> None:
        """Triton 3.8 keeps at once what it was given, as if it were the compiled kernel."""
        for of_device in kernel.device_caches.values():
            compiled = of_device[0]
            for key in [key for key, value in compiled.items() if value is self]:
                del compiled[key]


class Ahead:
    """Collects launches, and compiles what they need in threads. Used by one thread."""

    def __init__(self, threads: int) -> None:
        from triton.runtime import _async_compile

        self._threads = threads
        self._mode = Collected()
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
                raise Tuned
            return tuned(kernel, *args, **options)

        token = self._active.set(self._mode)
        JITFunction.run, Autotuner.run = noted, untuned
        try:
            steps()
        except Exception as error:
            logger.debug("not all is compiled ahead", exc_info=error)
        finally:
            JITFunction.run, Autotuner.run = run, tuned
            self._active.reset(token)
            for kernel in gone_through:
                self._mode.forget(kernel)

    def finish(self) -> int:
        """Compile what was noted; how many kernels that were."""
        jobs, self._mode.jobs = self._mode.jobs, {}
        with ThreadPoolExecutor(self._threads, thread_name_prefix="compile") as pool:
            futures = [pool.submit(compile_fn) for compile_fn, _ in jobs.values()]
        for future, (_, finalize) in zip(futures, jobs.values(), strict=True):
            if future.exception() is None:
                finalize(future.result())
        return len(jobs)


def threads() -> int:
    """As many as this process may use CPUs, up to a limit."""
    return max(1, min(MOST_THREADS, len(os.sched_getaffinity(0))))


@contextmanager
def compiling() -> Iterator[Ahead | None]:
    """Compile in threads what is gone through inside, at its end; None where it cannot be done.
    What goes wrong inside is left to the launches."""
    ahead: Ahead | None = None
    if not INTERPRETED:
        try:
            ahead = Ahead(threads())
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
