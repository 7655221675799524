"""base/records where pyarrow and datasets read, which take seconds to import."""

import re
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.records import open_hub, read_file


def test_parquet_rows_are_records(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"messages": [{"role": "user", "content": str(i)}]} for i in range(3000)]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert [record.value for record in read_file(path)] == rows
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"a\.parquet: "):
        list(read_file(path))


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
