"""base/files: a file is the old one or the new one, and an error is one line."""

import hashlib
import os
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base import files
from sglang_qwen3next_eagle3.base.errors import UserError


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    files.write_json(path, {"naïve": [1, None]})
    assert files.read_json(path, "delete it") == {"naïve": [1, None]}
    assert path.read_text(encoding="utf-8").endswith("}\n")
    assert [each.name for each in path.parent.iterdir()] == ["a.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fail() -> None:
        with files.replacing(path) as beside:
            beside.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b'{"a": ', "is damaged (Expecting value"),
        (b"\xff\xfe", "is damaged ('utf-8' codec"),
        (b"[1]", "is damaged (it holds no JSON object)"),
        (None, "is not there"),
    ],
)
def test_what_is_no_json_object_is_told_in_one_line_with_the_way_out(
    tmp_path: Path, content: bytes | None, cause: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        files.read_json(path, "make it again")
    message = str(caught.value)
    assert message.startswith(f"{path} {cause}")
    assert message.endswith(": make it again")
    assert "\n" not in message


def test_a_folder_in_the_place_of_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\): name a file"):
        files.read_json(tmp_path, "name a file")


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_bytes(path, os.urandom(100_000))
    assert files.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path, there: bool) -> None:
    named, link = tmp_path / "elsewhere" / "a.txt", tmp_path / "link"
    if there:
        files.write_text(named, "old")
    link.symlink_to(named)
    files.write_text(link, "new")
    assert link.is_symlink()
    assert named.read_text() == "new"
    assert not named.is_symlink()
    assert list(named.parent.iterdir()) == [named]


def test_what_is_no_regular_file_is_written_to(tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for path in (fifo, link):
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        files.write_text(path, "said")
        assert os.read(reader, 10) == b"said"
        os.close(reader)
    files.write_text(Path(os.devnull), "nothing")
    assert fifo.is_fifo()
    assert {each.name for each in tmp_path.iterdir()} == {"fifo", "link"}


def test_the_home_of_a_user_that_is_not_there_is_no_crash() -> None:
    assert files.expanded("~") == Path.home()
    assert files.expanded("~no-such-user/x") == Path("~no-such-user/x")


def test_json_that_is_nested_too_deeply_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"is damaged \(it is nested too deeply\): delete it"):
        files.read_json(tmp_path / "a.json", "delete it")
