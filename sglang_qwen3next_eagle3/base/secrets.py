"""Secrets out of what outlives or surrounds a process: a log on disk, the list of processes."""

import contextlib
import ctypes
import logging
import sys
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError, uninterrupted
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


def mask_logger(name: str) -> None:
    """Mask the secrets in all that is logged under this name, before it is written anywhere."""
    logging.getLogger(name).addFilter(_masked)


def _masked(record: logging.LogRecord) -> bool:
    record.msg, record.args = text_without_secrets(record.getMessage()), None
    return True


def read_key(file: Path, what: str) -> str:
    """The key that a file holds, without the white space around it. what: the option that names it.

    Raises:
        UserError: the file cannot be read, or holds none.
    """
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise UserError(f"{what} {file} cannot be read ({reason})") from None
    if not key:
        raise UserError(f"{what} {file} is empty: write the key into it")
    check_key(key)
    return key


def check_key(key: str) -> None:
    """Raises UserError: no header can hold it. A line break too: what refuses it else prints it."""
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise UserError("the API key has letters, spaces or line breaks that no HTTP header holds")


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
