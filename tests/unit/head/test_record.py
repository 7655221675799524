from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import record as aux_record
from sglang_qwen3next_eagle3.head.files import Folder, content_hash
from sglang_qwen3next_eagle3.head.record import FILE, AuxRecord
from tests.support.heads import CONFIG, random_tensors, write


@pytest.fixture(autouse=True)
def config_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def head(tmp_path: Path) -> Path:
    return write(tmp_path / "head", CONFIG, random_tensors(CONFIG))


def record_of(folder: Path, selection: str = "output:3,7,11") -> AuxRecord:
    files = Folder(folder)
    content = content_hash(files)
    assert content is not None
    size = files.sizes["model.safetensors"]
    return AuxRecord(content, size, selection, "2026-01-31", {"prompts": 3})


def test_what_is_saved_is_found_by_the_head_s_weights(head: Path, config_home: Path) -> None:
    assert aux_record.find(Folder(head)) is None
    record = record_of(head)
    path = aux_record.default_path(record)
    aux_record.save(record, path)
    assert path == config_home / f"sglang-qwen3next-eagle3/aux_layers/{record.head[:16]}.json"
    assert aux_record.find(Folder(head)) == record
    assert record.source == "calibration of 2026-01-31"


def test_it_stays_with_the_weights_when_the_config_is_corrected(head: Path) -> None:
    record = record_of(head)
    aux_record.save(record, aux_record.default_path(record))
    (head / "config.json").write_text("{}")
    assert aux_record.find(Folder(head)) == record


def test_another_head_of_the_same_size_is_another_head(head: Path, tmp_path: Path) -> None:
    record = record_of(head)
    aux_record.save(record, aux_record.default_path(record))
    other = write(tmp_path / "other", CONFIG, random_tensors(CONFIG, seed=1))
    assert Folder(other).sizes["model.safetensors"] == record.head_bytes
    assert aux_record.find(Folder(other)) is None


def test_a_record_beside_the_weights_wins_over_the_user_s(head: Path) -> None:
    mine, shipped = record_of(head), record_of(head, "output:1,2,3")
    aux_record.save(mine, aux_record.default_path(mine))
    aux_record.save(shipped, head / FILE)
    assert aux_record.find(Folder(head)) == shipped


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"aux-layers": "nonsense", "date": "d", "head": {"sha256": "", "bytes": 1}}'],
)
def test_a_file_that_is_no_record_is_refused(head: Path, content: str) -> None:
    (head / FILE).write_text(content)
    with pytest.raises(UserError, match="is not a calibration: delete it"):
        aux_record.find(Folder(head))


def test_a_folder_that_cannot_be_written_is_one_line(head: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*give another file with --out"):
        aux_record.save(record_of(head), tmp_path / "file" / "record.json")


@pytest.mark.parametrize("content", ["", "{}", '{"aux-layers": 3'])
def test_a_damaged_record_of_another_head_is_named_and_passed_over(
    head: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = record_of(head)
    aux_record.save(record, aux_record.default_path(record))
    other = aux_record.folder() / "0123456789abcdef.json"
    other.write_text(content)
    assert aux_record.find(Folder(head)) == record
    assert f"{other} is not a calibration" in caplog.text
    aux_record.default_path(record).unlink()
    assert aux_record.find(Folder(head)) is None


def test_a_damaged_record_of_this_head_is_refused(head: Path) -> None:
    path = aux_record.default_path(record_of(head))
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(UserError, match="is not a calibration: delete it"):
        aux_record.find(Folder(head))
