"""A folder that is either finished or can be started again, whenever the process was killed.

prepare.json   written last: the folder is finished
.prepare/      until then: scratch, the journal of answers, and request.json, which says for
               which arguments all this holds
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import files, workfolder
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
        files.write_json(self.work / _REQUEST, self.request)

    def unbind(self) -> None:
        """Nothing here is worth keeping after all."""
        (self.work / _REQUEST).unlink(missing_ok=True)

    def publish(self, names: list[str], report: Mapping[str, Any]) -> None:
        """Move finished files out of `work`, then write the report that makes them count."""
        for name in names:
            os.replace(self.work / name, self.out / name)
        files.sync(self.out)
        files.write_json(self.out / REPORT, report)
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
    marks = {REPORT, _WORK}
    workfolder.refuse_other_content(out, marks)
    out.mkdir(parents=True, exist_ok=True)
    with workfolder.lock(out, f"another process is preparing {out}: wait for it"):
        workfolder.refuse_other_content(out, marks)
        for path in filter(files.is_unfinished, out.iterdir()):
            path.unlink()
        work = out / _WORK
        if (out / REPORT).exists():
            report = _finished(out, request)
            shutil.rmtree(work, ignore_errors=True)
            yield Workspace(out, work, request, report)
            return
        work.mkdir(exist_ok=True)
        begun = work / _REQUEST
        if begun.exists():
            old = files.read_json(begun, f"remove {work} and start again")
            workfolder.refuse_other_request(out, old, request)
        workspace = Workspace(out, work, request, None)
        try:
            yield workspace
        except BaseException:
            if not begun.exists():
                shutil.rmtree(work, ignore_errors=True)
                if not any(out.iterdir()):
                    out.rmdir()
            raise


def _finished(out: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    report = files.read_json(out / REPORT, f"remove {out} and prepare it again")
    written = report.get("files")
    if not isinstance(report.get("request"), dict) or not isinstance(written, dict):
        raise UserError(f"{out / REPORT} is not a report of `train prepare`: use another folder")
    workfolder.refuse_other_request(out, report["request"], request, "prepared")
    for name, entry in written.items():
        if not (out / name).is_file() or files.sha256(out / name) != entry["sha256"]:
            raise UserError(
                f"{out / name} is not what was prepared: remove {out} and prepare it again"
            )
    return report
