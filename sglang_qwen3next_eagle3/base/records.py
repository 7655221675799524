"""Records of any shape, one by one: of JSONL, JSON and Parquet files, and of hub data sets."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from sglang_qwen3next_eagle3.base.errors import UserError, one_line

_CHUNK = 1 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Record:
    """number: the row or item, from 1; line: where it starts in a text file; problem: why `value`
    could not be read."""

    number: int
    line: int | None
    value: object = None
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class HubRows:
    """A split of a data set. identity: what tells its content from another; count: of its rows."""

    identity: dict[str, Any]
    count: int
    rows: Any

    def records(self) -> Iterator[Record]:
        return (Record(number, None, row) for number, row in enumerate(self.rows, 1))


def open_hub(
    name: str,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
) -> HubRows:
    """Download a data set, with the hub's own progress bars and cache. split: `train` if None.

    Raises:
        UserError: not there, not reachable, no such split.
    """
    try:
        import datasets  # type: ignore[import-untyped]
        from datasets.exceptions import (  # type: ignore[import-untyped]
            DatasetNotFoundError,
            DatasetsError,
        )
    except ImportError:
        raise UserError(
            f"{name}: hub data sets need `pip install datasets`; or give a local file"
        ) from None
    what, split = f"data set {name}", split or "train"
    try:
        loaded = datasets.load_dataset(name, config, split=split, revision=revision)
    except DatasetNotFoundError as error:
        raise UserError(
            f"{what} is not on the hub (or private or gated: set HF_TOKEN), nor is there such a "
            f"file: {one_line(error)}"
        ) from None
    except ConnectionError as error:
        raise UserError(
            f"{what} is neither a local file nor in the local cache, and the hub cannot be reached "
            f"({one_line(error)}): go online, or download it elsewhere and give the file"
        ) from None
    except (DatasetsError, ValueError, RuntimeError) as error:
        raise UserError(f"{what}, split {split}: {one_line(error)}") from None
    except OSError as error:
        raise UserError(f"{what} cannot be read or stored: {one_line(error)}") from None
    identity = {
        "dataset": name,
        "config": loaded.info.config_name or config,
        "split": split,
        "revision": revision,
        "fingerprint": loaded._fingerprint,
    }
    return HubRows(identity, len(loaded), loaded)


def read_file(path: Path) -> Iterator[Record]:
    """The records of a JSONL file, of a JSON file with one array, or of a Parquet file; the first
    two may be gzipped. Which it is shows in the bytes, not in the name.

    Raises:
        UserError: the file is not there, or cut short so that what follows cannot be told.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    with raw:
        magic = raw.read(4)
        raw.seek(0)
        if magic == b"PAR1":
            yield from _parquet(raw, path)
            return
        stream = gzip.GzipFile(fileobj=raw) if magic[:2] == b"\x1f\x8b" else raw
        try:
            head = stream.peek(64).removeprefix(_BOM).lstrip()
            yield from _array(stream, path) if head[:1] == b"[" else _lines(stream)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: the gzip file is broken ({one_line(error)})") from None


def _lines(stream: io.BufferedIOBase) -> Iterator[Record]:
    for number, line in enumerate(stream, 1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.strip():
            yield _json_line(number, text)


def _json_line(number: int, text: bytes) -> Record:
    try:
        return Record(number, number, json.loads(text.decode()))
    except UnicodeDecodeError as error:
        problem = ("not_utf8", f"byte {error.start + 1} is not UTF-8")
    except json.JSONDecodeError as error:
        problem = ("not_json", f"{error.msg} at column {error.colno}")
    except RecursionError:
        problem = ("not_json", "nested too deeply")
    except ValueError:  # Python reads no number of more than 4,300 digits.
        problem = ("not_json", "a number of thousands of digits")
    return Record(number, number, problem=problem)


def _array(stream: io.BufferedIOBase, path: Path) -> Iterator[Record]:
    """The items of one JSON array, without holding the whole of it: ShareGPT is 640 MB of one."""
    decoder = json.JSONDecoder()
    text = io.TextIOWrapper(cast(BinaryIO, stream), "utf-8-sig")
    buffer, at, line, number = "", 0, 1, 0

    def skip(pattern: re.Pattern[str]) -> None:
        nonlocal at, line
        end = pattern.match(buffer, at).end()  # type: ignore[union-attr]
        line += buffer.count("\n", at, end)
        at = end

    def more() -> bool:
        nonlocal buffer, at
        # As much again as could not be decoded, so that a long item costs linear time.
        read = text.read(max(_CHUNK, len(buffer) - at))
        buffer, at = buffer[at:] + read, 0
        return bool(read)

    try:
        while "[" not in buffer:
            more()
        skip(re.compile(r"\s*\["))
        while True:
            skip(re.compile(r"[\s,]*"))
            if at == len(buffer) and more():
                continue
            if buffer[at : at + 1] == "]":
                return
            try:
                value, end = decoder.raw_decode(buffer, at)
            except json.JSONDecodeError as error:
                if more():
                    continue
                raise UserError(
                    f"{path}:{line}: item {number + 1} of the JSON array is broken or cut short "
                    f"({error.msg}): fetch the file again, or convert it to JSONL"
                ) from None
            number += 1
            yield Record(number, line, value)
            line += buffer.count("\n", at, end)
            at = end
    except UnicodeDecodeError:
        raise UserError(f"{path}:{line}: not UTF-8 in item {number + 1} or after it") from None
    except RecursionError:
        raise UserError(f"{path}:{line}: item {number + 1} is nested too deeply") from None


def _parquet(stream: BinaryIO, path: Path) -> Iterator[Record]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(f"{path}: Parquet files need `pip install pyarrow`") from None
    try:
        number = 0
        for batch in ParquetFile(stream).iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield Record(number, None, row)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: {one_line(error)}") from None
