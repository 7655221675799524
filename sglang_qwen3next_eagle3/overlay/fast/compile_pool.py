"""The processes that compile kernels (`compile_server`), as the process of a server sees them.

One for our kernels and one for SGLang's, whose import takes longer. Whatever becomes of them costs
nothing but time: what they have not compiled is compiled where it is launched.
"""

import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from sglang_qwen3next_eagle3.overlay.fast import kernels
from sglang_qwen3next_eagle3.overlay.fast.compile_job import Job

logger = logging.getLogger(__name__)
PREFIX: Final = "sglang-qwen3next-eagle3: fast path"
SERVER: Final = "sglang_qwen3next_eagle3.overlay.fast.compile_server"
SECONDS: Final = 300
"""After so many nothing more is waited for."""
MOST: Final = 16
"""Kernels that are compiled at a time."""
FEWEST: Final = 4
"""With fewer CPUs importing everything a second time takes longer than it saves."""

_TOLD: Final = 200
"""Letters of a reason in the log."""
LONGEST: Final = ("_skinny_gemm", "_head_linear", "_gdn_commit", "_gdn_verify", "_scores")
"""Kernels of ours that take a second of a CPU and more, up to 6 (of 32 rows): they come first, so
that none is left for the end."""


def at_a_time() -> int:
    """As many as this process may use CPUs, up to a limit."""
    return max(1, min(MOST, len(os.sched_getaffinity(0))))


def begin() -> "Compilers | None":
    """Processes for all kernels that this one may ask for; None where they would only be in the
    way of one another."""
    if at_a_time() < FEWEST:
        return None
    return Compilers(modules_of_ours(), modules_of_others())


class Compiled(NamedTuple):
    """seconds: of CPUs."""

    job: Job
    seconds: float


class Compilers:
    """Two processes that import kernels and compile them when they are asked to."""

    def __init__(self, ours: Sequence[str], others: Sequence[str]) -> None:
        self._servers = {True: _begun(ours), False: _begun(others)}

    def compile(self, jobs: Sequence[Job], seconds: float = SECONDS) -> list[Compiled]:
        """Have them compile all, and wait for it; those that they have."""
        deadline = time.monotonic() + seconds

        def asked(ours: bool) -> list[Compiled]:
            # Of one kernel those of more rows take longer, which are asked for last.
            own = [job for job in reversed(jobs) if job.ours is ours]
            own.sort(key=lambda job: (*LONGEST, job.name).index(job.name))
            return _asked(self._servers[ours], own, deadline)

        with ThreadPoolExecutor(len(self._servers), thread_name_prefix="compilers") as pool:
            return [one for of_one in pool.map(asked, self._servers) for one in of_one]

    def stop(self) -> None:
        """End them, and what they are about."""
        for server in self._servers.values():
            with suppress(OSError):
                server.kill()
            server.wait()


def modules_of_ours() -> list[str]:
    names = sorted(path.stem for path in Path(kernels.__file__).parent.glob("*.py"))
    return [f"{kernels.__name__}.{name}" for name in names if name != "__init__"]


def modules_of_others() -> list[str]:
    """Modules of SGLang with kernels, of those that this process has imported by now."""
    from triton.runtime.jit import JITFunction

    found = []
    for name, module in sorted(sys.modules.items()):
        if name.startswith("sglang."):
            values = list(vars(module).values()) if module is not None else []
            if any(isinstance(one, JITFunction) and one.module == name for one in values):
                found.append(name)
    return found


def _begun(modules: Sequence[str]) -> "subprocess.Popen[bytes]":
    # One thread, and nothing of a GPU: forking is for processes that have neither.
    alone = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", SERVER, str(at_a_time()), *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **alone},
    )


def _asked(server: Any, jobs: list[Job], deadline: float) -> list[Compiled]:
    """Of one process; it is ended where it does not answer in time."""
    late = threading.Timer(max(0.0, deadline - time.monotonic()), server.kill)
    late.daemon = True
    late.start()
    compiled, refused, answered = list[Compiled](), list[str](), 0
    try:
        text = pickle.dumps(jobs)
        server.stdin.write(len(text).to_bytes(8, "big") + text)
        server.stdin.flush()
        while answered < len(jobs) and (line := server.stdout.readline()):
            number, seconds, reason = json.loads(line)
            answered += 1
            kernel = f"{jobs[number].module}.{jobs[number].name}"
            if reason is None:
                compiled.append(Compiled(jobs[number], seconds))
            else:
                refused.append(f"{kernel}: {reason[:_TOLD]}")
            logger.debug("%s: compiled in %s s of a CPU: %s", kernel, seconds, reason or "yes")
    except Exception as error:
        logger.debug("kernels are not compiled by a process of their own", exc_info=error)
    finally:
        late.cancel()
    if refused:
        said = "%s: a process did not compile %d of %d kernels, first %s"
        logger.info(said, PREFIX, len(refused), len(jobs), refused[0])
    if answered < len(jobs):
        said = "%s: a process that compiles has ended or was too slow: %d of %d kernels are left"
        logger.info(said, PREFIX, len(jobs) - answered, len(jobs))
    return compiled
