"""What a checkpoint's folder may lack, found by headers alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.model import hub, shards
from tests.support.checkpoints import break_files, write_sharded

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sharded(tmp_path / "target")


def test_a_whole_checkpoint_is_its_index_s_files(folder: Path) -> None:
    shards.check(Folder(folder))
    found = shards.headers(Folder(folder))
    assert {name: file for name, (file, _) in found.items()} == {"a": FIRST, "b": SECOND}
    # As SGLang does: what the index does not name is not loaded.
    save_file({"c": np.zeros(2, np.float32)}, folder / "consolidated.safetensors")
    assert set(shards.headers(Folder(folder))) == {"a", "b"}


@pytest.mark.parametrize(("how", "words"), break_files(FIRST, SECOND).items())
def test_what_is_not_whole_is_told(
    folder: Path, how: str, words: tuple[Callable[[Path], None], str]
) -> None:
    damage, told = words
    damage(folder)
    with pytest.raises(UserError) as refused:
        shards.check(Folder(folder))
    assert told in str(refused.value), how
    assert "\n" not in str(refused.value)


def test_without_an_index_the_names_count(folder: Path) -> None:
    (folder / hub.INDEX).unlink()
    shards.check(Folder(folder))
    (folder / FIRST).unlink()
    with pytest.raises(UserError, match=f"lacks {FIRST} of its 2 weight files"):
        shards.check(Folder(folder))


@pytest.mark.parametrize(
    ("load_format", "looked_at"),
    [(None, True), ("auto", True), ("safetensors", True), ("dummy", False), ("gguf", False)],
)
def test_what_is_not_loaded_need_not_be_there(
    folder: Path, load_format: str | None, looked_at: bool
) -> None:
    (folder / FIRST).unlink()
    if looked_at:
        with pytest.raises(UserError, match=f"lacks {FIRST}"):
            shards.check_loaded(Folder(folder), load_format)
    else:
        shards.check_loaded(Folder(folder), load_format)


def test_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    save_file({"a": np.zeros(1_000_000, np.float32)}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(json.dumps(["x" * 1_000_000]), encoding="utf-8")
    read = []
    whole = Folder.read

    def counted(self: Folder, file: str, start: int, stop: int) -> bytes:
        read.append(stop - start)
        return whole(self, file, start, stop)

    monkeypatch.setattr(Folder, "read", counted)
    shards.check(Folder(folder))
    assert sum(read) < 70_000
