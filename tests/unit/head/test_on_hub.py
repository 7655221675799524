"""A head on the hub is inspected by ranges: its weights stay there."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from sglang_qwen3next_eagle3 import __main__
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import record as aux_record
from sglang_qwen3next_eagle3.head.files import Folder, OnHub, content_hash
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.head.record import AuxRecord
from sglang_qwen3next_eagle3.model import hub
from tests.support.checkpoints import CODER_NEXT, write_config
from tests.support.fake_hub import COMMIT, FakeHub, serving
from tests.support.heads import BAD, CONFIG, TARGET, published, random_tensors, write

NAME = "org/head"


@pytest.fixture(autouse=True)
def no_calibrations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "head", CONFIG, random_tensors(CONFIG))


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving(NAME, folder) as fake:
        point_at(fake, monkeypatch)
        yield fake


def point_at(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", partial(HfApi, endpoint=fake.url))


def test_a_head_on_the_hub_is_the_head_in_the_folder(served: FakeHub, folder: Path) -> None:
    remote, local = Head.from_files(OnHub(NAME)), Head.from_path(folder)
    assert str(remote.path) == NAME
    assert remote.config == local.config
    assert remote.tensors == local.tensors
    assert remote.vocabulary == local.vocabulary


def test_the_weights_of_the_published_head_stay_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = write_config(tmp_path / "target", CODER_NEXT)
    with serving(NAME, published(tmp_path / "published")) as fake:
        point_at(fake, monkeypatch)
        assert __main__.main(["head", "inspect", NAME, "--target", str(target), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["facts"]["parameters"] == 145_235_968
    assert report["facts"]["t2d_agrees"] is True
    # d2t and t2d are 408 kB, the first range of the header 64 kB; the file is 291 MB.
    assert fake.sent < 500_000


def test_a_truncated_file_is_found_by_its_listed_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = write_config(tmp_path / "target", TARGET)
    with serving(NAME, BAD["truncated file"].make(tmp_path / "head")) as fake:
        point_at(fake, monkeypatch)
        assert __main__.main(["head", "inspect", NAME, "--target", str(target)]) == 2
    assert "org/head/model.safetensors is not a whole safetensors file" in capsys.readouterr().out


def test_a_server_without_ranges_is_read_all_the_same(served: FakeHub, folder: Path) -> None:
    served.ranges = False
    assert Head.from_files(OnHub(NAME)).vocabulary == Head.from_path(folder).vocabulary


def test_what_was_listed_is_what_is_read(served: FakeHub) -> None:
    assert OnHub(NAME, "main").revision == COMMIT


def test_a_repository_that_is_not_there_is_one_line(served: FakeHub) -> None:
    with pytest.raises(UserError, match="head org/absent is not on the hub"):
        OnHub("org/absent", what="head")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", partial(HfApi, endpoint="http://127.0.0.1:9"))
    with pytest.raises(UserError, match="the hub cannot be reached"):
        hub.Remote(NAME, what="head")


def test_a_calibration_is_found_without_reading_the_weights(served: FakeHub, folder: Path) -> None:
    head = content_hash(Folder(folder))
    assert head is not None
    size = (folder / "model.safetensors").stat().st_size
    record = AuxRecord(head, size, "output:1,2,3", "2026-01-31")
    aux_record.save(record, aux_record.default_path(record))
    files = OnHub(NAME)
    served.sent = 0
    assert aux_record.find(files) == record
    assert served.sent == 0
