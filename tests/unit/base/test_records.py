"""base/records: rows of files and of the hub, with the place and the reason where one is broken."""

import gzip
import json
import re
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


def test_parquet_rows_are_records(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"messages": [{"role": "user", "content": str(i)}]} for i in range(3000)]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert values(path) == rows
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"a\.parquet: "):
        values(path)


def test_hub_data_sets_need_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        open_hub("owner/name")


class Hub:
    """Stands in for `datasets.load_dataset`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.rows: list[dict[str, Any]] = []
        self.called: list[tuple[Any, ...]] = []
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets, "load_dataset", self.load)

    def load(self, name: str, config: str | None, *, split: str, revision: str | None) -> Any:
        import datasets

        self.called.append((name, config, split, revision))
        if self.error:
            raise self.error
        return datasets.Dataset.from_list(self.rows)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(monkeypatch)


def test_a_hub_data_set_is_read_by_rows_and_known_by_its_fingerprint(hub: Hub) -> None:
    hub.rows = [{"messages": [{"role": "user", "content": str(i)}]} for i in range(5)]
    opened = open_hub("owner/name", split="test", revision="v1", config="c")
    assert hub.called == [("owner/name", "c", "test", "v1")]
    assert opened.count == 5
    assert [(r.number, r.line, r.value) for r in opened.records()] == [
        (i + 1, None, row) for i, row in enumerate(hub.rows)
    ]
    assert opened.identity["revision"] == "v1"
    assert re.fullmatch(r"[0-9a-f]+", opened.identity["fingerprint"])


def test_the_split_is_train_unless_said(hub: Hub) -> None:
    hub.rows = [{"a": 1}]
    assert open_hub("name").identity["split"] == "train"
    assert hub.called == [("name", None, "train", None)]


def test_what_the_hub_refuses_is_one_line_with_a_way_out(hub: Hub) -> None:
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    for error, match in [
        (DatasetNotFoundError("gone"), "not on the hub .*set HF_TOKEN.*: gone"),
        (ConnectionError("Couldn't reach it"), "hub cannot be reached .*download it elsewhere"),
        (ValueError('Unknown split "a".\nShould be b'), 'split train: Unknown split "a". Should'),
        (RuntimeError("scripts are no longer supported"), "scripts are no longer"),
        (DataFilesNotFoundError("No data"), "split train: No data"),
        (OSError(28, "No space left"), "cannot be read or stored: .*No space left"),
    ]:
        hub.error = error
        with pytest.raises(UserError, match=match) as caught:
            open_hub("owner/name")
        assert "\n" not in str(caught.value)


def test_a_number_of_thousands_of_digits_is_a_problem_of_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": ' + "9" * 5000 + '}\n{"a": 1}\n')
    first, second = records.read_file(tmp_path / "a.jsonl")
    assert first.problem == ("not_json", "a number of thousands of digits")
    assert second.problem is None
