"""The header of a safetensors file, read without its tensors.

A file is eight bytes (length n of the header, little endian), n bytes of JSON and the tensors'
bytes: https://huggingface.co/docs/safetensors. It is read by ranges, so that a file on the hub
costs its header only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import parse_json

MAX_HEADER = 100 * 2**20
"""The format's own limit."""
FIRST_READ = 64 * 2**10
"""Bytes of the first range: the header of a head, in one request."""
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2,
    "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

_LFS = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES = 1024
"""A pointer of git LFS is smaller than this: github.com/git-lfs/git-lfs, docs/spec.md."""

Read = Callable[[int, int], bytes]
"""Bytes start .. stop of a file; fewer where it ends before."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. dtype as safetensors spells it; its bytes are start .. stop."""

    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int


def read(where: str, size: int, read_range: Read) -> dict[str, Stored]:
    """Names, shapes, dtypes and places of all tensors in a file of `size` bytes.

    Raises:
        UserError: not a safetensors file, or one that is damaged or shorter than it says.
    """
    first = read_range(0, min(size, FIRST_READ))
    check_present(where, first)
    if first[:1] == b"\x80" or first[:4] == b"PK\x03\x04":
        raise UserError(
            f"{where} is a pickle under the name of a safetensors file: convert it "
            "(torch.load with weights_only=True, then safetensors.torch.save_file)"
        )
    length = int.from_bytes(first[:8], "little")
    if not 2 <= length <= MAX_HEADER:
        raise _damaged(where, "its first eight bytes are no header length")
    if length + 8 > size:
        raise _damaged(where, f"its header should be {length} bytes, the file has {size}")
    text = first[8 : 8 + length]
    if len(text) < length:
        text += read_range(len(first), 8 + length)
    try:
        entries = parse_json(text)
        entries.pop("__metadata__", None)
        tensors = {name: _stored(entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise _damaged(where, "its header cannot be read") from None
    end = max((tensor.stop for tensor in tensors.values()), default=8 + length)
    if end > size:
        raise _damaged(where, f"it should be {end} bytes long and is {size}: it is truncated")
    if end < size:
        raise _damaged(where, f"{size - end} bytes follow its last tensor")
    return tensors


def check_present(where: str, start: bytes) -> None:
    """That a file holds anything of its own, by its first bytes.

    Raises:
        UserError: it is empty, or the pointer that git LFS leaves in a file's place.
    """
    if not start:
        raise UserError(f"{where} is empty: download or export it again")
    if start.startswith(_LFS):
        raise UserError(
            f"{where} is a git LFS pointer, the file itself was not fetched: run `git lfs pull` "
            "there, or download it again"
        )


def _stored(entry: dict[str, object], base: int) -> Stored:
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError
    start, stop = (base + int(offset) for offset in offsets)
    stored = Stored(tuple(int(n) for n in shape), str(entry["dtype"]), start, stop)
    item = ITEM_BYTES.get(stored.dtype)
    if start > stop or (item is not None and math.prod(stored.shape) * item != stop - start):
        raise ValueError
    return stored


def _damaged(where: str, why: str) -> UserError:
    return UserError(
        f"{where} is not a whole safetensors file ({why}): download or export it again"
    )
