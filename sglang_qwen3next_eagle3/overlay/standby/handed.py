"""What a fresh interpreter would be given."""

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from sglang_qwen3next_eagle3.base.processes import outlive_parent

NUMBERS = 16
"""Descriptors that a process can be given."""


def options() -> list[str]:
    """With which this interpreter was started, or by its environment; children get the same."""
    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]


def affinity() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def limits() -> dict[str, list[int]]:
    import resource

    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: list(resource.getrlimit(getattr(resource, name))) for name in names}


@dataclass
class Handed:
    """What a fresh interpreter would have been started with, or inherited.

    words: its command; options: of these for Python. numbers: which descriptors it has, in the
    order in which they are sent; tracker, pipe: of these the resource tracker's, and what
    multiprocessing reads. ignored, blocked: signals; limits: by name, soft and hard.
    """

    words: list[str]
    options: list[str]
    numbers: list[int]
    environment: dict[str, str]
    folder: str
    umask: int
    ignored: list[int]
    blocked: list[int]
    limits: dict[str, list[int]]
    affinity: list[int]
    nice: int
    tracker: int = -1
    pipe: int = -1

    @classmethod
    def of_this_process(cls, words: list[str], numbers: list[int]) -> "Handed":
        umask = os.umask(0o077)
        os.umask(umask)
        every = sorted(map(int, signal.valid_signals()))
        return cls(
            words=words,
            options=options(),
            numbers=numbers,
            environment=dict(os.environ),
            folder=os.getcwd(),
            umask=umask,
            ignored=[n for n in every if signal.getsignal(n) is signal.SIG_IGN],
            blocked=sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
            limits=limits(),
            affinity=affinity(),
            nice=os.nice(0),
        )

    def send(self, channel: int, fds: Sequence[int]) -> None:
        # As a file without a name: it is sent at once, however long it is.
        file = os.memfd_create("handed")
        try:
            with open(file, "wb", closefd=False) as stream:
                stream.write(json.dumps(vars(self)).encode())
            rights = array.array("i", [file, *fds])
            with socket.socket(fileno=os.dup(channel)) as to:
                to.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        finally:
            os.close(file)

    @classmethod
    def receive(cls, channel: socket.socket, numbers: Sequence[int]) -> "Handed | None":
        """With its descriptors in place, which have some of these numbers. None: nobody asks any
        more."""
        with contextlib.suppress(ConnectionError):
            word, fds, _, _ = socket.recv_fds(channel, 1, NUMBERS + 1)
            if not word:
                return None
            with open(fds[0], "rb") as stream:
                stream.seek(0)
                handed = cls(**json.loads(stream.read()))
            for fd, number in zip(fds[1:], handed.numbers, strict=True):
                os.dup2(fd, number, inheritable=False)
                os.close(fd)
            for number in set(numbers).difference(handed.numbers):
                os.close(number)
            return handed
        return None

    def inherit(self) -> None:
        """All that has nothing to do with what was imported."""
        outlive_parent()
        os.chdir(self.folder)
        os.umask(self.umask)
        import resource

        for name, (soft, hard) in self.limits.items():
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (soft, hard))
        for number in map(int, signal.valid_signals()):
            now = signal.getsignal(number)
            ignored = number in self.ignored
            if number == signal.SIGINT and not ignored:
                signal.signal(number, signal.default_int_handler)
            elif ignored and now is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_IGN)
            elif not ignored and now is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)

    def anew(self) -> NoReturn:
        """Become the fresh interpreter that was asked for."""
        for number in map(int, signal.valid_signals()):
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        if set(affinity()) != set(self.affinity):
            os.sched_setaffinity(0, self.affinity)
        with contextlib.suppress(OSError):
            os.nice(self.nice - os.nice(0))
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), int(name) < 3 or int(name) in self.numbers)
        os.execve(self.words[0], self.words, self.environment)
