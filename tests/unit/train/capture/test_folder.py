import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture import folder as capture_folder
from sglang_qwen3next_eagle3.train.capture.encode import TrainingSample
from tests.support.manifests import manifest_of

HIDDEN = 8
LENGTHS = [12, 18]
SHARD = (0, 1)


def write(folder: Path, index: int, length: int) -> Path:
    """A sample whose states are a part of a larger batch."""
    generator = torch.Generator().manual_seed(index)
    streams = torch.randn(3, 100, HIDDEN, generator=generator)
    last_hidden = torch.randn(100, HIDDEN, generator=generator)
    sample = TrainingSample("c", list(range(length)), [0, *[1] * (length - 1)])
    path = features.sample_path(folder, index)
    with capture_folder.scratch_of(folder, SHARD) as scratch:
        part = slice(5, 5 + length)
        capture_folder.write_sample(path, sample, streams[:, part], last_hidden[part], scratch)
    return path


def test_a_file_is_what_specforge_s_offline_eagle3_reads(tmp_path: Path) -> None:
    loaded = torch.load(write(tmp_path, 0, 12), weights_only=True)
    generator = torch.Generator().manual_seed(0)
    streams = torch.randn(3, 100, HIDDEN, generator=generator)[:, 5:17].bfloat16()
    last_hidden = torch.randn(100, HIDDEN, generator=generator)[5:17].bfloat16()
    assert loaded.keys() == {"input_ids", "loss_mask", "hidden_state", "aux_hidden_state"}
    assert torch.equal(loaded["input_ids"], torch.arange(12))
    assert loaded["loss_mask"].tolist() == [0] + [1] * 11
    assert loaded["loss_mask"].dtype == torch.int64
    assert torch.equal(loaded["hidden_state"], last_hidden[None])
    assert loaded["aux_hidden_state"].shape == (1, 12, 3 * HIDDEN)
    for slot in range(3):
        part = loaded["aux_hidden_state"][0, :, slot * HIDDEN : (slot + 1) * HIDDEN]
        assert torch.equal(part, streams[slot])


def test_equal_samples_are_equal_files_whatever_their_name(tmp_path: Path) -> None:
    path = write(tmp_path, 0, 12)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.rename(tmp_path / "kept")
    again = write(tmp_path, 0, 12)
    assert hashlib.sha256(again.read_bytes()).hexdigest() == digest


def test_the_disk_need_covers_what_is_written_but_not_the_batch_around_it(tmp_path: Path) -> None:
    path = write(tmp_path, 0, 12)
    assert 12 * features.bytes_per_token(HIDDEN) < path.stat().st_size
    assert path.stat().st_size <= features.disk_need(12, 1, HIDDEN)


def test_samples_come_back_in_their_order(tmp_path: Path) -> None:
    for index in (10, 2, 2001):
        write(tmp_path, index, index % 100 + 3)
    assert [len(s["input_ids"]) for s in features.iterate(tmp_path)] == [5, 13, 4]


def test_a_file_that_a_power_cut_emptied_is_not_done(tmp_path: Path) -> None:
    path = write(tmp_path, 0, 12)
    assert capture_folder.missing(tmp_path, LENGTHS, HIDDEN) == {1}
    path.write_bytes(b"")
    assert capture_folder.missing(tmp_path, LENGTHS, HIDDEN) == {0, 1}


def test_the_manifest_counts_what_is_on_disk(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with capture_folder.scratch_of(out, SHARD):
        capture_folder.begin(out, manifest_of())
    write(out, 1, 18)
    with capture_folder.scratch_of(out, SHARD):
        manifest = capture_folder.update(out, LENGTHS)
    assert (manifest.samples_done, manifest.tokens_done, manifest.complete) == (1, 18, False)
    write(out, 0, 12)
    with capture_folder.scratch_of(out, SHARD):
        assert capture_folder.update(out, LENGTHS).complete
    assert features.read_manifest(out).complete
    assert not (out / features.SCRATCH).exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depths": (3, 7, 11)}, "depths"),
        ({"data_sha256": "e"}, "data_sha256"),
        ({"max_length": 65}, "max_length: 64, now 65"),
        ({"flags": ()}, "flags"),
    ],
)
def test_a_capture_is_not_gone_on_with_under_other_arguments(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    with capture_folder.scratch_of(tmp_path, SHARD):
        capture_folder.begin(tmp_path, manifest_of())
    capture_folder.check_request(tmp_path, manifest_of(versions={"sglang": "2"}))
    with pytest.raises(UserError, match=rf"begun with other arguments \({named}"):
        capture_folder.check_request(tmp_path, manifest_of(**change))


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"holds something else \(thesis\.tex\)"):
        capture_folder.check_request(tmp_path, manifest_of())
    with pytest.raises(UserError, match="is a file"):
        capture_folder.check_request(tmp_path / "thesis.tex", manifest_of())


def test_a_shard_is_one_process_s_alone(tmp_path: Path) -> None:
    with capture_folder.scratch_of(tmp_path, (1, 2)):
        with (
            pytest.raises(UserError, match="another process captures shard 1/2"),
            capture_folder.scratch_of(tmp_path, (1, 2)),
        ):
            pass
        with capture_folder.scratch_of(tmp_path, (0, 2)):
            pass
    with capture_folder.scratch_of(tmp_path, (1, 2)):
        pass


def test_what_a_killed_process_left_half_written_goes_and_a_log_stays(tmp_path: Path) -> None:
    scratch = tmp_path / features.SCRATCH / "shard-0-of-1"
    scratch.mkdir(parents=True)
    for name in ("data_3.ckpt", capture_folder.LOG):
        (scratch / name).write_text("half")
    with capture_folder.scratch_of(tmp_path, SHARD):
        pass
    assert [path.name for path in scratch.iterdir()] == [capture_folder.LOG]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_need_and_free_space_are_printed_and_too_little_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """2,000,000 tokens of 16 + 64 bytes are 160 MB."""
    manifest = manifest_of(samples=0, tokens=2_000_000)
    out = tmp_path / "not" / "there"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 170_000_000))
    capture_folder.check_room(out, [2_000_000], manifest)
    printed = capsys.readouterr().err
    assert "0.16 GB in all, 80 bytes a token" in printed
    assert f"0.17 GB free in {tmp_path}" in printed
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 159_000_000))
    with pytest.raises(UserError, match=r"0\.16 GB are needed in .*0\.16 GB are free: make room"):
        capture_folder.check_room(out, [2_000_000], manifest)
    capture_folder.check_room(out, [1_000_000], manifest)
