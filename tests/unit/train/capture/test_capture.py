"""`train capture` with a backend that makes states up; tests/contract has the real ones."""

import argparse
import errno
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.cli import train as cli
from sglang_qwen3next_eagle3.train.capture import capture, features
from sglang_qwen3next_eagle3.train.capture import folder as capture_folder
from tests.support.actions import action
from tests.support.checkpoints import POINTER
from tests.support.made_up_capture import MadeUp
from tests.support.small_target import HIDDEN, write_data, write_target

SAMPLES = 12


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write_target(tmp_path / "target")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "train.jsonl", SAMPLES)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, target: Path, data: Path, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.setattr(capture, "_version", lambda library: "0")

    def call(*words: str, backend: MadeUp | None = None, out: str = "out") -> int:
        chosen = backend or MadeUp()
        monkeypatch.setattr(capture, "_backend", lambda *_: chosen)
        required = ["--data", str(data), "--target", str(target), "--out", str(tmp_path / out)]
        own, _, flags = " ".join(words).partition(" -- ")
        given = [*required, "--device", "cpu", *own.split(), "--", *flags.split()]
        return action("train", "capture", *given)

    return call


def digests(folder: Path) -> dict[str, str]:
    paths = folder.glob("rows_*/*")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_every_sample_is_captured_with_its_own_states(run: Any, tmp_path: Path) -> None:
    assert run() == 0
    samples = list(features.iterate(tmp_path / "out"))
    assert len(samples) == SAMPLES
    for sample in samples:
        own = (sample["input_ids"] % 100)[None, :, None]
        expected = torch.cat([(own + slot).expand(-1, -1, HIDDEN) for slot in range(3)], dim=-1)
        assert torch.equal(sample["aux_hidden_state"], expected.bfloat16())
        assert len((sample["hidden_state"] - own).unique()) == 1
    manifest = features.read_manifest(tmp_path / "out")
    assert manifest.complete
    assert manifest.tokens == sum(len(sample["input_ids"]) for sample in samples)
    assert manifest.selection == "output:3,7,11"


def test_json_is_the_manifest_with_where_and_how_long(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--json")
    report = json.loads(capsys.readouterr().out)
    assert report["complete"]
    assert report["samples_done"] == SAMPLES
    assert report["folder"] == str(tmp_path / "out")
    assert report["seconds"] >= 0


def test_shards_make_the_same_files_as_one_run(run: Any, tmp_path: Path) -> None:
    run(out="whole")
    for index in (2, 0, 1):
        assert (
            not (tmp_path / "parts").exists()
            or not features.read_manifest(tmp_path / "parts").complete
        )
        run("--shard", f"{index}/3", out="parts")
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    assert features.read_manifest(tmp_path / "parts").complete


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("SGLang stopped")])
def test_what_was_captured_before_a_failure_is_kept_and_not_computed_again(
    run: Any, tmp_path: Path, error: BaseException
) -> None:
    run(out="whole")
    with pytest.raises(type(error)) as ended:
        run(backend=MadeUp(fail_at=2, error=error))
    if isinstance(error, KeyboardInterrupt):
        assert ended.value.__notes__ == ["the same command goes on from here"]
    before = digests(tmp_path / "out")
    assert 0 < len(before) < SAMPLES
    assert features.read_manifest(tmp_path / "out").samples_done == len(before)
    again = MadeUp()
    assert run(backend=again) == 0
    assert sum(map(len, again.computed)) == SAMPLES - len(before)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_capture_that_never_began_may_be_begun_with_other_arguments(
    run: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no such flag"):
        run("-- --flag", backend=MadeUp(fail_at=0, error=UserError("no such flag")))
    assert run() == 0
    assert features.read_manifest(tmp_path / "out").complete


def test_it_may_not_while_another_shard_is_under_way(run: Any, tmp_path: Path) -> None:
    with capture_folder.scratch_of(tmp_path / "out", (1, 2)), pytest.raises(UserError):
        run("--shard", "0/2", backend=MadeUp(fail_at=0, error=UserError("no memory")))
    assert features.read_manifest(tmp_path / "out").samples_done == 0


def test_a_batch_that_was_half_written_comes_out_the_same(run: Any, tmp_path: Path) -> None:
    """The rest of it is computed in the same batch, or its last bits might differ."""
    run(out="whole")
    run()
    features.sample_path(tmp_path / "out", 1).unlink()
    run()
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_complete_capture_computes_nothing(run: Any) -> None:
    run()
    again = MadeUp()
    assert run(backend=again) == 0
    assert again.computed == []


def test_a_full_disk_keeps_what_is_there_and_says_how_to_go_on(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = capture_folder.write_sample

    def write(path: Path, *rest: Any) -> None:
        if path.name == "data_5.ckpt":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, *rest)

    monkeypatch.setattr(capture_folder, "write_sample", write)
    with pytest.raises(UserError, match=r"data_5\.ckpt: No space left .*make room and run the sam"):
        run()
    assert len(digests(tmp_path / "out")) == 5
    monkeypatch.setattr(capture_folder, "write_sample", real)
    assert run() == 0
    assert features.read_manifest(tmp_path / "out").complete


def test_too_little_room_is_found_before_anything_is_loaded_or_written(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: argparse.Namespace(free=1000))
    never = MadeUp()
    with pytest.raises(UserError, match="make room, or capture less"):
        run(backend=never)
    assert never.computed == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--max-length", "40"),
        ("--max-samples", "3"),
        ("--aux-layers", "fork"),
        ("--dtype", "bfloat16"),
        ("--", "--load-format dummy"),
    ],
)
def test_other_arguments_do_not_go_on_with_a_capture(run: Any, words: tuple[str, ...]) -> None:
    run()
    with pytest.raises(UserError, match="begun with other arguments"):
        run(*words)


