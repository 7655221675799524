"""base/workfolder: one process, one request, and nobody else's files."""

import fcntl
import os
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base import workfolder
from sglang_qwen3next_eagle3.base.errors import UserError

REQUEST = {"seed": 3, "sources": [{"name": "a", "limit": None}]}


def claimed(folder: Path, request: dict[str, object], bound: bool = True) -> None:
    with workfolder.claim(folder, request, busy="somebody else", bound=lambda: bound):
        pass


def test_the_same_request_goes_on_and_another_is_refused_with_what_differs(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "work"
    claimed(folder, REQUEST)
    claimed(folder, REQUEST)
    with pytest.raises(UserError, match=r"begun with other arguments \(sources\.0\.limit: null,"):
        claimed(folder, {**REQUEST, "sources": [{"name": "a", "limit": 4}]})
    with pytest.raises(UserError, match=r"\(more: null, now true\): repeat those to go on, or"):
        claimed(folder, {**REQUEST, "more": True})
    claimed(folder, REQUEST)


def test_a_request_does_not_bind_before_there_is_anything_to_keep(tmp_path: Path) -> None:
    claimed(tmp_path, REQUEST, bound=False)
    claimed(tmp_path, {"seed": 4}, bound=False)
    claimed(tmp_path, {"seed": 4})


def test_somebody_elses_files_are_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds something else \(thesis\.tex\)"):
        claimed(tmp_path, REQUEST)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file: name a folder"):
        claimed(tmp_path / "thesis.tex", REQUEST)


def test_what_a_killed_first_write_left_is_nobodys_file(tmp_path: Path) -> None:
    (tmp_path / ".request.json.123.part").write_text("{")
    claimed(tmp_path, REQUEST)


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        claimed(tmp_path / "file" / "folder", REQUEST)


def test_a_damaged_request_is_told(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text("{")
    with pytest.raises(UserError, match=r"request\.json is damaged"):
        claimed(tmp_path, REQUEST)


def test_readers_share_and_keep_a_writer_out(tmp_path: Path) -> None:
    with (
        workfolder.lock(tmp_path, "busy", shared=True),
        workfolder.lock(tmp_path, "busy", shared=True),
        pytest.raises(UserError, match="busy"),
        workfolder.lock(tmp_path, "busy"),
    ):
        pass


def test_a_file_system_that_locks_nothing_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(fcntl, "flock", refuse)
    claimed(tmp_path, REQUEST)
    claimed(tmp_path, REQUEST)
