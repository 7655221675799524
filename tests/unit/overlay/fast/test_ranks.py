"""What the ranks of tensor parallelism agree on before they serve."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import preparation, ranks, selfcheck
from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath
from sglang_qwen3next_eagle3.overlay.fast.selfcheck import Deviation


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the other rank says, in the order in which it is asked."""
    said: list[Any] = []
    group = SimpleNamespace(world_size=2, all_gather_object=lambda own: [said.pop(0), own])
    module = ModuleType("sglang.srt.distributed")
    module.get_tp_group = lambda: group  # type: ignore[attr-defined]
    module.tensor_model_parallel_all_reduce = lambda part: part * 2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sglang.srt.distributed", module)
    return said


def test_a_step_that_fails_on_another_rank_fails_here(others: list[Any]) -> None:
    others += [None, "RuntimeError: there"]
    assert ranks.first_failure(lambda: 3) == (3, None)
    assert ranks.first_failure(lambda: 3)[1] == "RuntimeError: there"


def test_a_step_that_fails_here_is_told(others: list[Any]) -> None:
    def fail() -> None:
        raise ValueError("here")

    others.append(None)
    assert ranks.first_failure(fail) == (None, "ValueError: here")


def test_a_head_that_another_rank_cannot_have_is_stocks_here(
    others: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is not compared here: the other rank would not be in its sums."""
    for name in ("of_device", "of_server", "of_drafts"):
        monkeypatch.setattr(preparation.conditions, name, lambda *_: None)
    for name in ("draft_room", "no_room"):
        monkeypatch.setattr(preparation, name, lambda *_: None)
    monkeypatch.setattr(variants, "arguments_of", lambda _: None)
    monkeypatch.setattr(preparation, "build_head", lambda worker, rounded: object())
    others += [None, "its q has a bias"]
    target = SimpleNamespace(model_runner=SimpleNamespace(model=SimpleNamespace(config=None)))
    worker = SimpleNamespace(
        draft_runner=None,
        device="cuda",
        server_args=None,
        speculative_num_draft_tokens=4,
        target_worker=target,
    )
    wanted = preparation.Wanted(frozenset({"head"}), required=False)
    assert preparation.prepare_head(worker, wanted) is None
    assert others == []
    assert "head stays with stock: its q has a bias" in caplog.text


def test_a_kernel_that_raises_on_one_of_several_ranks_ends_the_start(others: list[Any]) -> None:
    def fail() -> Any:
        raise ValueError("no memory")

    with pytest.raises(RuntimeError, match="moe of layer 3.*--no-fast"):
        selfcheck.probe_step([], 3, "moe", fail, {})


def test_what_is_off_on_another_rank_goes_back_to_stock_here(others: list[Any]) -> None:
    class Layer:
        def __init__(self, stages: frozenset[str]) -> None:
            self.stages = stages

        def with_stages(self, stages: frozenset[str]) -> "Layer":
            return Layer(stages)

    both = frozenset({"moe", "dense"})
    layers: Any = {0: Layer(both), 1: Layer(both)}
    path = FastPath(None, layers, device="cpu")  # type: ignore[arg-type]
    others.append([Deviation(1, "moe", "experts", 1.0, 1.0)])
    (line,) = selfcheck.settle(path, [Deviation(0, "dense", "stream", 1.0, 1.0)])[:1]
    assert line.startswith("dense stays with stock in layers 0")
    assert [sorted(layer.stages) for layer in path.layers.values()] == [["moe"], ["dense"]]


def test_a_part_that_was_left_to_the_next_norm_is_added_up(others: list[Any]) -> None:
    part, marked = torch.ones(2), torch.ones(2)
    setattr(marked, ranks.LATER, True)
    assert torch.equal(ranks.whole(part), part)
    assert torch.equal(ranks.whole(marked), 2 * part)
