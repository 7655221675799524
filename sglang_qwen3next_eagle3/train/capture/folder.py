"""The folder that `train capture` writes: whose it is, who is at it, what is done, what fits."""

import fcntl
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture.features import MANIFEST, SCRATCH, Manifest

if TYPE_CHECKING:
    from torch import Tensor

    from sglang_qwen3next_eagle3.train.capture.encode import Sample

LOG: Final = "sglang.log"
# What may differ between two runs of one capture.
_DESCRIPTIVE: Final = ("target", "versions", "samples_done", "tokens_done")


def check_request(folder: Path, manifest: Manifest) -> None:
    """Check that this capture may be begun or gone on with here; nothing is written.

    Raises:
        UserError: the folder holds something else, or features of another capture.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder with --out")
    if not (folder / MANIFEST).exists():
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        others = names - {SCRATCH, MANIFEST}
        if others:
            raise UserError(
                f"{folder} holds something else ({min(others)}): name a new or empty folder"
            )
        return
    begun = features.read_manifest(folder)
    for field in fields(Manifest):
        old, new = getattr(begun, field.name), getattr(manifest, field.name)
        if field.name not in _DESCRIPTIVE and old != new:
            raise UserError(
                f"{folder} was begun with other arguments ({field.name}: {old}, now {new}): "
                "repeat those, or name another folder with --out"
            )


@contextmanager
def scratch_of(folder: Path, shard: tuple[int, int]) -> Iterator[Path]:
    """A folder for what this process has not finished, for it alone; only a log outlives it.

    Raises:
        UserError: another process captures the same shard.
    """
    index, count = shard
    scratch = folder / SCRATCH / f"shard-{index}-of-{count}"
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process captures shard {index}/{count} of {folder}") from None
        except OSError:
            pass  # Some network file systems lock nothing; alone in it, one needs no lock.
        try:
            yield scratch
        finally:
            for path in scratch.iterdir():
                if path.name != LOG:
                    path.unlink()
            with suppress(OSError):  # A log, or another shard's folder, is still there.
                scratch.rmdir()
                scratch.parent.rmdir()


def begin(folder: Path, manifest: Manifest, scratch: Path) -> None:
    """Write the manifest, unless the capture was begun before. Raises as `check_request`."""
    if not (folder / MANIFEST).exists():
        _write_manifest(folder, manifest, scratch)
    # Another shard may have begun at the same moment.
    check_request(folder, manifest)


def abandon(folder: Path, scratch: Path) -> None:
    """Nothing was captured: let the next attempt have other arguments, unless another shard is
    under way with these."""
    if list(scratch.parent.iterdir()) == [scratch]:
        (folder / MANIFEST).unlink()


def missing(folder: Path, lengths: Sequence[int], hidden_size: int) -> set[int]:
    """The samples that are not on disk. lengths: tokens of every sample of the capture."""
    return {
        index
        for index, tokens in enumerate(lengths)
        if not features.is_done(folder, index, tokens, hidden_size)
    }


def update(folder: Path, lengths: Sequence[int], scratch: Path) -> Manifest:
    """Count what is on disk, from all shards, into the manifest."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems lock nothing; then the last shard to end counts them all.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        manifest = features.read_manifest(folder)
        left = missing(folder, lengths, manifest.hidden_size)
        manifest = replace(
            manifest,
            samples_done=len(lengths) - len(left),
            tokens_done=sum(lengths) - sum(lengths[index] for index in left),
        )
        _write_manifest(folder, manifest, scratch)
    finally:
        os.close(handle)
    return manifest


def check_room(folder: Path, left: Sequence[int], manifest: Manifest) -> None:
    """Say what the capture takes on disk. left: tokens of each sample still to be written.

    Raises:
        UserError: it does not fit.
    """
    whole = features.disk_need(manifest.tokens, manifest.samples, manifest.hidden_size)
    need = features.disk_need(sum(left), len(left), manifest.hidden_size)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    print(
        f"disk: {_size(whole)} in all, {features.bytes_per_token(manifest.hidden_size)} bytes a "
        f"token; {_size(need)} still to be written, {_size(free)} free in {there}",
        file=sys.stderr,
    )
    if need > free:
        raise UserError(
            f"{_size(need)} are needed in {folder}, {_size(free)} are free: make room, or capture "
            "less with --max-samples or --max-length"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def write_sample(
    path: Path, sample: "Sample", streams: "Tensor", last_hidden: "Tensor", scratch: Path
) -> None:
    """Write one sample, whole or not at all.

    streams: [3, T, hidden], ascending in depth; last_hidden: [T, hidden], after the final norm.
    """
    import torch

    assert streams.shape[0] == features.STATES
    states = {
        "input_ids": torch.tensor(sample.ids, dtype=torch.int64),
        "loss_mask": torch.tensor(sample.loss_mask, dtype=torch.int64),
        # A copy: of a slice, torch.save would write the whole batch.
        "hidden_state": last_hidden.to(torch.bfloat16, copy=True)[None],
        "aux_hidden_state": streams.transpose(0, 1).flatten(1).to(torch.bfloat16)[None],
    }
    # Not to a path: torch.save writes the file's name into it, so equal samples would differ.
    buffer = io.BytesIO()
    torch.save(states, buffer)
    path.parent.mkdir(exist_ok=True)
    _write_atomically(path, buffer.getbuffer(), scratch)


def _write_manifest(folder: Path, manifest: Manifest, scratch: Path) -> None:
    text = json.dumps(manifest.as_json(), indent=2) + "\n"
    _write_atomically(folder / MANIFEST, text.encode(), scratch)


def _write_atomically(path: Path, content: bytes | memoryview, scratch: Path) -> None:
    """By way of the scratch folder: no process ever sees a half-written file under `path`."""
    half = scratch / path.name
    half.write_bytes(content)
    os.replace(half, path)
