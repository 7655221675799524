"""Processes that we start: how they are started, waited for, ended, and what they said."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from sglang_qwen3next_eagle3.base.errors import ServerFailed, UserError, uninterrupted

STOP_SECONDS = 30.0
"""What a process gets to end by itself, before it is killed."""
POLL_SECONDS = 0.3
"""Between two questions whether it is ready."""
LOG_LINES, LINE_LENGTH = 25, 400
_PR_SET_PDEATHSIG = 1
_PROC_NET = Path("/proc/net")
_LISTEN = "0A"
"""Of a socket's states in /proc/net/tcp."""
_MAX_HELD = 64
_HELD: deque[socket.socket] = deque()
"""What keeps the ports that were given out, oldest first."""


class Child:
    """A process in a group of its own, with all that it starts. name: of it in messages.

    log: where its output goes; None where the caller reads it from `process.stdout`.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", log: Path | None = None, name: str = "the server"
    ) -> None:
        self.process, self.log, self.name = process, log, name

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        log: Path | None = None,
        *,
        name: str = "the server",
        environment: Mapping[str, str] | None = None,
        inherit: Sequence[int] = (),
        append: bool = False,
    ) -> "Child":
        """Start it: it does not outlive this process, and a terminal's Ctrl-C does not reach it.

        log: None gives a pipe to read from. environment: beyond the caller's. inherit: file
        descriptors that it keeps.
        """
        with contextlib.ExitStack() as stack:
            output: int | IO[bytes] = subprocess.PIPE
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context(log.open("ab" if append else "wb"))
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                pass_fds=tuple(inherit),
                start_new_session=True,  # Ctrl-C is for us, who then end it.
                preexec_fn=end_with_parent(),
            )
        return cls(process, log, name)

    def ended(self, seconds: float = 0.0) -> int | None:
        """Its exit status, waited for so long; None while it runs.

        A process that broke a connection a moment ago may not be gone yet: give it some seconds
        before it is said to be alive.
        """
        try:
            return self.process.wait(seconds) if seconds > 0 else self.process.poll()
        except subprocess.TimeoutExpired:
            return None

    def check(self, seconds: float = 0.0) -> None:
        """Raises ServerFailed: it has ended, or does so within these seconds."""
        if (status := self.ended(seconds)) is not None:
            raise ServerFailed(f"{self.name} ended: {ending(status)}", self.tail())

    def tail(self, lines: int = LOG_LINES) -> list[str]:
        """The last lines of its log."""
        return tail(self.log, lines) if self.log is not None else []

    def wait_until(
        self,
        ready: Callable[[], bool],
        seconds: float,
        *,
        waiting: Callable[[float], None] = lambda elapsed: None,
    ) -> float:
        """Ask again and again whether it is ready; the seconds that it took.

        waiting: called with the seconds so far before each pause.

        Raises:
            ServerFailed: it ends, or is not ready in time.
        """
        begun = time.monotonic()
        while (elapsed := time.monotonic() - begun) < seconds:
            self.check()
            if ready():
                return time.monotonic() - begun
            waiting(elapsed)
            time.sleep(POLL_SECONDS)
        raise ServerFailed(f"{self.name} was not healthy in time", self.tail())

    def listens(self, port: int) -> bool:
        """Whether it, or what it started, is who listens on a port of this machine.

        Somebody else may have taken the port while it was starting, and answers there. True where
        that cannot be told: without a /proc, and of a process that lets nobody look.
        """
        if not _PROC_NET.is_dir():
            return True
        sockets = _listening(port)
        return bool(sockets) and _holds(self.process.pid, sockets)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End it and all that it started: asked first, killed after `seconds`.

        It is asked alone, and ends what it started. SGLang takes a child that was asked beside it
        for one that crashed, and looks for the cause for 5 seconds, or 65. The whole group is asked
        and killed afterwards, since the children of a process that was killed outlive it. Nothing
        interrupts this.
        """
        with uninterrupted():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                self.process.terminate()
            ended = self.ended(seconds) is not None
            if not ended or not self._left_ones_end():
                self._signal_group(signal.SIGKILL)
                self.ended(STOP_SECONDS)
            if self.process.stdout is not None:
                self.process.stdout.close()

    def _left_ones_end(self) -> bool:
        """Whether nothing is left of its group, which is asked to end if need be."""
        if not _group_lives(self.process.pid, 0.0):
            return True
        self._signal_group(signal.SIGTERM)
        return not _group_lives(self.process.pid)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


