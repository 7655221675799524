"""Whether a checkpoint's files are all there and whole, by their names, sizes and headers.

A clone without git LFS has pointers in the files' places, an interrupted download lacks shards or
has short ones. SGLang finds that out half a minute into its start, and in part not at all: of a
tensor that the index names and no file has, it keeps what happened to be in memory.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import parse_json
from sglang_qwen3next_eagle3.model import hub, safetensors_header
from sglang_qwen3next_eagle3.model.safetensors_header import Stored

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
AGAIN = "download the checkpoint again"
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
# What serving reads beside the weights; small enough to be looked into.
_OTHERS = (".json", ".txt", ".jinja", ".model")


class Listing(Protocol):
    """The files of one checkpoint. name: for messages; sizes: bytes of each file."""

    @property
    def name(self) -> str: ...
    @property
    def sizes(self) -> Mapping[str, int]: ...
    def read(self, file: str, start: int, stop: int) -> bytes: ...


def weight_files(files: Listing) -> list[str]:
    """The safetensors files that SGLang loads, sorted: those of the index, where there is one.

    Raises:
        UserError: there is none, or one is missing that the index or its neighbours' names speak
            of.
    """
    found = sorted(name for name in files.sizes if name.endswith(".safetensors"))
    needed = sorted(set(_index(files).values()) or _counted(found))
    missing = [name for name in needed if name not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(
            f"{files.name} lacks {missing[0]}{more} of its {len(needed)} weight files: {AGAIN}"
        )
    if not found:
        pickles = [name for name in sorted(files.sizes) if Path(name).suffix in PICKLES]
        has = f" (it has {pickles[0]}, a pickle: convert it to safetensors)" if pickles else ""
        raise UserError(f"{files.name} has no .safetensors file{has}")
    return needed or found


def headers(files: Listing) -> dict[str, tuple[str, Stored]]:
    """By tensor: the file it is in and its place there.

    Raises:
        UserError: no safetensors file, or one that is missing, damaged, a pointer of git LFS, or
            without a tensor that the index says it has.
    """
    found: dict[str, tuple[str, Stored]] = {}
    for file in weight_files(files):
        where, read = f"{files.name}/{file}", partial(files.read, file)
        stored = safetensors_header.read(where, files.sizes[file], read)
        found.update({name: (file, place) for name, place in stored.items()})
    for name, file in _index(files).items():
        if name not in found:
            raise UserError(
                f"{files.name}/{file} has no tensor {name}, which {hub.INDEX} says is in it: the "
                f"files are of two checkpoints; {AGAIN}"
            )
    return found


def check(files: Listing) -> None:
    """That all of it is whole: the weights by their headers, the rest by a look at the beginning.

    Raises:
        UserError: as `headers`, or of another file that is empty or a pointer of git LFS.
    """
    for name, size in sorted(files.sizes.items()):
        if name.endswith(_OTHERS):
            start = files.read(name, 0, min(size, safetensors_header.POINTER_BYTES))
            safetensors_header.check_present(f"{files.name}/{name}", start)
    headers(files)


def check_loaded(files: Listing, load_format: str | None) -> None:
    """As `check`, of a target that SGLang loads in this format: random weights need no files.

    load_format: of its --load-format; None: not given.
    """
    if load_format in (None, "", "auto", "safetensors"):
        check(files)


def _index(files: Listing) -> dict[str, str]:
    """Which tensor is in which file, as far as the checkpoint has an index."""
    if hub.INDEX not in files.sizes:
        return {}
    where = f"{files.name}/{hub.INDEX}"
    content = files.read(hub.INDEX, 0, files.sizes[hub.INDEX])
    safetensors_header.check_present(where, content)
    try:
        places = parse_json(content)["weight_map"]
        return {str(name): str(file) for name, file in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{where} is damaged (it has no weight_map): {AGAIN}") from None


def _counted(found: list[str]) -> list[str]:
    """All names of a numbered series, by those of it that are there."""
    needed = set(found)
    for name in found:
        if match := _NUMBERED.fullmatch(name):
            base, _, count = match.groups()
            needed |= {f"{base}-{i:05}-of-{count}.safetensors" for i in range(1, int(count) + 1)}
    return sorted(needed)
