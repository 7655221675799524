"""Sums over ranks that cannot be ours, or are wrong, stay with stock, and the log says why."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast import peers, preparation, ranks
from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import reference_add_norm_quantize
from sglang_qwen3next_eagle3.overlay.fast.kernels.peer_sum import Peers

WIDTH = 256
RUNNER = SimpleNamespace(
    model=SimpleNamespace(config=SimpleNamespace(hidden_size=WIDTH)), device="cpu"
)


class Kernels:
    """Whose sums over two ranks, of which the other has the same part, are half of what stock's
    are in the turn `wrong`; its norms (`spoils` normed) or codes are spoilt there instead."""

    def __init__(self, wrong: int = -1, spoils: str = "sums") -> None:
        self.peers: Any = None
        self.turn, self.wrong, self.spoils = -1, wrong, spoils
        self.rows: set[int] = set()

    def sum_norm(self, part: torch.Tensor, residual: torch.Tensor, *others: Any) -> Any:
        self.turn += 1
        self.rows.add(len(part))
        wrong = self.turn == self.wrong
        total = part if wrong and self.spoils == "sums" else 2 * part
        made = reference_add_norm_quantize(total, residual, *others)
        if wrong and self.spoils != "sums":
            made = made._replace(**{self.spoils: torch.zeros_like(getattr(made, self.spoils))})
        return made


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
    assert kernels.rows == {MAX_ROWS}


@pytest.mark.parametrize("wrong", [0, 5])
@pytest.mark.parametrize(
    ("spoils", "said"), [("sums", "sums"), ("normed", "norms"), ("codes", "codes")]
)
def test_a_sum_that_is_off_leaves_them_to_stock(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: int, spoils: str,
    said: str,
) -> None:  # fmt: skip
    kernels = Kernels(wrong, spoils)
    opened(monkeypatch, kernels)
    assert kernels.peers is None
    assert f"allreduce stays with stock: it differs from stock in {said} by" in caplog.text


def test_a_rank_that_is_off_runs_all_sums_that_the_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would wait for what it left out, and it for what they have to say."""
    runs = []
    for wrong in (-1, 0, 5):
        done: list[str] = []

        def summed(part: torch.Tensor, done: list[str] = done) -> torch.Tensor:
            done.append("stock")
            return 2 * part

        monkeypatch.setattr(ranks, "summed", summed)
        kernels = Kernels(wrong)
        opened(monkeypatch, kernels)
        runs.append((kernels.turn, done))
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][0] == 7
    assert len(runs[0][1]) == 8


def test_memory_that_is_not_shared_leaves_them_to_stock(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = Kernels()
    with caplog.at_level(logging.WARNING):
        opened(monkeypatch, kernels, fails=True)
    assert kernels.peers is None
    assert "allreduce stays with stock: RuntimeError: peer access is not supported" in caplog.text
