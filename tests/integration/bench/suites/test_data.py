"""A suite in parquet, which pyarrow reads and takes seconds to import."""

from pathlib import Path

import pytest

from tests.support.small_suite import ROWS, fields, suite


def test_parquet_is_read_where_pyarrow_is(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert fields(suite({"path": "a.parquet"}), tmp_path) == ROWS
