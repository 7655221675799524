"""A process that compiles kernels, each in a child of its own.

Threads would take turns in Triton's front end, which is Python. Run as a module it imports what it
is told, while the server loads its weights, and waits. Then it forks a child for each kernel, which
has everything imported, an environment of its own, and ends when that kernel is compiled. This
process sees no GPU.

    argv[1]: children at a time. The others: modules to import.
    stdin:  lists of `Job`, pickled, each behind its length in 8 bytes. stdout: a line of JSON for
        each job, as it ends: its number in the list, seconds of CPUs, and why it was not compiled,
        or null.

It ends with the process that began it, or where it was not asked for long.
"""

import ctypes
import gc
import importlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sglang_qwen3next_eagle3.overlay.fast.compile_job import Job, compile_here, told_triton

SECONDS: Final = 900
"""It waits so long for its first list: weights are loaded meanwhile."""
IDLE: Final = 120
"""And so long for a further one, or for a kernel."""
_PARENT_DEATH_SIGNAL: Final = 1
"""PR_SET_PDEATHSIG of Linux."""
_LONGEST: Final = 500
"""Of a reason: a line is written at once."""
Answer = Callable[[int, float, str | None], None]


def main() -> None:
    begun_by = os.getppid()
    signal.alarm(SECONDS)
    end_with(begun_by)
    lines = os.dup(1)
    # What modules print when they are imported is no answer.
    os.dup2(2, 1)
    _import(sys.argv[2:])
    gc.freeze()

    def answer(number: int, seconds: float, reason: str | None) -> None:
        told = number, round(seconds, 2), reason and reason[:_LONGEST]
        os.write(lines, f"{json.dumps(told)}\n".encode())

    while (size := sys.stdin.buffer.read(8)) and len(size) == 8:
        jobs = pickle.loads(sys.stdin.buffer.read(int.from_bytes(size, "big")))
        signal.alarm(IDLE)
        if jobs:
            _import(sorted({job.module for job in jobs}))
        serve(jobs, int(sys.argv[1]), answer)
        signal.alarm(IDLE)


def end_with(parent: int) -> None:
    """Have the kernel end this process with another one, whose child it is."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _import(modules: list[str]) -> None:
    """Modules of kernels, and what is the same for every kernel."""
    from triton.runtime.cache import triton_key

    triton_key()
    told_triton()
    for module in modules:
        # One that does not do without a GPU is left to who has one.
        with suppress(Exception):
            importlib.import_module(module)


def serve(jobs: list[Job], most: int, answer: Answer) -> None:
    """Compile, in so many children at a time, in their order."""
    waiting, running = list(enumerate(jobs)), dict[int, int]()
    while waiting or running:
        if waiting and len(running) < most:
            number, job = waiting.pop(0)
            running[_child(number, job, answer)] = number
            continue
        process, status = os.waitpid(-1, 0)
        number = running.pop(process)
        signal.alarm(IDLE)
        if status:
            # It could not say so itself.
            answer(number, 0.0, f"it ended with status {status}")


def _child(number: int, job: Job, answer: Answer) -> int:
    parent = os.getpid()
    if process := os.fork():
        return process
    status = 1
    try:
        end_with(parent)
        signal.alarm(IDLE)
        # The next list is not for it.
        os.close(0)
        os.open(os.devnull, os.O_RDONLY)
        reason = _compiled(job)
        answer(number, sum(os.times()[:4]), reason)
        status = 0
    finally:
        os._exit(status)


def _compiled(job: Job) -> str | None:
    try:
        compile_here(job)
    except BaseException as error:
        told: Any = " ".join(str(error).split())
        return f"{type(error).__name__}: {told}"
    return None


if __name__ == "__main__":
    main()