def test_other_data_does_not_go_on_with_a_capture(run: Any, data: Path) -> None:
    run()
    write_data(data, SAMPLES + 1)
    with pytest.raises(UserError, match=r"begun with other arguments \(data_sha256"):
        run()


def test_max_samples_takes_the_first(run: Any, tmp_path: Path) -> None:
    run(out="whole")
    run("--max-samples", "3")
    assert len(digests(tmp_path / "out")) == 3
    first, whole = list(features.iterate(tmp_path / "out")), features.iterate(tmp_path / "whole")
    for mine, theirs in zip(first, whole, strict=False):
        assert torch.equal(mine["input_ids"], theirs["input_ids"])


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--aux-layers", "output:3,7"), "2 named, but SpecForge trains on 3 throughout"),
        (("--aux-layers", "output:3,7,10"), "10 are GDN layers"),
        (("--aux-layers", "output:3,7,12"), "the target has no layer 12"),
        (("--max-length", "4097"), "from 2 to the target's 4096"),
        (("--max-length", "20"), "no conversation has an assistant's token among its first 20"),
        (("--max-samples", "0"), "at least 1"),
        (("--tp", "0"), "--tp 0: at least 1"),
        (("--tp", "3"), "--tp 3: num_attention_heads = 16 is not divisible by TP 3"),
        (("--backend", "transformers", "--", "--tp 2"), "are for SGLang"),
    ],
)
def test_what_cannot_be_captured_is_refused_in_one_line(
    run: Any, tmp_path: Path, words: tuple[str, ...], cause: str
) -> None:
    with pytest.raises(UserError, match=cause) as refused:
        run(*words)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_target_that_is_a_pointer_is_refused(run: Any, target: Path, tmp_path: Path) -> None:
    (target / "model.safetensors").write_bytes(POINTER)
    for words in ((), ("--backend", "transformers")):
        with pytest.raises(UserError, match=r"model\.safetensors is a git LFS pointer"):
            run(*words)
        assert not (tmp_path / "out").exists()


def test_a_target_with_a_missing_shard_is_refused_where_its_weights_are_loaded(
    run: Any, target: Path, tmp_path: Path
) -> None:
    whole = target / "model.safetensors"
    whole.rename(target / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"lacks model-00002-of-00002\.safetensors of its 2"):
        run()
    assert not (tmp_path / "out").exists()
    assert run("--", "--load-f=dummy") == 0


def test_a_bad_line_of_the_data_is_named(run: Any, data: Path, tmp_path: Path) -> None:
    with data.open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(UserError, match=rf"train\.jsonl:{SAMPLES + 1} has no list"):
        run()
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_is_said(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA GPU here"):
        run("--device", "cuda")


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "a/b", "0/0"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="for example"):
        cli._shard(text)
