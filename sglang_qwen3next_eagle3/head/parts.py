"""Tensors of a head in the form that it comes in, and the file in which `head convert` writes them:
read by ranges of bytes, so that nothing is in memory whole."""

import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.head.head import TensorInfo
from sglang_qwen3next_eagle3.model import shards

_COPIED = 8 * 2**20
TOKEN_MAPS = {"speculative_token_map.pt": None, "eagle3_meta.pt": "selected_token_ids"}


@dataclass(frozen=True)
class Part:
    """A tensor that is written. origin: its name in the source; read: bytes start .. stop of it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    origin: str
    read: Callable[[int, int], bytes]

    @property
    def bytes(self) -> int:
        return TensorInfo(self.shape, self.dtype).bytes


def stored_parts(files: Folder) -> list[Part]:
    """All tensors of a folder, safetensors or, of a training, a pickle of tensors alone."""
    pickles = [name for name in files.sizes if Path(name).suffix in shards.PICKLES]
    pickles = [name for name in sorted(pickles) if name not in TOKEN_MAPS]
    if any(name.endswith(".safetensors") for name in files.sizes) or len(pickles) != 1:
        return [
            Part(name, place.shape, place.dtype, name, partial(_within, files, file, place.start))
            for name, (file, place) in shards.headers(files).items()
        ]
    return [_of_torch(name, tensor) for name, tensor in _unpickle(files, pickles[0]).items()]


def _within(files: Folder, file: str, base: int, start: int, stop: int) -> bytes:
    return files.read(file, base + start, base + stop)


def _unpickle(files: Folder, file: str) -> dict[str, Any]:
    """Tensors alone: nothing else that a pickle may hold is run."""
    import torch

    try:
        loaded = torch.load(files.path / file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{files.name}/{file} cannot be read as tensors alone: {reason}") from None
    if not isinstance(loaded, Mapping):
        loaded = {"": loaded}
    return {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}


def _of_torch(name: str, tensor: Any) -> Part:
    import torch

    dtypes = {
        torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
        torch.int32: "I32", torch.bool: "BOOL", torch.uint8: "U8",
    }  # fmt: skip
    if tensor.dtype not in dtypes:
        raise UserError(f"{name} is stored as {tensor.dtype}: export it in bfloat16")
    content = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return made_of(name, tuple(tensor.shape), dtypes[tensor.dtype], content, origin=name)


def made_of(name: str, shape: tuple[int, ...], dtype: str, content: bytes, origin: str) -> Part:
    return Part(name, shape, dtype, origin, lambda start, stop: content[start:stop])


def split_fused(part: Part, name: str, config: Mapping[str, Any], where: str) -> Iterator[Part]:
    """A fused projection in its parts: rows of queries, keys and values, or of gate and up."""
    fused = {
        ".qkv_proj.": (".q_proj.", ".k_proj.", ".v_proj."),
        ".gate_up_proj.": (".gate_proj.", ".up_proj."),
    }
    for word, names in fused.items():
        if word not in name:
            continue
        rows = part.shape[0]
        shares = [1, 1]
        if len(names) == 3:
            heads = config.get("num_attention_heads")
            kv = config.get("num_key_value_heads") or heads
            if not isinstance(heads, int) or not isinstance(kv, int):
                raise UserError(f"{where} names no num_attention_heads, {name} cannot be split")
            shares = [heads, kv, kv]
        if rows % sum(shares):
            raise UserError(f"{where}: the {rows} rows of {name} are not {shares} heads")
        width = rows // sum(shares)
        row, start = part.bytes // rows, 0
        for share, one in zip(shares, names, strict=True):
            shape = (share * width, *part.shape[1:])
            shifted = partial(_shifted, part.read, start * row)
            yield Part(name.replace(word, one), shape, part.dtype, part.origin, shifted)
            start += share * width
        return
    yield Part(name, part.shape, part.dtype, part.origin, part.read)


def _shifted(read: Callable[[int, int], bytes], by: int, start: int, stop: int) -> bytes:
    return read(by + start, by + stop)


def integers(part: Part, where: str) -> list[int]:
    code = {"I64": "q", "I32": "i"}.get(part.dtype)
    if code is None:
        raise UserError(f"{where}: {part.origin} is stored as {part.dtype}, not as whole numbers")
    return list(array(code, part.read(0, part.bytes)))


def listed(part: Part | None) -> list[int] | None:
    """Of t2d: the target's tokens that can be drafted, ascending."""
    if part is None or part.dtype not in {"BOOL", "U8"}:
        return None
    return [token for token, has in enumerate(part.read(0, part.bytes)) if has]


def token_map(files: Folder) -> list[int] | None:
    """The target's token of each draft token, where NeMo's recipe wrote it beside the weights."""
    for name, key in TOKEN_MAPS.items():
        if name in files.sizes:
            found = _unpickle(files, name).get(key or "")
            if found is not None:
                return [int(token) for token in found.flatten().tolist()]
    return None


def write_weights(path: Path, parts: tuple[Part, ...]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    # The wider first, as safetensors itself does: then all are aligned.
    ordered = sorted(
        parts, key=lambda part: (-part.bytes // max(1, math.prod(part.shape)), part.name)
    )
    for part in ordered:
        place = [end, end + part.bytes]
        header[part.name] = {"dtype": part.dtype, "shape": list(part.shape), "data_offsets": place}
        end = place[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in ordered:
            for start in range(0, part.bytes, _COPIED):
                file.write(part.read(start, min(start + _COPIED, part.bytes)))
