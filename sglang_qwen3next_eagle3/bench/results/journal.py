"""The folder of a benchmark: every finished pass is kept, so that a rerun goes on.

result.json, report.md, plots/   made from the rest, again after every run
request.json                     what is measured; another request does not go into this folder
configurations.json              the servers so far
passes/                          a file a pass, with every sample
servers/, logs/                  profiles and logs of the servers
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.configurations import slug
from sglang_qwen3next_eagle3.bench.load.load import Pass
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Sample


@dataclass(frozen=True, order=True)
class Key:
    """Which pass."""

    configuration: str
    suite: str
    batch: int
    repetition: int
    simulated_accept_length: float | None = None

    @property
    def file(self) -> str:
        length = self.simulated_accept_length
        simulated = "" if length is None else f"-a{length:g}"
        name = f"{slug(self.configuration)}-{slug(self.suite)}-b{self.batch}"
        return f"{name}{simulated}-r{self.repetition}.json"


class Journal:
    """What has been measured in a folder. stamp: what the passes of this process are made with."""

    def __init__(self, folder: Path, stamp: Mapping[str, Any] | None = None) -> None:
        self.folder, self._stamp = folder, dict(stamp or {})

    def passes(self) -> dict[Key, Pass]:
        """Raises UserError: a file that is not a pass."""
        found = {}
        for path in self._files():
            try:
                data = _read(path)
                samples = [Sample.model_validate(sample) for sample in data["samples"]]
                failures = [(prompt, why) for prompt, why in data["failures"]]
                found[Key(**data["key"])] = Pass(samples, failures, data["seconds"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path} is damaged ({error}): delete it, and it is measured again"
                ) from None
        return found

    def has(self, key: Key) -> bool:
        return (self.folder / "passes" / key.file).is_file()

    def stamps(self) -> list[dict[str, Any]]:
        """What the passes were made with: one entry for each that differs, the oldest first."""
        found: list[dict[str, Any]] = []
        for path in sorted(self._files(), key=lambda path: path.stat().st_mtime_ns):
            stamp = _read(path).get("made_with") or {}
            if stamp not in found:
                found.append(stamp)
        return found

    def take(self, other: "Journal") -> int:
        """Every pass of another journal that is not here, as it is; how many were here already.

        Raises:
            UserError: a file of it is damaged, or its servers are others by the same names.
        """
        here = self.configurations()
        for name, row in other.configurations().items():
            self.admit(row)
            if name not in here or here[name].status != "ok":
                self.note(row)
        keys = other.passes()
        new = [key for key in keys if not self.has(key)]
        (self.folder / "passes").mkdir(parents=True, exist_ok=True)
        for key in new:
            # With its time, by which `stamps` sorts.
            shutil.copy2(other.folder / "passes" / key.file, self.folder / "passes" / key.file)
        return len(keys) - len(new)

    def _files(self) -> list[Path]:
        return sorted((self.folder / "passes").glob("*.json"))

    def add(self, key: Key, measured: Pass) -> None:
        # The text of simulated acceptance is one token, over and over.
        left_out = {"output_ids"} if key.simulated_accept_length is not None else None
        data = {
            "key": asdict(key),
            "made_with": self._stamp,
            "seconds": measured.seconds,
            "failures": measured.failures,
            "samples": [sample.model_dump(exclude=left_out) for sample in measured.samples],
        }
        _write(self.folder / "passes" / key.file, data)

    def configurations(self) -> dict[str, Configuration]:
        """Raises UserError: the file that keeps them is damaged."""
        path = self.folder / "configurations.json"
        if not path.is_file():
            return {}
        try:
            return {n: Configuration.model_validate(entry) for n, entry in _read(path).items()}
        except ValidationError:
            raise UserError(f"{path} is damaged: choose another --out") from None

    def admit(self, configuration: Configuration) -> None:
        """Raises UserError: passes under this name, or in its files, are of another server."""
        for name, there in self.configurations().items():
            same = (there.argv, there.environment, there.algorithm, there.tree) == (
                configuration.argv, configuration.environment, configuration.algorithm,
                configuration.tree,
            )  # fmt: skip
            if name != configuration.name and slug(name) != slug(configuration.name):
                continue
            if not same or name != configuration.name:
                raise UserError(
                    f"{self.folder} holds passes of another server that goes by {name}: "
                    "choose another --out, or the same options to go on"
                )

    def note(self, configuration: Configuration) -> None:
        """Keep what is known of a server."""
        known = {**self.configurations(), configuration.name: configuration}
        data = {name: entry.model_dump() for name, entry in known.items()}
        _write(self.folder / "configurations.json", data)


@contextmanager
def claim(
    folder: Path, request: Mapping[str, Any], stamp: Mapping[str, Any] | None = None
) -> Iterator[Journal]:
    """The folder for this process alone.

    request: JSON that says what is measured. stamp: what the passes are made with.

    Raises:
        UserError: another process is at it, or it holds another benchmark, or something else.
    """
    wanted = json.loads(json.dumps(request))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}): choose another --out"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another benchmark writes to {folder}: choose another --out") from None
        path = folder / "request.json"
        if path.is_file():
            if (folder / "passes").is_dir():
                refuse_another(folder, _read(path), wanted)
            # Nothing was measured yet: whatever was asked for before does not bind.
            _write(path, wanted)
        elif any(folder.iterdir()):
            raise UserError(f"{folder} holds something else: choose a new folder for --out")
        else:
            _write(path, wanted)
        yield Journal(folder, stamp)
    finally:
        os.close(handle)


@contextmanager
def reading(folder: Path) -> Iterator[Journal]:
    """A folder as it is, and nothing is written to it. Raises UserError: it is being measured."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield Journal(folder)
    except BlockingIOError:
        raise UserError(f"{folder} is being measured: wait until it is done") from None
    finally:
        os.close(handle)


def request_of(folder: Path) -> dict[str, Any]:
    """What is measured in a folder. Raises UserError: it is none of `claim`."""
    path = folder / "request.json"
    if not path.is_file():
        raise UserError(f"{folder} is no folder of `bench run` or `bench speed`: no request.json")
    return _read(path)


def refuse_another(folder: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises UserError: what a folder holds is not what is wanted."""
    differing = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
    if differing:
        key = sorted(differing)[0]
        raise UserError(
            f"{folder} holds a benchmark with another {key} ({there.get(key)!r}, now "
            f"{wanted.get(key)!r}): choose another --out, or give the same options to go on"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = f"{path} is damaged ({error})"
        raise UserError(f"{reason}: delete it, or choose another --out") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged: delete it, or choose another --out")
    return data


def _write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(data) + "\n", encoding="utf-8")
    os.replace(beside, path)
