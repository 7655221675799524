"""A source on the hub, which datasets reads."""

import pytest

from sglang_qwen3next_eagle3.train.data.sources import (
    open_source,
    parse_source,
)


def test_a_hub_name_is_read_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    called: list[object] = []

    def load(*place: object, **options: object) -> object:
        called.append((place, options))
        return datasets.Dataset.from_list([{"a": 1}, {"a": 2}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    opened = open_source(parse_source("owner/name,split=test,revision=v1,config=c"))
    assert called == [(("owner/name", "c"), {"split": "test", "revision": "v1"})]
    assert opened.rows == 2
    assert [record.value for record in opened.records()] == [{"a": 1}, {"a": 2}]
