"""The kernels around a verify and a draft extend of chains give what torch gives, to the bit."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.adaptive.deferral import Deferral
from sglang_qwen3next_eagle3.overlay.environment import DEFER
from sglang_qwen3next_eagle3.overlay.seams import chain_kernels, ready
from tests.support import chain_reference


def test_each_is_torch_s_to_the_bit() -> None:
    assert chain_reference.compare("cpu", (1, 3), 4500, 48) == 2 * 4 * 8


def test_of_long_requests_and_of_many() -> None:
    assert chain_reference.compare_long("cpu") == 3


@pytest.mark.parametrize("requests", [1, 3])
def test_what_is_put_off_is_kept_by_slot_and_cycle(requests: int) -> None:
    """Of 0 steps, beside what serves where there is no GPU."""
    kept = [Deferral(4), Deferral(4)]
    for each in kept:
        each._make(6, torch.zeros(1, 1500))
    for cycle in range(3):
        slots = torch.randperm(6)[:requests]
        others = (
            torch.randint(9, (requests,), dtype=torch.int32),
            torch.randint(9, (requests,)),
            torch.randint(9, (requests,)),
        )
        hidden, at = torch.randn(requests, 1500), torch.tensor([cycle], dtype=torch.int32)
        kept[0]._keep(slots, at, others, hidden)
        chain_kernels.put_off(slots, at, 4, others, hidden, kept[1]._hidden, kept[1]._others)
    assert kept[0]._others.any()
    assert torch.equal(kept[0]._hidden, kept[1]._hidden)
    assert torch.equal(kept[0]._others, kept[1]._others)


def graph(rows: int, columns: int, hidden: int, **more: Any) -> Any:
    """A runner of graphs, of which one has given so many rows."""
    out = SimpleNamespace(
        next_token_logits=torch.randn(rows, columns), hidden_states=torch.randn(rows, hidden)
    )
    return SimpleNamespace(backend=SimpleNamespace(_outputs={"one": out}), **more)


def extending(nodes: int, sizes: list[int]) -> Any:
    index, count = torch.ones(64).long(), torch.ones(64, dtype=torch.int32)
    buffers = SimpleNamespace(
        req_pool_indices=index, seq_lens=index, extend_seq_lens=count, num_accept_tokens=count,
        num_correct_drafts=count, input_ids=index, positions=index, out_cache_loc=index,
        hidden_states=torch.ones(64, 24),
    )  # fmt: skip
    attention = SimpleNamespace(
        req_to_token=torch.ones(4, 32, dtype=torch.int32), qo_indptr=count, kv_indptr=count,
        cuda_graph_kv_indices=index,
    )  # fmt: skip
    of = {"buffers": buffers, "draft_extend_attn_backend": attention, "seq_len_fill_value": 1}
    return graph(64, 40, 8, captured_req_width=nodes, capture_bs=sizes, **of)


def test_kernels_of_recorded_cycles_are_launched_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of every number of drafts, and of batches that have kernels of their own; what SGLang's
    graphs read stays as it was."""
    launched: list[tuple[str, int, int]] = []
    for name in ("accept", "keep", "prepare", "leave"):
        kernel = getattr(chain_kernels, name)

        def noted(*of: Any, name: str = name, kernel: Any = kernel) -> Any:
            lens = {"accept": 1, "keep": 2, "prepare": 6, "leave": 2}[name]
            rows = {"accept": 0, "keep": 1, "prepare": 7, "leave": 0}[name]
            launched.append((name, of[lens].shape[0], of[rows].shape[0]))
            return kernel(*of)

        monkeypatch.setattr(chain_kernels, name, noted)
    first, other = extending(4, [1, 2, 64]), extending(3, [1, 2])
    verify = graph(64, 50, 24)
    state = SimpleNamespace(cuda_graph_runner_for_draft_extend=other, target_graph_runner=verify)
    same = SimpleNamespace(cuda_graph_runner_for_draft_extend=first, target_graph_runner=verify)
    worker = SimpleNamespace(
        draft_worker=SimpleNamespace(cuda_graph_runner_for_draft_extend=first),
        target_worker=SimpleNamespace(
            model_runner=SimpleNamespace(decode_cuda_graph_runner=verify)
        ),
        adaptive_controller=SimpleNamespace(_states={3: same, 2: state}),
    )
    ready.make_ready(worker)
    names = ["accept", "keep", "prepare", "leave"]
    assert launched == [(name, 1, 4) for name in names] + [(name, 1, 3) for name in names]
    assert all(bool((value == 1).all()) for value in vars(first.buffers).values())
    launched.clear()
    first.capture_bs = [8, 128, 256]
    ready.make_ready(SimpleNamespace(**{**vars(worker), "adaptive_controller": None}))
    assert {requests for _, requests, _ in launched} == {8, 128, 256}


@pytest.mark.parametrize(("nodes", "defer", "count"), [(1, "8", 2), (1, "", 0), (4, "8", 0)])
def test_what_is_put_off_is_ready_where_it_may_be(
    monkeypatch: pytest.MonkeyPatch, nodes: int, defer: str, count: int
) -> None:
    """Of 0 steps, where the variable is set."""
    monkeypatch.setenv(DEFER, defer)
    kept: list[torch.Tensor] = []
    kernel = chain_kernels.put_off

    def noted(*of: Any) -> None:
        kernel(*of)
        kept.append(of[-1])

    monkeypatch.setattr(chain_kernels, "put_off", noted)
    extend, verify = extending(nodes, [2, 64]), graph(64, 50, 24)
    worker = SimpleNamespace(
        draft_worker=SimpleNamespace(cuda_graph_runner_for_draft_extend=extend),
        target_worker=SimpleNamespace(
            model_runner=SimpleNamespace(decode_cuda_graph_runner=verify)
        ),
    )
    ready.make_ready(worker)
    assert len(kept) == min(count, len(ready._sizes(extend)))
    assert bool((extend.buffers.hidden_states == 1).all())


def test_a_worker_without_graphs_is_left_alone() -> None:
    for worker in (None, SimpleNamespace(draft_worker=None)):
        ready.make_ready(worker)
