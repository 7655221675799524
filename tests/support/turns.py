"""Who asks its server while others that share its GPUs wait."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def own_turn(file: Path | None) -> Iterator[None]:
    """Nobody else has a turn of the same file meanwhile, in this process or another; None: there
    are no turns."""
    if file is None:
        yield
        return
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
