import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train.capture import features
from tests.support.checkpoints import write_config
from tests.support.manifests import CARD, TARGET, manifest_of
from tests.support.small_target import CONFIG


def spelled(text: str) -> AuxSelection:
    parsed = aux_layers.parse(text)
    assert isinstance(parsed, AuxSelection)
    return parsed


def write(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / features.MANIFEST).write_text(json.dumps(content))
    return folder


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = manifest_of(samples_done=2)
    assert features.read_manifest(write(tmp_path, manifest.as_json())) == manifest
    assert manifest.complete
    assert manifest.spelled() == "output:3,7,11 (card)"
    assert not manifest_of(samples_done=1).complete


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ({**manifest_of().as_json(), "version": 0}, "is of version 0, this package reads 1 and 2"),
        ({"version": 1}, "is not a manifest"),
        ({**manifest_of().as_json(), "more": 1}, "is not a manifest"),
        ([], "is not a manifest"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: object, cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        features.read_manifest(write(tmp_path, content))


def test_features_that_do_not_say_what_they_are_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows_0-2000").mkdir()
    with pytest.raises(UserError, match=r"no features\.json, so nothing says of which layers"):
        features.read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["output:3,7,11", "input:4,input:8,output:11"])
def test_the_same_streams_pass_however_they_are_spelled(text: str) -> None:
    features.check_selection(manifest_of(), spelled(text), TARGET)


@pytest.mark.parametrize("text", ["input:3,7,11", "output:3,7,10", "output:3,7", "input:4,8,11"])
def test_features_of_other_layers_are_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(
        UserError,
        match=r"auxiliary layers output:3,7,11 \(card\), not .*--aux-layers output:3,7,11",
    ):
        features.check_selection(manifest_of(), spelled(text), TARGET)


def test_features_of_another_target_are_refused() -> None:
    other = Target({**CONFIG, "rope_theta": 1.0})
    with pytest.raises(UserError, match=r"another target \(some/target; its config.json differs"):
        features.check_selection(manifest_of(), CARD, other)


def write_weights(folder: Path, **of: torch.Tensor) -> Path:
    tensors = {"a": torch.zeros(64, 64), "b": torch.arange(8), **of}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_target_s_folder_has_its_weights_compared_too(tmp_path: Path) -> None:
    folder = write_weights(write_config(tmp_path, CONFIG))
    manifest = manifest_of(weights_sha256=features.weights_sha256(folder))
    features.check_selection(manifest, CARD, folder)
    # A fine-tune: names, shapes and sizes as before, other numbers.
    size = (folder / "model.safetensors").stat().st_size
    write_weights(folder, a=torch.zeros(64, 64) + 1e-3)
    assert (folder / "model.safetensors").stat().st_size == size
    with pytest.raises(UserError, match=r"other weights than those of .*captured from some/target"):
        features.check_selection(manifest, CARD, folder)


def test_weights_in_other_files_are_the_same_weights(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_weights(tmp_path / "one")
    save_file({"a": torch.zeros(64, 64)}, tmp_path / "two" / "model-1.safetensors")
    save_file({"b": torch.arange(8)}, tmp_path / "two" / "model-2.safetensors")
    hashes = {features.weights_sha256(tmp_path / name) for name in ("one", "two")}
    assert len(hashes) == 1
    assert hashes != {features.weights_sha256(tmp_path)}


def test_neither_the_place_nor_the_time_of_a_file_is_part_of_its_weights(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_weights(tmp_path / name)
    os.utime(tmp_path / "two" / "model.safetensors", (1, 1))
    assert features.weights_sha256(tmp_path / "one") == features.weights_sha256(tmp_path / "two")


def test_weights_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"\.bin files: save it as safetensors"):
        features.weights_sha256(tmp_path)


def test_features_of_an_earlier_version_are_compared_as_they_were(tmp_path: Path) -> None:
    folder = write_weights(write_config(tmp_path, CONFIG))
    manifest = manifest_of(weights_sha256=features.weights_sha256(folder, 1), version=1)
    features.check_selection(
        features.read_manifest(write(tmp_path, manifest.as_json())), CARD, folder
    )
    write_weights(folder, c=torch.zeros(1))
    with pytest.raises(UserError, match="other weights"):
        features.check_selection(manifest, CARD, folder)


def test_a_capture_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    features.check_complete(manifest_of(samples_done=2), tmp_path)
    with pytest.raises(UserError, match="is not complete: start `train capture` again"):
        features.check_complete(manifest_of(samples_done=1), tmp_path)


def test_the_order_of_a_config_s_keys_does_not_matter() -> None:
    reversed_keys = dict(reversed(CONFIG.items()))
    assert features.config_sha256(reversed_keys) == features.config_sha256(CONFIG)


def test_the_full_size_takes_16_kb_a_token() -> None:
    # ids and mask 8 + 8, four states of 2048 bf16.
    assert features.bytes_per_token(2048) == 16 + 4 * 4096
    assert features.disk_need(1000, 0, 2048) == 16_400_000


def test_files_lie_in_folders_of_2000() -> None:
    paths = [features.sample_path(Path(), index) for index in (0, 1999, 2000, 4321)]
    assert [path.as_posix() for path in paths] == [
        "rows_0-2000/data_0.ckpt", "rows_0-2000/data_1999.ckpt",
        "rows_2000-4000/data_2000.ckpt", "rows_4000-6000/data_4321.ckpt",
    ]  # fmt: skip