@contextlib.contextmanager
def child(
    command: Sequence[str],
    log: Path | None = None,
    *,
    name: str = "the server",
    environment: Mapping[str, str] | None = None,
    inherit: Sequence[int] = (),
    append: bool = False,
) -> Iterator[Child]:
    """`Child.start`, ended with the block."""
    started: Child | None = None
    try:
        started = Child.start(
            command, log, name=name, environment=environment, inherit=inherit, append=append
        )
        yield started
    finally:
        if started is not None:
            started.stop()


def ending(status: int) -> str:
    """How a process ended, for people. status: of Popen, or 128 + a signal as shells report it."""
    number = -status if status < 0 else status - 128
    if number <= 0 or number not in set(signal.Signals):
        return f"exit status {status}"
    name = signal.Signals(number).name
    return f"{name}, out of memory?" if name == "SIGKILL" else name


def tail(log: Path, lines: int = LOG_LINES) -> list[str]:
    """The last lines of a log, none of them endless; empty where there is no log."""
    with contextlib.suppress(OSError), log.open(encoding="utf-8", errors="replace") as stream:
        return [line.rstrip()[:LINE_LENGTH] for line in deque(stream, maxlen=lines)]
    return []


def last_line(log: Path) -> str:
    """The last line of a log that says anything."""
    said = [line.strip() for line in tail(log, 100) if line.strip()]
    return said[-1] if said else "it said nothing"


def free_port(preferred: int = 0) -> int:
    """A port of 127.0.0.1 that nobody listens on, the preferred one if it is free.

    It is kept bound, without listening, while this process lives (of many, the last 64). A server
    that allows addresses to be used again, as all do that are started here, can listen on it;
    whoever asks the system for a port, or connects from one, is given another.

    Raises:
        UserError: there is none.
    """
    for port in dict.fromkeys((preferred, 0)):
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(("127.0.0.1", port))
        except OSError:
            held.close()
            continue
        _HELD.append(held)
        if len(_HELD) > _MAX_HELD:
            _HELD.popleft().close()
        return int(held.getsockname()[1])
    raise UserError("no free port on 127.0.0.1")


def healthy(url: str, headers: Mapping[str, str] | None = None, seconds: float = 5.0) -> bool:
    """Whether a server answers at /health. No proxy is asked on the way."""
    import httpx

    with contextlib.suppress(httpx.TransportError):
        reply = httpx.get(f"{url}/health", headers=headers, timeout=seconds, trust_env=False)
        return reply.status_code == 200
    return False


def end_with_parent(of: int | None = None) -> Callable[[], None] | None:
    """A `preexec_fn`: SIGTERM when this process is gone, however it went (Linux only). of: another
    one, in whose child it is called."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), of or os.getpid()

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return arrange


def outlive_parent() -> None:
    """Take back what `end_with_parent` arranged, in the process that it was arranged for."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)


def _listening(port: int) -> set[str]:
    """The sockets that listen on a port, as /proc/PID/fd names them."""
    found = set()
    here = f":{port:04X} "  # of the local address, or of the remote one
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), (_PROC_NET / table).open() as rows:
            for row in rows:
                if here not in row:
                    continue  # A machine that serves has thousands of connections.
                fields = row.split()
                if fields[3] == _LISTEN and fields[1].endswith(here.rstrip()):
                    found.add(f"socket:[{fields[9]}]")
    return found


def _holds(session: int, sockets: set[str]) -> bool:
    """Whether a process of a session has one of these sockets open."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if os.getsid(int(folder.name)) != session:
                continue
            try:
                names = os.listdir(folder / "fd")
            except PermissionError:
                return True
            for name in names:
                with contextlib.suppress(OSError):
                    if os.readlink(folder / "fd" / name) in sockets:
                        return True
    return False


def _group_lives(group: int, seconds: float = 5.0) -> bool:
    """Whether some process of a group is there for all of these seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        if time.monotonic() >= end:
            return True
        time.sleep(0.1)
