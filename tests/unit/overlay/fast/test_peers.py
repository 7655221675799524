"""Sums over ranks that cannot be ours, or are wrong, stay with stock, and the log says why."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast import peers, preparation, ranks
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import reference_add_norm_quantize
from sglang_qwen3next_eagle3.overlay.fast.kernels.peer_sum import Peers

WIDTH = 256
RUNNER = SimpleNamespace(
    model=SimpleNamespace(config=SimpleNamespace(hidden_size=WIDTH)), device="cpu"
)


class Kernels:
    """Whose sums over two ranks, of which the other has the same part, are half of what stock's
    are in the turn `wrong`."""

    def __init__(self, wrong: int = -1) -> None:
        self.peers: Any = None
        self.turn, self.wrong = -1, wrong

    def sum_norm(self, part: torch.Tensor, residual: torch.Tensor, *others: Any) -> Any:
        self.turn += 1
        total = part if self.turn == self.wrong else 2 * part
        return reference_add_norm_quantize(total, residual, *others)


@pytest.fixture(autouse=True)
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "of_all", lambda own: [None, own])
    monkeypatch.setattr(ranks, "summed", lambda part: 2 * part)


def opened(monkeypatch: pytest.MonkeyPatch, kernels: Kernels, fails: bool = False) -> None:
    def answer(width: int, device: str) -> Peers:
        if fails:
            raise RuntimeError("peer access is not supported")
        addresses, counts = torch.zeros(2, dtype=torch.int64), torch.zeros(32, dtype=torch.int32)
        return Peers(addresses, counts, 1, width)

    monkeypatch.setattr(peers, "opened", answer)
    path: Any = SimpleNamespace(kernels=kernels)
    preparation._open_peers(path, RUNNER)


def test_right_sums_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = Kernels()
    opened(monkeypatch, kernels)
    assert kernels.peers.width == WIDTH
    assert kernels.turn > 2, "several in a row"


@pytest.mark.parametrize("wrong", [0, 5])
def test_a_sum_that_is_off_leaves_them_to_stock(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: int
) -> None:
    kernels = Kernels(wrong)
    opened(monkeypatch, kernels)
    assert kernels.peers is None
    assert "allreduce stays with stock: it differs from stock in sums by" in caplog.text


def test_memory_that_is_not_shared_leaves_them_to_stock(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = Kernels()
    with caplog.at_level(logging.WARNING):
        opened(monkeypatch, kernels, fails=True)
    assert kernels.peers is None
    assert "allreduce stays with stock: RuntimeError: peer access is not supported" in caplog.text
