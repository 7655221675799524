"""Captured features on disk: SpecForge's offline EAGLE3 files, and what they were made from.

rows_0-2000/data_0.ckpt ...   a sample a file (SpecForge 0.2.0, algorithms/eagle3/data.py)
features.json                 the manifest: selection, target, data, how far the capture is
.capture/                     lock, log and half-written files of each process at work

SpecForge reads three states from each file and asks nothing: that they are those of the head's
layers is checked here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import safetensors_header
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target

if TYPE_CHECKING:
    from torch import Tensor

VERSION: Final = 2
READABLE: Final = (1, 2)
"""Version 1 told weights apart by the names and sizes of their files alone."""
MANIFEST: Final = "features.json"
SCRATCH: Final = ".capture"
STATES: Final = 3
"""Auxiliary states a token: SpecForge's offline training assumes three throughout."""
DTYPE: Final = "bfloat16"
SAMPLE_BYTES: Final = 4096
"""Of each tensor, for `weights_sha256`: a block of the file system."""
ROWS: Final = 2000  # samples a folder, as SpecForge's own capture has them
# A file's zip structure, measured below 3 KB, and half a block of the file system.
_FILE_OVERHEAD: Final = 5120


@dataclass(frozen=True)
class FeaturesManifest:
    """What a folder of features is.

    selection: as `aux_layers.parse` reads it; depths: the same, decoder layers below each stream.
    target: as it was named; config_sha256, weights_sha256: see `config_sha256`, `weights_sha256`.
    dtype: of the states on disk; compute_dtype: what was asked of the backend, "auto" by default.
    data_sha256: of the prepared JSONL; flags: extra ones for SGLang.
    samples, tokens: of the whole capture; samples_done, tokens_done: on disk when a process last
        ended in an orderly way.
    """

    selection: str
    selection_name: str | None
    depths: tuple[int, ...]
    target: str
    config_sha256: str
    weights_sha256: str
    hidden_size: int
    data_sha256: str
    max_length: int
    max_samples: int | None
    backend: str
    device: str
    compute_dtype: str
    tp: int
    flags: tuple[str, ...]
    versions: Mapping[str, str]
    samples: int
    tokens: int
    samples_done: int = 0
    tokens_done: int = 0
    dtype: str = DTYPE
    version: int = VERSION

    @property
    def complete(self) -> bool:
        return self.samples_done == self.samples

    def as_json(self) -> dict[str, Any]:
        """The content of features.json."""
        return {**asdict(self), "complete": self.complete}

    def spelled(self) -> str:
        """The selection for people: `output:3,23,47 (card)`."""
        return (
            f"{self.selection} ({self.selection_name})" if self.selection_name else self.selection
        )


