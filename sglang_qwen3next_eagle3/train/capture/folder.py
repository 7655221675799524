"""The folder that `train capture` writes: whose it is, who is at it, what is done, what fits."""

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sglang_qwen3next_eagle3.base import files, workfolder
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture.features import MANIFEST, SCRATCH, FeaturesManifest

if TYPE_CHECKING:
    from torch import Tensor

    from sglang_qwen3next_eagle3.train.capture.encode import TrainingSample

LOG: Final = "sglang.log"
COUNT_SECONDS: Final = 600.0
"""What another shard gets to count its files, on a slow disk."""
# What may differ between two runs of one capture.
_DESCRIPTIVE: Final = ("target", "versions", "samples_done", "tokens_done", "complete")


def check_request(folder: Path, manifest: FeaturesManifest) -> None:
    """Check that this capture may be begun or gone on with here; nothing is written.

    Raises:
        UserError: the folder holds something else, or features of another capture.
    """
    workfolder.refuse_other_content(folder, {SCRATCH, MANIFEST})
    if (folder / MANIFEST).exists():
        begun = features.read_manifest(folder)
        workfolder.refuse_other_request(folder, _request(begun), _request(manifest))


def _request(manifest: FeaturesManifest) -> dict[str, Any]:
    content = manifest.as_json()
    return {key: value for key, value in content.items() if key not in _DESCRIPTIVE}


@contextmanager
def scratch_of(folder: Path, shard: tuple[int, int]) -> Iterator[Path]:
    """A folder for what this process has not finished, for it alone; only a log outlives it.

    Raises:
        UserError: another process captures the same shard.
    """
    index, count = shard
    scratch = folder / SCRATCH / f"shard-{index}-of-{count}"
    scratch.mkdir(parents=True, exist_ok=True)
    busy = f"another process captures shard {index}/{count} of {folder}"
    with workfolder.lock(scratch / "lock", busy):
        try:
            yield scratch
        finally:
            for path in scratch.iterdir():
                if path.name != LOG:
                    path.unlink()
            with suppress(OSError):  # A log, or another shard's folder, is still there.
                scratch.rmdir()
                scratch.parent.rmdir()


def begin(folder: Path, manifest: FeaturesManifest) -> None:
    """Write the manifest, unless the capture was begun before. Raises as `check_request`."""
    if not (folder / MANIFEST).exists():
        _write_manifest(folder, manifest)
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


def update(folder: Path, lengths: Sequence[int]) -> FeaturesManifest:
    """Count what is on disk, from all shards, into the manifest."""
    busy = f"another process counts what is captured in {folder}"
    with workfolder.lock(folder, busy, wait_seconds=COUNT_SECONDS):
        manifest = features.read_manifest(folder)
        left = missing(folder, lengths, manifest.hidden_size)
        manifest = replace(
            manifest,
            samples_done=len(lengths) - len(left),
            tokens_done=sum(lengths) - sum(lengths[index] for index in left),
        )
        _write_manifest(folder, manifest)
    return manifest


def check_room(folder: Path, left: Sequence[int], manifest: FeaturesManifest) -> None:
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
    path: Path, sample: "TrainingSample", streams: "Tensor", last_hidden: "Tensor", scratch: Path
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
    files.write_bytes(path, buffer.getbuffer(), scratch)


def _write_manifest(folder: Path, manifest: FeaturesManifest) -> None:
    files.write_json(folder / MANIFEST, manifest.as_json())
