"""The sum over ranks with the norm behind it, in Triton's interpreter: ranks played one after the
other in one process, and two processes that wait for one another in memory that they share."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import Normed, add_norm_quantize
from sglang_qwen3next_eagle3.overlay.fast.kernels.peer_sum import (
    Peers,
    reference_sum_norm_quantize,
    space,
    sum_norm_quantize,
)

EPS = 1e-6
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "support" / "summing_rank.py"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


class Ranks:
    """So many ranks in one process. count: of the sums that every row already had."""

    def __init__(self, ranks: int, width: int, count: int = 0) -> None:
        self.memory = [torch.zeros(space(ranks, width), dtype=torch.uint8) for _ in range(ranks)]
        addresses = torch.tensor([one.data_ptr() for one in self.memory])
        for one in self.memory:
            one[-ranks * MAX_ROWS * 4 :].view(torch.int32).fill_(count)
        self.peers = [
            Peers(addresses, torch.full((MAX_ROWS,), count, dtype=torch.int32), rank, width)
            for rank in range(ranks)
        ]

    def sums(
        self, parts: list[torch.Tensor], residual: torch.Tensor, weight: torch.Tensor,
        quantize: bool = True, gate: torch.Tensor | None = None,
    ) -> list[tuple[Normed, torch.Tensor]]:  # fmt: skip
        """What every rank makes of it, and the product with the gate."""
        out: list[tuple[Normed, torch.Tensor]] = []
        for steps in ((True, False), (False, True)):
            out = []
            for peers, part in zip(self.peers, parts, strict=True):
                gated = torch.zeros(len(part)).bfloat16()
                made = sum_norm_quantize(
                    peers, part, residual, weight, EPS, quantize, gate, gated, steps
                )
                out.append((made, gated))
        return out


@pytest.fixture
def play(addressed: Callable[[torch.Tensor], None]) -> Callable[..., Ranks]:
    """Ranks whose kernels reach the others' memory."""

    def made(ranks: int, width: int, count: int = 0) -> Ranks:
        played = Ranks(ranks, width, count)
        for one in played.memory:
            addressed(one)
        return played

    return made


def same(some: Normed, other: Normed) -> bool:
    pairs = [(a, b) for a, b in zip(some, other, strict=True) if a is not None and b is not None]
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs) and [
        a is None for a in some
    ] == [b is None for b in other]


@pytest.mark.parametrize(("ranks", "width", "quantize"), [(2, 256, True), (4, 192, False)])
def test_it_is_the_norm_behind_an_all_reduce(
    play: Callable[..., Ranks], ranks: int, width: int, quantize: bool
) -> None:
    """Bit for bit what `add_norm_quantize` makes of the rounded sum; on every rank."""
    played, gate = play(ranks, width), random(1, width, seed=9)
    for turn in range(3):
        parts = [random(3, width, seed=10 * turn + rank) for rank in range(ranks)]
        residual, weight = random(3, width, seed=7), random(width, seed=8)
        total = torch.zeros(3, width)
        for part in parts:
            total += part.float()
        gated = torch.zeros(3).bfloat16()
        wanted = add_norm_quantize(total.bfloat16(), residual, weight, EPS, quantize, gate, gated)
        for made, product in played.sums(parts, residual, weight, quantize, gate):
            assert same(made, wanted)
            assert torch.equal(product, gated)
        reference = reference_sum_norm_quantize(parts, residual, weight, EPS, quantize)
        torch.testing.assert_close(wanted.normed, reference.normed, rtol=2**-7, atol=1e-3)
        assert torch.equal(wanted.residual, reference.residual)


def test_a_row_does_not_know_how_many_run_beside_it(play: Callable[..., Ranks]) -> None:
    parts, residual = [random(9, 256, seed=rank) for rank in range(2)], random(9, 256, seed=5)
    weight = random(256, seed=6)
    (whole, _), _ = play(2, 256).sums(parts, residual, weight)
    played = play(2, 256)
    for rows in (9, 1, 4):
        few = [part[:rows].contiguous() for part in parts]
        (made, _), (other, _) = played.sums(few, residual[:rows].contiguous(), weight)
        assert same(made, other)
        assert torch.equal(made.normed, whole.normed[:rows])
        assert torch.equal(made.residual, whole.residual[:rows])
    # A row that has had more sums than its neighbours goes by its own count.
    assert played.peers[0].counts[:9].tolist() == [3, 2, 2, 2, 1, 1, 1, 1, 1]


def test_the_numbers_may_run_over(play: Callable[..., Ranks]) -> None:
    played = play(2, 128, count=2**31 - 2)
    for turn in range(4):
        parts = [random(1, 128, seed=turn + 50 * rank) for rank in range(2)]
        residual, weight = random(1, 128, seed=3), random(128, seed=4)
        wanted = reference_sum_norm_quantize(parts, residual, weight, EPS)
        for made, _ in played.sums(parts, residual, weight):
            assert torch.equal(made.residual, wanted.residual)
    assert int(played.peers[0].counts[0]) == -(2**31) + 2


def test_what_does_not_fit_is_refused() -> None:
    peers = Ranks(2, 128).peers[0]
    weight = random(128)
    with pytest.raises(ValueError, match="33 rows of 128, there is room for 32 of 128"):
        sum_norm_quantize(peers, random(33, 128), random(33, 128), weight, EPS)
    with pytest.raises(ValueError, match="not 128 times a power of two"):
        sum_norm_quantize(peers, random(1, 96), random(1, 96), weight, EPS)


def test_two_processes_wait_for_one_another(tmp_path: Path) -> None:
    """Eight sums, every other of which one of them comes to late: none may be read too soon, nor
    written over before it was read."""
    words = [sys.executable, str(SCRIPT), str(tmp_path), "2", "8"]
    processes = [
        subprocess.Popen([*words, str(rank)], env=_environment(), cwd=ROOT) for rank in range(2)
    ]
    try:
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(first) == 8
    for turn, (mine, theirs) in enumerate(zip(first, second, strict=True)):
        parts = [random(2, 128, seed=2 * turn + rank) for rank in range(2)]
        wanted = reference_sum_norm_quantize(parts, random(2, 128, seed=99), random(128), EPS)
        assert torch.equal(mine, wanted.residual)
        assert torch.equal(mine, theirs)


def _environment() -> dict[str, str]:
    import os

    path = os.pathsep.join([str(ROOT), *sys.path])
    return {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
