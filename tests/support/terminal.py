"""A program on a terminal of its own, and the keys that are typed there."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
PASTE = "\x1b[200~{}\x1b[201~"
"""What a terminal sends for a paste where the program asked to be told of it."""
# Long: what is tested is what comes, not when.
PATIENCE = 120.0


class Terminal:
    """shown: all that the program has written so far."""

    def __init__(self, process: "subprocess.Popen[bytes]", end: int) -> None:
        self.process, self._end = process, end
        self.shown = ""
        self._seen = 0

    def type(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def wait_for(self, text: str, seconds: float = PATIENCE) -> str:
        """What is shown up to and with this text, from where the last call left off."""
        until = time.monotonic() + seconds
        while (at := self.shown.find(text, self._seen)) < 0:
            if not self._read(until - time.monotonic()):
                raise AssertionError(f"{text!r} did not come after {self.shown[self._seen :]!r}")
        begun, self._seen = self._seen, at + len(text)
        return self.shown[begun : self._seen]

    def shows(self, text: str) -> bool:
        """Whether `wait_for` would find it at once."""
        while self._read(0.01):
            pass
        return text in self.shown[self._seen :]

    def ended(self, seconds: float = PATIENCE) -> int:
        """The exit status, once the program has ended."""
        until = time.monotonic() + seconds
        while self._read(until - time.monotonic()):
            pass
        return self.process.wait(seconds)

    def _read(self, seconds: float) -> bool:
        if seconds <= 0 or not select.select([self._end], [], [], seconds)[0]:
            return False
        try:
            received = os.read(self._end, 65536)
        except OSError:  # The other end is closed.
            return False
        self.shown += received.decode(errors="replace")
        return bool(received)


@contextmanager
def terminal(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """The command in the foreground of a new terminal; killed with the block."""
    ours, theirs = pty.openpty()
    # A session of its own, whose terminal this is, so that Ctrl-C is a signal.
    code = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "INPUTRC": "/dev/null", **environment},
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(ours)
