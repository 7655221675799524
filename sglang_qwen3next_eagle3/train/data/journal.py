"""Finished work that outlives a killed process: JSONL, synced line by line, keyed by id."""

import json
import os
from pathlib import Path
from typing import Any, Self

from sglang_qwen3next_eagle3.base.errors import UserError


class Journal:
    """with Journal(path, header) as journal: every entry is on disk once `append` returns.

    header: what all entries have in common; a journal with another one is refused.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Open it, and cut off a last line that a kill or a full disk left unfinished.

        Raises:
            UserError: another header, or broken before its last line.
        """
        self._path, self._places = path, dict[str, int]()
        self._stream = path.open("r+b" if path.exists() else "w+b")
        end = 0
        for number, line in enumerate(self._stream, 1):
            if not line.endswith(b"\n"):
                break
            entry = self._parse(number, line)
            if number == 1 and entry != header:
                raise UserError(f"{path} was begun with {entry}, now it is {header}: undo that")
            if number > 1:
                self._places[entry["id"]] = end
            end += len(line)
        self._stream.truncate(end)
        self._end = end
        if not end:
            self._write(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> dict[str, Any]:
        self._stream.seek(self._places[name])
        entry: dict[str, Any] = json.loads(self._stream.readline())
        return entry

    def append(self, entry: dict[str, Any]) -> None:
        """entry: with an `id` that is not in here yet."""
        place = self._end
        self._write(entry)
        self._places[entry["id"]] = place

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        self._stream.seek(self._end)
        self._stream.write(line)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._end += len(line)

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or (number > 1 and not isinstance(entry.get("id"), str)):
            raise UserError(f"{self._path}:{number} is broken: remove that line and start again")
        return entry
