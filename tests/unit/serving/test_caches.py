"""Where what is compiled is kept."""

import os
import re
import shlex
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.base import provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.serving import caches, flags
from tests.support.launching import dry_run

ROOT = Path(__file__).parents[3]


def test_the_image_has_the_same_places() -> None:
    """deploy/caches/Dockerfile copies a folder to /caches of the image."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for variable, path in caches.environment(Path("/caches")).items():
        told = re.search(rf"{variable}=(\S+)", text)
        assert told is not None, variable
        assert Path(told[1]) == Path(path), variable


def test_what_lies_there_is_counted_by_what_keeps_it(tmp_path: Path) -> None:
    for place in ("triton/ab/kernel.cubin", "triton/cd/kernel.ptx", ".cache/flashinfer/x.so"):
        file = tmp_path / place
        file.parent.mkdir(parents=True)
        file.write_bytes(b"12345")
    found = {one.name: (one.files, one.bytes) for one in caches.kept(tmp_path) if one.files}
    assert found == {"Triton": (2, 10), "FlashInfer": (1, 5)}


def test_a_launch_gets_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(capsys, "--profile", "b1", "--caches", str(tmp_path / "new"))["environment"]
    assert found["TRITON_CACHE_DIR"] == str(tmp_path / "new" / "triton")


def test_a_folder_of_another_place_or_version_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the machine that found out which GPUs reach each other may believe it."""
    folder = tmp_path / "filled"
    reached = folder / "sglang" / "gpu_p2p_access_cache_for_0,1.json"
    tuned = folder / "sglang" / "flashinfer" / "tuned.json"
    tuned.parent.mkdir(parents=True)
    for file in (reached, tuned):
        file.touch()
    installed = {"sglang": "0.5.17", "triton": "3.6.0"}
    monkeypatch.setattr(provenance, "versions", lambda names: dict(installed))
    assert caches.doubts(folder) == []
    caches.note_filled(folder)
    assert (reached.exists(), tuned.exists()) == (False, True)
    assert caches.doubts(folder) == []

    def notes(place: Path) -> list[str]:
        found = dry_run(capsys, "--profile", "b1", "--caches", str(place))["notes"]
        return [line for line in found if line.startswith("caches ")]

    assert notes(folder) == []
    folder.rename(tmp_path / "moved")
    (moved,) = notes(tmp_path / "moved")
    assert "FlashInfer" in moved
    assert f"filled as {folder}" in moved
    (tmp_path / "moved").rename(folder)
    installed["sglang"] = "0.5.23"
    (other,) = notes(folder)
    assert "sglang 0.5.17 and not 0.5.23" in other
    assert "triton" not in other


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"folder": "/x", "vers', "is damaged"),
        (b"", "is damaged"),
        (b"\xff", "is damaged"),
        (b"[]", "is damaged"),
        (b"{}", "names none"),
    ],
)
def test_a_damaged_note_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    """What it is about serves without it: the launch goes on, and says so."""
    (tmp_path / "filled.json").write_bytes(content)
    found = dry_run(capsys, "--profile", "b1", "--caches", str(tmp_path))["notes"]
    (told,) = [line for line in found if line.startswith("caches ")]
    assert "by what they were filled is not known: " in told
    assert said in told


def test_what_may_not_be_written_is_refused_below_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a container has filled it as another user."""
    place = tmp_path / "triton"
    place.mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != place)
    with pytest.raises(UserError, match=f"nothing may be written in {place}"):
        caches.check(tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--tp 2", True),
        ("--tensor-parallel-si=4", True),
        ("", False),
        ("--tp 1", False),
        ("--tp 2 --enforce-disable-flashinfer-allreduce-fusion", False),
        ("--tp 2 --enforce-disable-flashinfer-allred", False),
        ("--tp 2 --enable-dp-attention", False),
    ],
)
def test_what_several_ranks_compile_first_is_told(tmp_path: Path, words: str, told: bool) -> None:
    environment = {"FLASHINFER_WORKSPACE_BASE": str(tmp_path)}
    given = flags.parse(shlex.split(words))
    note = caches.compiled_first(given, environment)
    assert (note is not None) == told
    if told:
        assert str(tmp_path) in str(note)
    module = tmp_path / ".cache/flashinfer/0.6.15/90a/cached_ops/trtllm_comm/trtllm_comm.so"
    module.parent.mkdir(parents=True)
    module.touch()
    assert caches.compiled_first(given, environment) is None


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="is a file"):
        caches.check(file / "below")
    caches.check(tmp_path / "new" / "below")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "x"], "which profile? --profile NAME, one of auto, b1"),
        (["--profile", "b9", "--out", "x"], "no profile 'b9'"),
        (["--profile", "b1"], "--out"),
    ],
)
def test_warmup_refuses_in_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["warmup", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_warmup_needs_the_gpu_that_it_compiles_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sglang_qwen3next_eagle3.serving import doctor

    monkeypatch.setattr(doctor, "has_gpu", lambda: False)
    assert main(["warmup", "--profile", "b1", "--out", str(tmp_path)]) == 2
    assert "no GPU is here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--caches", "--limits", "--api-key-file", "--port", "--insecure"]
)
def test_warmup_takes_nothing_that_it_would_drop(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["warmup", "--profile", "demo", "--out", "x", option, "1"]) == 2
    assert f"no such option: {option}" in capsys.readouterr().err


def test_warmup_says_how_the_same_is_launched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sglang_qwen3next_eagle3.bench import start
    from sglang_qwen3next_eagle3.serving import doctor

    kept = start.MeasuredStart(configuration="x", repetition=0, ready_seconds=1, phases={})
    warmed = start.Warmed(tmp_path, kept, None, ())
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    monkeypatch.setattr(start, "warm", lambda *_, **__: warmed)
    chosen = ["--profile", "b1", "--target", "a/b", "--tree", "3,1,4", "--tp", "4", "--no-fast"]
    flags = ["--", "--log-level", "a b"]
    switches = ["--seams", "chain"]
    assert main(["warmup", *chosen, *switches, "--out", str(tmp_path), *flags]) == 0
    (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("use it: "))
    words = [*chosen, *switches, "--caches", str(tmp_path), *flags]
    assert shlex.split(line)[3:] == ["launch", *words]
