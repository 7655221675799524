"""Secrets out of what outlives or surrounds a process: a log on disk, the list of processes."""

import contextlib
import ctypes
import sys
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import uninterrupted
from sglang_qwen3next_eagle3.base.redact import is_secret, text_without_secrets

_ARG_START = 48 - 3
"""Field of /proc/self/stat (proc(5)), counted from the one behind the name and the state."""


def mask_log(log: Path) -> None:
    """Mask the secrets in a log that is written to the end.

    Whatever ended its process: that is told, and not that its log could not be written. Nothing
    interrupts this, since the log would keep its secrets.
    """
    # Not for --help, which hides the command line's.
    from sglang_qwen3next_eagle3.base import files

    with uninterrupted(), contextlib.suppress(OSError):
        if log.is_file():
            with log.open(encoding="utf-8", errors="replace") as printed:
                files.write_text(log, "".join(map(text_without_secrets, printed)))


def hide_in_process_list() -> None:
    """Overwrite the secrets in this process's command line, as `ps` shows it to everybody on the
    machine, with stars (Linux only). Python keeps its own copy: sys.argv stays as it is."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
        spans = list(_secrets(words))
        if not spans:
            return
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begin = int(fields[_ARG_START])
        if begin:
            for start, length in spans:
                ctypes.memset(begin + start, ord("*"), length)


def _secrets(words: list[bytes]) -> "list[tuple[int, int]]":
    """Where in the command line they stand: offset and length, in bytes."""
    found: list[tuple[int, int]] = []
    place, follows = 0, False
    for word in words:
        flag, equals, value = word.partition(b"=")
        named = is_secret(flag.decode(errors="replace")) if flag.startswith(b"--") else False
        if follows:
            found.append((place, len(word)))
        elif equals and named:
            found.append((place + len(flag) + 1, len(value)))
        follows = not follows and named and not equals
        place += len(word) + 1
    return [span for span in found if span[1]]
