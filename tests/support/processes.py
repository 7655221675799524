"""Looking at processes that are none of ours."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def gone(pid: int, seconds: float = 60.0) -> bool:
    """Whether a process ends within these seconds; one that nobody has reaped has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def marked(mark: str) -> dict[int, str]:
    """The processes in whose environment NAME=VALUE stands, as whoever a test started hands it on,
    with their command lines; those that have ended are left out."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
