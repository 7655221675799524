"""A folder that one process works in, and that a later start with the same request goes on with.

`lock` keeps other processes out, `refuse_other_content` other people's files, and
`refuse_other_request` a start that asks for something else. `claim` is all three, with the request
kept in the folder.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import is_unfinished, read_json, write_json

REQUEST = "request.json"
_POLL_SECONDS = 0.2


@contextmanager
def lock(
    path: Path, busy: str, *, shared: bool = False, wait_seconds: float = 0.0
) -> Iterator[int]:
    """A folder, or a lock file (made where it is not there), for this process alone.

    The lock ends with the block, with the process, and not before a child process that inherited
    the handle (what this yields) has ended too. busy: the error's text, whole. shared: many may
    hold it at once, but none beside one that is not shared. wait_seconds: for one who holds it.

    Raises:
        UserError: another process holds it.
        OSError: it is not there, or cannot be made.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    end = time.monotonic() + wait_seconds
    try:
        while not _locked(handle, shared):
            if time.monotonic() >= end:
                raise UserError(busy)
            time.sleep(_POLL_SECONDS)
        yield handle
    finally:
        os.close(handle)


def _locked(handle: int, shared: bool) -> bool:
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # Some network file systems lock no folders, or nothing: alone, one needs no lock.
    return True


@contextmanager
def claim(
    folder: Path, request: Mapping[str, Any], *, busy: str, bound: Callable[[], bool]
) -> Iterator[None]:
    """The folder, made where it is not there, for this process and this request.

    request: JSON that determines the outcome; it is kept in `REQUEST`. bound: whether there is
    something in the folder that is worth keeping; until then another request takes its place.

    Raises:
        UserError: another process is at it, it holds something else, it was begun with another
            request, or it cannot be written.
    """
    wanted = json.loads(json.dumps(request))
    refuse_other_content(folder, {REQUEST})
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}): choose another --out"
        ) from None
    with lock(folder, busy):
        refuse_other_content(folder, {REQUEST})
        if (folder / REQUEST).exists() and bound():
            there = read_json(folder / REQUEST, "delete it, or choose another --out")
            refuse_other_request(folder, there, wanted)
        try:
            write_json(folder / REQUEST, wanted)
        except OSError as error:
            raise UserError(
                f"cannot write to {folder} ({error.strerror}): choose another --out"
            ) from None
        yield


def refuse_other_content(folder: Path, marks: Collection[str]) -> None:
    """marks: names of which one is in every folder of this kind that is not empty.

    Raises:
        UserError: the folder holds something else, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder with --out")
    found = folder.iterdir() if folder.exists() else iter(())
    names = {path.name for path in found if not is_unfinished(path)}
    if names and names.isdisjoint(marks):
        raise UserError(
            f"{folder} holds something else ({min(names)}): name a new or empty folder with --out"
        )


def refuse_other_request(
    folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any], how: str = "begun"
) -> None:
    """how: what was done with the request that is there.

    Raises:
        UserError: what the folder was begun with is not what is wanted.
    """
    difference = first_difference(there, wanted)
    if difference is not None:
        raise UserError(
            f"{folder} was {how} with other arguments ({difference}): "
            "repeat those to go on, or name another folder with --out"
        )


def first_difference(there: object, wanted: object) -> str | None:
    """Where two JSON values differ first, in words: "sources.0.seed: 3, now 4"; None where equal.

    A key that only one of them has counts as null in the other.
    """
    return _difference("", there, wanted)


def _difference(at: str, there: object, wanted: object) -> str | None:
    if isinstance(there, Mapping) and isinstance(wanted, Mapping):
        pairs = [(str(key), there.get(key), wanted.get(key)) for key in {**there, **wanted}]
    elif isinstance(there, list) and isinstance(wanted, list) and len(there) == len(wanted):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(there, wanted, strict=True))]
    else:
        return None if there == wanted else f"{at}: {_short(there)}, now {_short(wanted)}"
    found = (_difference(f"{at}.{key}" if at else key, a, b) for key, a, b in pairs)
    return next((difference for difference in found if difference), None)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else f"{text[:200]}..."
