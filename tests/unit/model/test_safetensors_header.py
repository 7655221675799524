"""Our reading of a header against the library's, and of files that are none."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import safetensors_header
from sglang_qwen3next_eagle3.model.safetensors_header import Stored


def parse(content: bytes) -> dict[str, Stored]:
    return safetensors_header.read("f", len(content), lambda start, stop: content[start:stop])


def with_header(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_places_shapes_and_dtypes_are_the_library_s(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6, dtype=torch.int64).view(2, 3),
        "b": torch.tensor([True, False]),
        "c": torch.randn(3).bfloat16(),
        "d": torch.tensor(1.5),
    }
    save_file(tensors, tmp_path / "f", metadata={"format": "pt"})
    content = (tmp_path / "f").read_bytes()
    found = parse(content)
    with safe_open(tmp_path / "f", framework="pt") as opened:
        for name in tensors:
            part = opened.get_slice(name)
            assert found[name].shape == tuple(part.get_shape())
            assert found[name].dtype == part.get_dtype()
    place = found["a"]
    assert list(struct.unpack("<6q", content[place.start : place.stop])) == [0, 1, 2, 3, 4, 5]
    assert set(found) == set(tensors)


def test_a_header_longer_than_the_first_range_is_read_whole() -> None:
    entries = {
        f"tensor-{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]}
        for i in range(2000)
    }
    content = with_header(entries, bytes(2000))
    assert len(content) > safetensors_header.FIRST_READ
    assert len(parse(content)) == 2000


U8 = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty: download or export it again"),
        (b"\xff" * 64, "no header length"),
        ((1000).to_bytes(8, "little") + b"{}", "its header should be 1000 bytes, the file has 10"),
        ((2).to_bytes(8, "little") + b"{]", "its header cannot be read"),
        (with_header([1]), "its header cannot be read"),
        (with_header({"a": {"dtype": "U8"}}), "its header cannot be read"),
        (with_header({"a": {**U8, "shape": [5]}}, bytes(4)), "its header cannot be read"),
        (with_header({"a": U8}, bytes(3)), "it is truncated"),
        (with_header({"a": U8}, bytes(5)), "1 bytes follow its last tensor"),
        (b"\x80\x04rest", "is a pickle under the name"),
        (b"PK\x03\x04rest", "is a pickle under the name"),
    ],
)
def test_what_is_no_whole_file_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse(content)
