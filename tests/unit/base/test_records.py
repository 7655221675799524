"""base/records: rows of files and of the hub, with the place and the reason where one is broken."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_qwen3next_eagle3.base import records
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.records import open_hub, read_file


def values(path: Path) -> list[object]:
    return [record.value for record in read_file(path)]


def test_jsonl_has_line_numbers_and_broken_lines_do_not_stop_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    deep = b"[" * 100_000
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": \n"\xff"\n7\n' + deep + b'\n{"a": 2}')
    found = [
        (record.number, record.line, record.value, (record.problem or [None])[0])
        for record in read_file(path)
    ]
    assert found == [
        (1, 1, {"a": 1}, None),
        (3, 3, None, "not_json"),
        (4, 4, None, "not_utf8"),
        (5, 5, 7, None),
        (6, 6, None, "not_json"),
        (7, 7, {"a": 2}, None),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=8)


@given(OBJECTS, st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 40))
def test_an_array_is_read_in_pieces_as_json_reads_it_whole(
    tmp_path_factory: pytest.TempPathFactory,
    items: list[dict[str, Any]],
    indent: int | None,
    ascii_only: bool,
    chunk: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "array.json"
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_only)
    path.write_text(f"\n {text}\n", encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_CHUNK", chunk)
        assert values(path) == items


def test_items_of_an_array_know_their_number_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n {"a":\n  1},\n\n {"a": 2}, {"a": 3}]')
    assert [(r.number, r.line) for r in read_file(path)] == [(1, 2), (2, 5), (3, 5)]


@pytest.mark.parametrize(
    "text", ['[\n{"a": 1},\n{"a": ', '[\n{"a": 1},\n{"a" 2}]', '[\n{"a": 1},\n']
)
def test_an_array_cut_short_is_an_error_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.json:3: item 2 of the JSON array is broken"):
        values(path)


def test_an_array_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(UserError, match="not UTF-8"):
        values(path)


def test_gzip_is_told_from_the_bytes_and_a_short_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    packed = gzip.compress(b'{"a": 1}\n' * 1000)
    path.write_bytes(packed)
    assert values(path) == [{"a": 1}] * 1000
    path.write_bytes(packed[:-20])
    with pytest.raises(UserError, match="the gzip file is broken"):
        values(path)


def test_hub_data_sets_need_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        open_hub("owner/name")


def test_a_number_of_thousands_of_digits_is_a_problem_of_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": ' + "9" * 5000 + '}\n{"a": 1}\n')
    first, second = records.read_file(tmp_path / "a.jsonl")
    assert first.problem == ("not_json", "a number of thousands of digits")
    assert second.problem is None
