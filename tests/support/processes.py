"""Looking at processes that are none of ours."""

import os
import time
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
