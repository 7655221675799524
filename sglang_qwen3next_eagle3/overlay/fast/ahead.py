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
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from sglang_qwen3next_eagle3.overlay.fast.device import INTERPRETED

logger = logging.getLogger(__name__)
MOST_THREADS = 16


class Tuned(Exception):
    """A kernel is tuned at its first launch: that cannot be done ahead."""


class Ahead:
    """Collects launches, and compiles them in threads. Used by one thread."""

    def __init__(self, threads: int) -> None:
        from triton.runtime import _async_compile

        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compile")
        self._mode = _async_compile.AsyncCompileMode(self._pool, ignore_errors=True)
        self._active = _async_compile.active_mode

    def run(self, steps: Callable[[], Any]) -> None:
        """Go through steps, whose kernels are compiled and not launched: what they would have
        written is undefined. A step that raises ends them."""
        from triton.runtime.autotuner import Autotuner
        from triton.runtime.jit import JITFunction

        run, tuned, thread = JITFunction.run, Autotuner.run, threading.get_ident()

        def compiled(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            ahead = warmup or threading.get_ident() == thread
            return run(kernel, *args, grid=grid, warmup=ahead, **options)

        def untuned(kernel: Any, *args: Any, **options: Any) -> Any:
            if threading.get_ident() == thread:
                raise Tuned
            return tuned(kernel, *args, **options)

        token = self._active.set(self._mode)
        JITFunction.run, Autotuner.run = compiled, untuned
        try:
            steps()
        except Exception as error:
            logger.debug("not all is compiled ahead", exc_info=error)
        finally:
            JITFunction.run, Autotuner.run = run, tuned
            self._active.reset(token)

    def finish(self) -> int:
        """Wait for what is being compiled; how many kernels that were."""
        try:
            wait(self._mode.raw_futures)
            for kernel in self._mode.future_kernels.values():
                kernel.result(ignore_errors=True)
            return len(self._mode.raw_futures)
        finally:
            self._pool.shutdown()


def threads() -> int:
    """As many as this process may use CPUs, up to a limit."""
    return max(1, min(MOST_THREADS, len(os.sched_getaffinity(0))))


@contextmanager
def compiling() -> Iterator[Ahead | None]:
    """Compile in threads what is gone through inside; None where it cannot be done. Behind it all
    is there. What goes wrong inside is left to the launches."""
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
            ahead.finish()
