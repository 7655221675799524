"""What a recorded cycle of chains launches, launched once before the first request.

Otherwise it would be compiled and loaded while a cycle is recorded, which is in live traffic, and
again for a larger batch or another number of drafts.
"""

import logging
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.environment import DEFER
from sglang_qwen3next_eagle3.overlay.seams.kernels import columns_of

logger = logging.getLogger(__name__)
_WRITTEN = (
    "req_pool_indices", "seq_lens", "extend_seq_lens", "num_correct_drafts", "num_accept_tokens",
    "input_ids", "positions", "out_cache_loc",
)  # fmt: skip
"""Of the buffers of a draft extend's graph."""


def make_ready(worker: Any) -> None:
    """Of a worker whose graphs are captured. What cannot be done here is done when it is needed."""
    started = time.monotonic()
    try:
        for extend, verify in _graphs_of(worker):
            for requests in _sizes(extend):
                _launch(extend, verify, requests)
    except Exception:
        logger.debug("kernels of recorded cycles are not all ready", exc_info=True)
    logger.debug("kernels of recorded cycles are ready in %.1f s", time.monotonic() - started)


def _graphs_of(worker: Any) -> Iterator[tuple[Any, Any]]:
    """The runners of draft extend and verify, of every number of drafts that has graphs."""
    draft, target = worker.draft_worker, worker.target_worker.model_runner
    found = [(draft.cuda_graph_runner_for_draft_extend, target.decode_cuda_graph_runner)]
    states = getattr(getattr(worker, "adaptive_controller", None), "_states", {})
    found += [
        (state.cuda_graph_runner_for_draft_extend, state.target_graph_runner)
        for state in states.values()
    ]
    seen = set()
    for extend, verify in found:
        if extend is not None and verify is not None and id(extend) not in seen:
            seen.add(id(extend))
            yield extend, verify


def _sizes(extend: Any) -> list[int]:
    """One number of requests for each that has kernels of its own."""
    nodes, found = extend.captured_req_width, dict[tuple[int, int], int]()
    for requests in sorted(extend.capture_bs):
        found.setdefault((columns_of(requests), _columns_of_kept(requests * nodes)), requests)
    return list(found.values())


def _columns_of_kept(tokens: int) -> int:
    return max(512, 1 << (tokens - 1).bit_length())


def _launch(extend: Any, verify: Any, requests: int) -> None:
    """Everything on tensors that nobody reads, of the types and widths of what is read."""
    from sglang_qwen3next_eagle3.overlay.seams import chain_kernels

    drafted, verified = (next(iter(one.backend._outputs.values())) for one in (extend, verify))
    device = drafted.hidden_states.device
    rows = requests * extend.captured_req_width

    def empty(count: int, like: torch.Tensor) -> torch.Tensor:
        return torch.zeros(count, *like.shape[1:], dtype=like.dtype, device=device)

    def longs(count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.int64, device=device)

    candidates = longs(rows).view(requests, -1)
    logits = empty(rows, verified.next_token_logits)
    predict, accept_lens, _ = chain_kernels.accept(logits, candidates)
    outs = torch.zeros(1, rows + requests, dtype=torch.int32, device=device)
    chain_kernels.keep(longs(1), predict, accept_lens, outs)
    buffers, backend = extend.buffers, extend.draft_extend_attn_backend
    hidden = empty(rows, buffers.hidden_states)
    copies = {name: empty(rows, getattr(buffers, name)) for name in _WRITTEN}
    metadata = SimpleNamespace(
        req_to_token=backend.req_to_token,
        qo_indptr=empty(requests + 1, backend.qo_indptr),
        kv_indptr=empty(requests + 1, backend.kv_indptr),
        cuda_graph_kv_indices=empty(1, backend.cuda_graph_kv_indices),
    )
    chain_kernels.prepare(
        metadata,
        SimpleNamespace(**copies, hidden_states=torch.zeros_like(hidden)),
        requests,
        extend.seq_len_fill_value,
        longs(requests),
        longs(requests),
        accept_lens,
        predict,
        longs(rows),
        hidden,
    )
    left = empty(rows, drafted.next_token_logits), empty(rows, drafted.hidden_states)
    chain_kernels.leave(*left, accept_lens)
    if extend.captured_req_width == 1 and os.environ.get(DEFER):
        # What cycles of 0 steps keep (adaptive/deferral.py).
        of, kept = (predict, longs(rows), longs(rows)), (torch.zeros_like(hidden), longs(3))
        chain_kernels.put_off(longs(rows), longs(1).int(), 1, of, hidden, *kept)