def read_manifest(folder: Path) -> FeaturesManifest:
    """The manifest of a folder of features.

    Raises:
        UserError: there is none, or it is of another version of this package.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("version") not in READABLE:
            raise UserError(
                f"{path} is of version {content.get('version')!r}, this package reads "
                f"{' and '.join(map(str, READABLE))}: capture the features again"
            )
        content.pop("complete")
        for name in ("depths", "flags"):
            content[name] = tuple(content[name])
        return FeaturesManifest(**content)
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no {MANIFEST}, so nothing says of which layers its features are: "
            "give a folder that `train capture` wrote"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a manifest of features: {error}") from None


def check_selection(
    manifest: FeaturesManifest, selection: AuxSelection, target: Target | Path
) -> None:
    """Check that features are of this selection of this target.

    target: its config, or its folder, whose weights are then compared too.

    Raises:
        UserError: training or evaluating on them would compare different things.
    """
    if manifest.depths != selection.depths:
        raise UserError(
            f"the features are of auxiliary layers {manifest.spelled()}, not {selection}: pass "
            f"--aux-layers {manifest.selection}, or capture them again with --aux-layers "
            f"{selection}"
        )
    config = (Target.from_path(target) if isinstance(target, Path) else target).config
    if config_sha256(config) != manifest.config_sha256:
        raise UserError(
            f"the features are of another target ({manifest.target}; its config.json differs): "
            "train for that one, or capture them again"
        )
    if isinstance(target, Path):
        mine = weights_sha256(target, manifest.version)
        if mine != manifest.weights_sha256:
            raise UserError(
                f"the features are of other weights than those of {target} (captured from "
                f"{manifest.target}): train for that target, or capture them again"
            )


def check_complete(manifest: FeaturesManifest, folder: Path) -> None:
    """Raises UserError: the capture in `folder` is not finished, so that figures would be of a part
    of it."""
    if not manifest.complete:
        raise UserError(
            f"the capture in {folder} is not complete: start `train capture` again with the same "
            "arguments, it goes on where it stopped"
        )


def config_sha256(config: Mapping[str, Any]) -> str:
    """SHA-256 of a target's configuration, whatever the spacing and order of its file."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def weights_sha256(folder: Path, version: int = VERSION) -> str:
    """What tells the weights of one checkpoint from those of another without reading 160 GB.

    SHA-256 of every tensor's name, dtype, shape and `SAMPLE_BYTES` from its middle, which no
    training leaves as they were in all tensors. version: of the manifest it is compared with.

    Raises:
        UserError: there are none, or a file is no safetensors file, or damaged.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths and any(folder.glob("*.bin")):
        # All of them would seem to have the same weights: none.
        raise UserError(
            f"{folder} has its weights in .bin files: save it as safetensors "
            "(save_pretrained of transformers does)"
        )
    if version == 1:
        sizes = {path.name: path.stat().st_size for path in paths}
        return hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()
    digests: dict[str, bytes] = {}
    for path in paths:
        with path.open("rb") as stream:
            read = partial(_read_range, stream)
            for name, place in safetensors_header.read(
                str(path), path.stat().st_size, read
            ).items():
                start = max(place.start, (place.start + place.stop - SAMPLE_BYTES) // 2)
                sample = read(start, min(place.stop, start + SAMPLE_BYTES))
                told = f"{name} {place.dtype} {place.shape}".encode()
                digests[name] = hashlib.sha256(told + sample).digest()
    # Whatever files they are in: a checkpoint that was split anew has the same weights.
    return hashlib.sha256(b"".join(digests[name] for name in sorted(digests))).hexdigest()


def _read_range(stream: BinaryIO, start: int, stop: int) -> bytes:
    stream.seek(start)
    return stream.read(stop - start)


def bytes_per_token(hidden_size: int) -> int:
    """ids and mask int64, the last hidden state and three auxiliary ones in bf16."""
    return 2 * 8 + (1 + STATES) * 2 * hidden_size


def disk_need(tokens: int, samples: int, hidden_size: int) -> int:
    """Bytes that features of so many tokens take, at most: 16,400 a token at full size."""
    return tokens * bytes_per_token(hidden_size) + samples * _FILE_OVERHEAD


def sample_path(folder: Path, index: int) -> Path:
    first = index // ROWS * ROWS
    return folder / f"rows_{first}-{first + ROWS}" / f"data_{index}.ckpt"


def is_done(folder: Path, index: int, tokens: int, hidden_size: int) -> bool:
    """Whether this sample's file is there. Its size tells a file that a power cut emptied."""
    try:
        size = sample_path(folder, index).stat().st_size
    except OSError:
        return False
    return size >= tokens * bytes_per_token(hidden_size)


def iterate(folder: Path) -> Iterator[dict[str, "Tensor"]]:
    """The samples in their order: input_ids and loss_mask [T], hidden_state [1, T, hidden],
    aux_hidden_state [1, T, 3 * hidden]."""
    import torch

    for path in _sample_files(folder):
        loaded: dict[str, Tensor] = torch.load(path, weights_only=True)
        yield loaded


def _sample_files(folder: Path) -> Sequence[Path]:
    paths = folder.glob("rows_*/data_*.ckpt")
    return sorted(paths, key=lambda path: int(path.stem.removeprefix("data_")))
