import os
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.data.sources import (
    Source,
    labelled,
    open_source,
    parse_source,
)


def test_a_source_is_a_name_and_options_after_commas() -> None:
    assert parse_source("owner/name") == Source("owner/name")
    spelled = "owner/name,weight=0.5,format=messages,config=c,split=train[:10%],revision=v1"
    assert parse_source(spelled) == Source(
        "owner/name", Fraction(1, 2), "messages", "c", "train[:10%]", "v1"
    )


def test_a_file_may_have_commas_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a,weight=2"
    path.touch()
    assert parse_source(str(path)) == Source(str(path))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a,wieght=2", "'wieght=2' does not fit: spell it PATH_OR_NAME"),
        ("a,weight", "'weight' does not fit"),
        ("a,split=", "'split=' does not fit"),
        ("a,weight=1,weight=2", "does not fit"),
        ("a,weight=0", "a number above 0"),
        ("a,weight=-1", "a number above 0"),
        ("a,weight=nan", "a number above 0"),
        ("a,weight=1/0", "a number above 0"),
        ("a,format=alpaca", "format is one of sharegpt, ultrachat, perfectblend, messages"),
    ],
)
def test_what_is_not_spelled_so_is_refused(text: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        parse_source(text)


def test_a_split_does_not_go_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(UserError, match="split goes with a hub name"):
        parse_source(f"{tmp_path / 'a.jsonl'},split=train")


def test_labels_are_short_and_unique() -> None:
    names = ["x/chat.jsonl.gz", "owner/chat", "chat.v2.json", "y/chat.json"]
    labels = [source.label for source in labelled([Source(name) for name in names])]
    assert labels == ["chat", "chat.2", "chat.v2", "chat.3"]


def test_a_file_is_known_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"abc")
    # The SHA-256 of "abc" of FIPS 180-2, appendix B.1.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert open_source(Source(str(path))).identity == {"sha256": digest}


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("none.jsonl", "there is no file none.jsonl: give a local file or a hub name"),
        ("./none", "there is no file ./none"),
        ("a/b/c", "there is no file a/b/c"),
        ("folder", "folder is a folder: give a JSON, JSONL or Parquet file in it"),
    ],
)
def test_a_missing_file_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=match):
        open_source(Source(name))
