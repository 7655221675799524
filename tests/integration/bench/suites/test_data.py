"""A suite in parquet, which pyarrow reads and takes seconds to import."""

from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.bench.suites import Suite, prompts

ROWS = [{"id": "a", "word": "one"}, {"id": "b", "word": "two"}]


def suite(*files: dict[str, Any], **source: Any) -> Suite:
    return Suite.model_validate(
        {
            "name": "ours",
            "description": "",
            "licence": "",
            "source": {"files": files, **source},
            "prompt": {"id": "id", "template": "{word}"},
            "temperature": 0,
            "max-tokens": 8,
            "sample-count": None,
            "seed": 0,
        }
    )


def fields(suite: Suite, folder: Path | None) -> list[dict[str, Any]]:
    return [dict(record.fields) for record in prompts.read_records(suite, folder).records]


def test_parquet_is_read_where_pyarrow_is(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert fields(suite({"path": "a.parquet"}), tmp_path) == ROWS
