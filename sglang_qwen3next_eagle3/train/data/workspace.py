"""A folder that is either finished or can be started again, whenever the process was killed.

prepare.json   written last: the folder is finished
.prepare/      until then: scratch, the journal of answers, and request.json, which says for
               which arguments all this holds
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError

REPORT = "prepare.json"
_WORK = ".prepare"
_REQUEST = "request.json"


@dataclass(frozen=True)
class Workspace:
    """report: that of a finished folder, else None; work: scratch, gone once it is finished."""

    out: Path
    work: Path
    request: Mapping[str, Any]
    report: dict[str, Any] | None

    def bind(self) -> None:
        """From now on something here is worth keeping: other arguments are refused."""
        write_json(self.work / _REQUEST, self.request)

    def unbind(self) -> None:
        """Nothing here is worth keeping after all."""
        (self.work / _REQUEST).unlink(missing_ok=True)

    def publish(self, names: list[str], report: Mapping[str, Any]) -> None:
        """Move finished files out of `work`, then write the report that makes them count."""
        for name in names:
            os.replace(self.work / name, self.out / name)
        _sync_folder(self.out)
        write_json(self.out / REPORT, report)
        shutil.rmtree(self.work)


@contextmanager
def claim(out: Path, request: Mapping[str, Any]) -> Iterator[Workspace]:
    """The folder, for this process alone. request: JSON that determines the outcome.

    A failure before `bind` leaves no trace.

    Raises:
        UserError: it holds something else, was made or begun with another request, was changed
            since, or another process is at it.
    """
    request = json.loads(json.dumps(request))
    _refuse_other_content(out)
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is preparing {out}: wait for it") from None
        except OSError:
            pass  # Some network file systems lock no folders; alone in it, one needs no lock.
        _refuse_other_content(out)
        work = out / _WORK
        if (out / REPORT).exists():
            report = _finished(out, request)
            shutil.rmtree(work, ignore_errors=True)
            yield Workspace(out, work, request, report)
            return
        work.mkdir(exist_ok=True)
        begun = work / _REQUEST
        if begun.exists():
            _refuse_other_request(out, "begun", _read_json(begun), request)
        workspace = Workspace(out, work, request, None)
        try:
            yield workspace
        except BaseException:
            if not begun.exists():
                shutil.rmtree(work, ignore_errors=True)
                if not any(out.iterdir()):
                    out.rmdir()
            raise
    finally:
        os.close(handle)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically: the file is the old one or the new one, also after a loss of power."""
    temporary = path.with_name(f"{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _refuse_other_content(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder with --out")
    if not out.exists() or (out / REPORT).exists() or (out / _WORK).exists():
        return
    other = next(out.iterdir(), None)
    if other is not None:
        raise UserError(
            f"{out} holds something else ({other.name}): name a new or empty folder with --out"
        )


def _finished(out: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    report = _read_json(out / REPORT)
    files = report.get("files")
    if not isinstance(report.get("request"), dict) or not isinstance(files, dict):
        raise UserError(f"{out / REPORT} is not a report of `train prepare`: use another folder")
    _refuse_other_request(out, "prepared", report["request"], request)
    for name, entry in files.items():
        if not (out / name).is_file() or sha256(out / name) != entry["sha256"]:
            raise UserError(
                f"{out / name} is not what was prepared: remove {out} and prepare it again"
            )
    return report


def _refuse_other_request(
    out: Path, how: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    difference = _first_difference("", old, new)
    if difference is not None:
        raise UserError(
            f"{out} was {how} with other arguments ({difference}): "
            "repeat those, name another folder with --out, or remove this one"
        )


def _first_difference(at: str, old: object, new: object) -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(key, old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else f"{at.lstrip('.')}: {_short(old)}, now {_short(new)}"
    found = (_first_difference(f"{at}.{key}", a, b) for key, a, b in pairs)
    return next((difference for difference in found if difference), None)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        raise UserError(f"{path} is not JSON: remove {path.parent} and start again") from None
    return value if isinstance(value, dict) else {}


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
