from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.overlay import contract, variants
from sglang_qwen3next_eagle3.overlay.contract import Installed


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    variants.has_layer_boundaries.cache_clear()
    yield
    variants.has_layer_boundaries.cache_clear()


def test_arguments_are_published_where_a_release_reads_them_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = Installed("0.5.23", Path())
    monkeypatch.setattr(contract, "installed_sglang", lambda: installed)
    done: list[Any] = []
    one_batch = SimpleNamespace(
        spawn_world_rank=lambda arguments, tp_rank, pp_rank: 10 * pp_rank + tp_rank,
        SpawnRanks=lambda world_rank, gpu_id: (world_rank, gpu_id),
        publish=lambda arguments, role, ranks: done.append((arguments, role, ranks)),
        _init_process_global_configs=lambda: done.append("configured"),
    )
    variants.publish(one_batch, "arguments", 3)
    assert done == [("arguments", "scheduler", (3, 3)), "configured"]


@pytest.mark.parametrize("installed", [Installed("0.5.17", Path()), None])
def test_elsewhere_there_is_nothing_to_publish(
    monkeypatch: pytest.MonkeyPatch, installed: Installed | None
) -> None:
    monkeypatch.setattr(contract, "installed_sglang", lambda: installed)
    variants.publish(SimpleNamespace(), "arguments", 0)
