"""Sums over ranks that cannot be ours, or are wrong, stay with stock, and the log says why."""

import ctypes
import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast import peers, preparation, ranks
from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import reference_add_norm_quantize
from sglang_qwen3next_eagle3.overlay.fast.kernels.peer_sum import Peers, space
from tests.gpu import measure_sums

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
    def answer(own: Any, handles: Any, width: int, device: str) -> Peers:
        if fails:
            raise RuntimeError("peer access is not supported")
        addresses, counts = torch.zeros(2, dtype=torch.int64), torch.zeros(32, dtype=torch.int32)
        return Peers(addresses, counts, 1, width)

    monkeypatch.setattr(peers, "allocated", lambda *_: peers.SharedSpace(1, "handle"))
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


class OneRank:
    """What one rank of two asks of the other, one question after the other."""

    def __init__(self, others: list[Any]) -> None:
        self.others, self.said = others, list[Any]()

    def __call__(self, own: Any) -> list[Any]:
        self.said.append(own)
        return [own, self.others[len(self.said) - 1]]


@pytest.mark.parametrize("here", [True, False])
def test_ranks_ask_the_same_where_one_has_no_memory(
    monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    """One question, whether all have it: handles of memory that there is not are not gathered."""

    def allocated(*_: Any) -> peers.SharedSpace:
        if here:
            raise RuntimeError("out of memory")
        return peers.SharedSpace(1, "handle")

    asked = OneRank([None if here else "RuntimeError: out of memory"])
    monkeypatch.setattr(ranks, "of_all", asked)
    monkeypatch.setattr(peers, "allocated", allocated)
    assert peers.agreed(WIDTH, "cpu") == (None, "RuntimeError: out of memory")
    assert len(asked.said) == 1


def test_what_is_opened_are_the_others_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "of_all", OneRank([None, "theirs", None]))
    monkeypatch.setattr(peers, "allocated", lambda *_: peers.SharedSpace(1, "ours"))
    monkeypatch.setattr(peers, "opened", lambda own, handles, *_: (own.address, handles))
    answer: Any = peers.agreed(WIDTH, "cpu")
    assert answer == ((1, ["ours", "theirs"]), None)


class Library:
    """CUDA's, in so far as it is asked here."""

    def cudaMalloc(self, size: int) -> Any:
        return ctypes.c_void_p(4096)

    def cudaMemset(self, pointer: Any, value: int, size: int) -> None:
        assert (pointer.value, value) == (4096, 0)
        assert size == space(2, WIDTH)

    def cudaIpcGetMemHandle(self, pointer: Any) -> str:
        return "handle"

    def cudaIpcOpenMemHandle(self, handle: str) -> Any:
        return ctypes.c_void_p({"other": 8192}[handle])


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Ranks 0 and 1, this one 1, by stand-ins for SGLang's and CUDA's."""
    group = SimpleNamespace(world_size=2, rank_in_group=1, ca_comm=None)
    distributed, wrapper = ModuleType("distributed"), ModuleType("cuda_wrapper")
    distributed.get_tp_group = lambda: group  # type: ignore[attr-defined]
    wrapper.CudaRTLibrary = Library  # type: ignore[attr-defined]
    name = "sglang.srt.distributed"
    monkeypatch.setitem(sys.modules, name, distributed)
    monkeypatch.setitem(sys.modules, f"{name}.device_communicators", ModuleType("communicators"))
    monkeypatch.setitem(sys.modules, f"{name}.device_communicators.cuda_wrapper", wrapper)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return group


@pytest.mark.parametrize(
    "custom",
    [
        None,
        SimpleNamespace(disabled=True),
        SimpleNamespace(disabled=True, full_nvlink=True),
        SimpleNamespace(disabled=False, full_nvlink=False),
    ],
)
def test_gpus_without_nvlink_between_them_are_refused(group: SimpleNamespace, custom: Any) -> None:
    """PCIe may map the memory and yet not carry atomics: the ranks would wait for ever."""
    group.ca_comm = custom
    with pytest.raises(RuntimeError, match="connected by NVLink"):
        peers.allocated(WIDTH, "cpu")


@pytest.mark.parametrize(
    "custom", [SimpleNamespace(disabled=False, full_nvlink=True), SimpleNamespace(disabled=False)]
)
def test_memory_is_opened_in_order_of_rank(group: SimpleNamespace, custom: Any) -> None:
    group.ca_comm = custom
    own = peers.allocated(WIDTH, "cpu")
    assert (own.address, own.handle) == (4096, "handle")
    view = peers.opened(own, ["other", "handle"], WIDTH, "cpu")
    assert (view.addresses.tolist(), view.rank, view.width) == ([8192, 4096], 1, WIDTH)
    assert not view.counts.any()


@pytest.mark.parametrize("ranks_of", [2, 4])
@pytest.mark.parametrize(
    ("found", "fails"),
    [
        ({}, (False, False)),
        ({"ranks agree": False}, (True, True)),
        ({"replays that differ": 1}, (True, True)),
        ({measure_sums.WRONG: 1}, (True, True)),
        # Of four parts there is more than one sum in fp32, of two there is not.
        ({measure_sums.DIFFERENT: 1}, (True, False)),
    ],
)
def test_what_a_measurement_of_sums_fails_for(
    ranks_of: int, found: dict[str, Any], fails: tuple[bool, bool]
) -> None:
    right = {"ranks agree": True, "replays that differ": 0}
    row = right | {measure_sums.WRONG: 0, measure_sums.DIFFERENT: 0} | found
    assert measure_sums.failed(row, ranks_of) == fails[ranks_of == 4]


def test_a_measurement_knows_the_sum_of_all_parts() -> None:
    drawn = [measure_sums.Rows(3, 7, rank, 4, "cpu") for rank in range(4)]
    total = sum((one.part.float() for one in drawn), torch.zeros(3, measure_sums.WIDTH))
    assert all(torch.equal(one.total, total.bfloat16()) for one in drawn)
    assert not torch.equal(drawn[0].part, drawn[1].part)
