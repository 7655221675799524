"""What the server does: it hands over to them."""

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from sglang_qwen3next_eagle3.overlay.standby.handed import Handed
from sglang_qwen3next_eagle3.overlay.standby.launcher import DETOKENIZER, PROCESSES, Waiting

logger = logging.getLogger(__name__)


def take() -> None:
    """In the server: what the launcher begun becomes what multiprocessing starts from now on."""
    told = os.environ.pop(PROCESSES, None)
    if told is None:
        return
    waiting: list[Waiting] = []
    try:
        read = json.loads(told)
        for pid, channel, module in read["processes"]:
            os.set_inheritable(channel, False)
            waiting.append(Waiting(pid, channel, module))
        _Taking(read["python"], read["numbers"], waiting).hook()
    except Exception as error:
        logger.warning("sglang-qwen3next-eagle3: no process has imported before: %s", error)


class _Taking:
    """Stands in the place of the method by which multiprocessing starts a fresh interpreter."""

    def __init__(self, python: str, numbers: Sequence[int], waiting: list[Waiting]) -> None:
        self._python, self._numbers, self._waiting = python, tuple(numbers), waiting

    def hook(self) -> None:
        from multiprocessing import popen_spawn_posix

        original: Callable[[Any, Any], None] = popen_spawn_posix.Popen._launch  # type: ignore[attr-defined]

        def launch(popen: Any, process: Any) -> None:
            if not self._launch(popen, process):
                original(popen, process)

        popen_spawn_posix.Popen._launch = launch  # type: ignore[attr-defined]

    def _launch(self, popen: Any, process: Any) -> bool:
        """Whether a process that waits became this one."""
        module = getattr(getattr(process, "_target", None), "__module__", None)
        of = [one for one in self._waiting if one.module == module]
        if not of:
            return False
        one = of[0]
        self._waiting.remove(one)
        reason = self._why_not(one)
        if reason is None:
            try:
                _hand_over(one, self._numbers, popen, process)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                popen._fds = []
        if reason is not None:
            one.end()
            line = (
                "sglang-qwen3next-eagle3: %s imports anew, for what has imported is not taken: %s"
            )
            logger.warning(line, module, reason)
        if module == DETOKENIZER[-1]:
            # SGLang starts it last.
            while self._waiting:
                self._waiting.pop().end()
        return reason is None

    def _why_not(self, one: Waiting) -> str | None:
        from multiprocessing import spawn

        executable = os.fsdecode(spawn.get_executable() or b"")
        if executable != self._python:
            return f"it is to be run by {executable}"
        if not one.lives():
            return "it has ended"
        if os.getsid(one.pid) != os.getsid(0) or os.getpgid(one.pid) != os.getpgid(0):
            return "it is of another group of processes"
        if not all(_same_file(f"/proc/{one.pid}/fd/{fd}", f"/proc/self/fd/{fd}") for fd in (1, 2)):
            return "it prints elsewhere"
        return None


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _hand_over(one: Waiting, numbers: Sequence[int], popen: Any, process: Any) -> None:
    """What `Popen._launch` of multiprocessing/popen_spawn_posix.py does (Python 3.11 to 3.13), with
    a process that is there in the place of one that it starts.

    Raises:
        OSError, ValueError: it was not told; nothing has come of it.
    """
    from multiprocessing import resource_tracker, spawn, util
    from multiprocessing.context import reduction, set_spawning_popen  # type: ignore[attr-defined]

    free, given = list(numbers), {}

    def number_of(fd: int) -> int:
        # What is pickled names a descriptor by the number that it has over there.
        if not free:
            raise ValueError("it would be given too many descriptors")
        given[number := free.pop()] = fd
        return number

    tracker: Any = resource_tracker.getfd()  # it is there now
    tracker_there = number_of(tracker)
    preparation, data = spawn.get_preparation_data(process._name), io.BytesIO()
    popen.duplicate_for_child = number_of
    set_spawning_popen(popen)
    try:
        reduction.dump(preparation, data)
        reduction.dump(process, data)
    finally:
        set_spawning_popen(None)
        del popen.duplicate_for_child
    parent_r, child_w = os.pipe()
    child_r, parent_w = os.pipe()
    try:
        pipe_there = number_of(child_r)
        number_of(child_w)
        command = spawn.get_command_line(tracker_fd=tracker_there, pipe_handle=pipe_there)
        handed = Handed.of_this_process([os.fsdecode(w) for w in command], list(given))
        handed.tracker, handed.pipe = tracker_there, pipe_there
        with contextlib.suppress(OSError):
            # It may still be importing: nobody is to wait for it with what it has not read.
            _widen(parent_w, len(data.getbuffer()))
        handed.send(one.channel, list(given.values()))
        with open(parent_w, "wb", closefd=False) as pipe:
            pipe.write(data.getbuffer())
    except BaseException:
        os.close(parent_r)
        os.close(parent_w)
        raise
    finally:
        os.close(child_r)
        os.close(child_w)
    os.close(one.channel)
    popen.pid, popen.sentinel = one.pid, parent_r
    popen.finalizer = util.Finalize(popen, util.close_fds, (parent_r, parent_w))  # type: ignore[attr-defined]


def _widen(pipe: int, size: int) -> None:
    import fcntl

    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, max(size, 65536))
