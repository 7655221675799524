"""The selection that `head calibrate` measured for a head: a small JSON file that `launch` reads.

It is found by the content of the head's weights, so it goes with a head wherever that is stored,
and not with another head that takes its place. Two places are looked at, in this order:

    aux_layers.json in the head's folder (or its repository on the hub), for who ships the head
    $XDG_CONFIG_HOME/sglang-qwen3next-eagle3/aux_layers/, or under ~/.config, where calibrate writes
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import files as base_files
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head.files import Files, content_hash
from sglang_qwen3next_eagle3.model import aux_layers, shards

logger = logging.getLogger(__name__)

FILE = "aux_layers.json"
NAME_DIGITS = 16
"""Of the head's hash, in the name of its record."""


@dataclass(frozen=True)
class AuxRecord:
    """One calibration.

    head: sha256 of the weights, as `head_files.content_hash` makes it.
    head_bytes: bytes of the weight files; tells most heads apart without hashing them.
    selection: as `aux_layers.parse` reads it.
    date: of the measurement, YYYY-MM-DD.
    measured: figures behind it, for people.
    """

    head: str
    head_bytes: int
    selection: str
    date: str
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return f"calibration of {self.date}"


def folder() -> Path:
    """Where `head calibrate` keeps what it measured."""
    root = os.environ.get("XDG_CONFIG_HOME")
    config = Path(root) if root else Path.home() / ".config"
    return config / "sglang-qwen3next-eagle3" / "aux_layers"


def default_path(record: AuxRecord) -> Path:
    return folder() / f"{record.head[:NAME_DIGITS]}.json"


def save(record: AuxRecord, path: Path) -> None:
    """Write a record, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        base_files.write_json(path, _as_json(record), indent=1)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}): give another file with --out"
        ) from None


def find(files: Files) -> AuxRecord | None:
    """The record of the head with these files, or None.

    Raises:
        UserError: there is one for it that cannot be read. Damaged ones of other heads are named in
            the log and passed over: they are no reason not to serve this one.
    """
    damaged: dict[Path, UserError] = {}
    size = _bytes(files)
    candidates = [record for record in _candidates(files, damaged) if record.head_bytes == size]
    if not candidates and not damaged:
        return None
    head = content_hash(files)
    for path, error in damaged.items():
        # By the name that `default_path` gives it.
        if head is not None and path.stem == head[:NAME_DIGITS]:
            raise error
        logger.warning("%s; it is passed over, as of another head", error)
    return next((record for record in candidates if record.head == head), None)


def _bytes(files: Files) -> int:
    return sum(files.sizes[name] for name in shards.weight_files(files))


def _candidates(files: Files, damaged: dict[Path, UserError]) -> Iterator[AuxRecord]:
    if FILE in files.sizes:
        yield _parse(files.read(FILE, 0, files.sizes[FILE]), f"{files.name}/{FILE}")
    for path in sorted(folder().glob("*.json")):
        try:
            yield _parse(path.read_bytes(), str(path))
        except OSError as error:
            damaged[path] = UserError(f"{path} cannot be read ({error.strerror}): delete it")
        except UserError as error:
            damaged[path] = error


def _as_json(record: AuxRecord) -> dict[str, Any]:
    return {
        "aux-layers": record.selection,
        "date": record.date,
        "head": {"sha256": record.head, "bytes": record.head_bytes},
        "measured": dict(record.measured),
    }


def _parse(content: bytes, where: str) -> AuxRecord:
    try:
        data = base_files.parse_json(content)
        record = AuxRecord(
            head=str(data["head"]["sha256"]),
            head_bytes=int(data["head"]["bytes"]),
            selection=str(data["aux-layers"]),
            date=str(data["date"]),
            measured=dict(data.get("measured") or {}),
        )
        aux_layers.parse(record.selection)
    except (ValueError, KeyError, TypeError, UserError):
        raise UserError(
            f"{where} is not a calibration: delete it and run `head calibrate` again"
        ) from None
    return record
