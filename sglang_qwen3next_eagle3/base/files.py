"""Files that are whole or not there: atomic writes, JSON with errors of one line, hashes; and where
the data of the project is.

Every write goes to a hidden file beside its place, is flushed to the disk, and takes its place by a
rename: whoever reads sees the old file or the new one, also after a kill or a loss of power.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError

_PART = ".part"


@contextmanager
def replacing(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A path beside `path` to write to; what is there when the block ends becomes `path`.

    For writers that want a path of their own (`torch.save`, `save_file`). Folders above are made.
    A block that raises leaves `path` as it was. scratch: a folder of the same file system to write
    in instead, whose owner clears it after a kill. A link is followed: it stays, and what it names
    is replaced. What is there and no regular file (a FIFO, /dev/null) is written to directly.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    if path.is_symlink():
        path, scratch = path.resolve(), None  # perhaps on another file system
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = (scratch or path.parent) / f".{path.name}.{os.getpid()}{_PART}"
    try:
        yield beside
        sync(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def expanded(path: str | Path) -> Path:
    """With the home folder for a `~` at its beginning; of a user that is not there it stays, and
    no such file is found (`Path.expanduser` raises RuntimeError)."""
    return Path(os.path.expanduser(path))


def is_unfinished(path: Path) -> bool:
    """Whether a write that was killed left this behind; nobody needs it."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def write_bytes(path: Path, content: bytes | memoryview, scratch: Path | None = None) -> None:
    """scratch: as in `replacing`. Raises OSError."""
    with replacing(path, scratch) as beside:
        beside.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """In UTF-8. Raises OSError."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Raises OSError."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError: it is no JSON, or is nested too deeply to be read (`json.loads` raises
    RecursionError)."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, way_out: str) -> dict[str, Any]:
    """The JSON object in a file. way_out: ends the error, for example "delete it".

    Raises:
        UserError: there is no such file, it cannot be read, or it holds something else.
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there: {way_out}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {way_out}") from None
    except ValueError as error:  # also of bytes that are no UTF-8
        raise UserError(f"{path} is damaged ({error}): {way_out}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object): {way_out}")
    return value


def sha256(path: Path) -> str:
    """Of the content, in hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def slug(name: str) -> str:
    """A name as part of a file's name. Several names may become one."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-") or "nameless"


def sync(path: Path) -> None:
    """A file's content, or a folder's names, to the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def data_dir(name: str) -> Path:
    """`launch`, `patches` or a folder of `benchmarks/`: as installed from the wheel, else as it
    stands in a checkout.

    Raises:
        FileNotFoundError: the installation is broken; no place has it.
    """
    return _find(name, Path.is_dir)


def data_file(name: str) -> Path:
    """A file of `benchmarks/`, likewise."""
    return _find(name, Path.is_file)


def _find(name: str, there: Callable[[Path], bool]) -> Path:
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    for candidate in (package / "data" / name, checkout / name, checkout / "benchmarks" / name):
        if there(candidate):
            return candidate
    raise FileNotFoundError(f"{name!r} is not part of this installation: reinstall it")
