"""Where a head's files are, a folder or the hub, and reading no more of them than is needed."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import parse_json
from sglang_qwen3next_eagle3.model import hub, shards
from sglang_qwen3next_eagle3.model.target import read_config

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LEGACY = {"aux_norm_low": "fc_norm.0", "aux_norm_mid": "fc_norm.1", "aux_norm_high": "fc_norm.2"}


class Files(shards.Listing, Protocol):
    """The files of one checkpoint."""

    def config(self) -> dict[str, Any]: ...
    def sha256(self, file: str) -> str | None:
        """Of a whole file, in hex; None where that is not known without reading it."""


class Folder:
    """A checkpoint folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        return {f.name: f.stat().st_size for f in sorted(self.path.iterdir()) if f.is_file()}

    def read(self, file: str, start: int, stop: int) -> bytes:
        with (self.path / file).open("rb") as opened:
            opened.seek(start)
            return opened.read(stop - start)

    def config(self) -> dict[str, Any]:
        return read_config(self.path)

    def sha256(self, file: str) -> str | None:
        with (self.path / file).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()


class OnHub(hub.Remote):
    """A checkpoint on the hub, read by ranges."""

    def config(self) -> dict[str, Any]:
        """Raises UserError if there is none, or no JSON object."""
        file = "config.json"
        if file not in self.sizes:
            raise UserError(f"{self.name} has no config.json: it is not a checkpoint")
        try:
            config = parse_json(self.read(file, 0, self.sizes[file]))
        except ValueError as error:
            raise UserError(f"{self.name}/config.json is not valid JSON: {error}") from None
        if not isinstance(config, dict):
            raise UserError(f"{self.name}/config.json holds no JSON object")
        return config


def has_weights(files: Files) -> bool:
    """Whether there are any, in a format that can be read or not."""
    return any(Path(name).suffix in {".safetensors", *shards.PICKLES} for name in files.sizes)


def normalise(name: str) -> str:
    """The published name of a tensor under any of the names that SGLang takes it by.

    Without `model.`, the first layer as `midlayer`; `model.lm_head` is not a name SGLang knows.
    """
    if not name.startswith("model.lm_head"):
        name = name.removeprefix("model.")
    for legacy, current in _LEGACY.items():
        name = name.replace(legacy, current)
    return f"midlayer{name.removeprefix('layers.0')}" if name.startswith("layers.0.") else name


def tensors(
    folder: Path, dtype: "torch.dtype", device: "torch.device | str"
) -> "dict[str, Tensor]":
    """A folder's tensors on a device, by their published names; floating ones as `dtype`."""
    from safetensors.torch import load_file

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            to = dtype if tensor.is_floating_point() else None
            found[normalise(name)] = tensor.to(device, to)
    return found


def content_hash(files: Files) -> str | None:
    """What tells one head's weights from another's: of its safetensors files, 64 hex digits.

    The config is not part of it, so that its keys may be corrected. None where the hub does not
    know the sha256 of a file.
    """
    digest = hashlib.sha256()
    for file in shards.weight_files(files):
        sha256 = files.sha256(file)
        if sha256 is None:
            return None
        digest.update(bytes.fromhex(sha256))
    return digest.hexdigest()
