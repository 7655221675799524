"""The head by our kernels against stock's, before its graphs are captured: requests that nobody
sent, in a KV cache that nobody uses yet."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import ahead, ranks
from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.dispatch import ROWS
from sglang_qwen3next_eagle3.overlay.fast.head import FastHead, HeadPass
from sglang_qwen3next_eagle3.overlay.fast.made_up import (
    REQUESTS,
    captured_batches,
    draft_room,
    fitting,
)
from sglang_qwen3next_eagle3.overlay.fast.selfcheck import Deviation, Tensors, compared, probe_step
from sglang_qwen3next_eagle3.overlay.fast.stages import COMPILERS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """used: [B, most] slots of the requests in the KV cache. lengths: tokens before a pass."""

    used: torch.Tensor
    lengths: list[int]

    def first(self, requests: int) -> "Places":
        return Places(self.used[:requests], self.lengths[:requests])

    def own(self, nodes: int) -> torch.Tensor:
        rows = [self.used[r, n : n + nodes] for r, n in enumerate(self.lengths)]
        return torch.cat(rows).long()

    def positions(self, nodes: int) -> torch.Tensor:
        device = self.used.device
        return torch.cat([torch.arange(n, n + nodes, device=device) for n in self.lengths])


@torch.no_grad()
def compare(head: FastHead, worker: Any, *, ends: bool = False) -> list[Deviation]:
    """A draft extend and a draft step: states and logits of the rows that are read, and what they
    leave in the KV cache.

    ends: only of as many requests as there is room for, and of one. Where weights are rounded,
    stock computes with the rounded ones, so that the same limits tell a fault; and what was rounded
    is compared with what was loaded.
    """
    found = [
        compared(-1, "head_w8", f"weights of {name}", codes.bf16(), head.weights.bf16(name))
        for name, codes in head.weights.codes.items()
    ]
    nodes = worker.speculative_num_draft_tokens
    if not ranks.several():
        rehearse(head, worker)
    with made_up_places(worker, nodes) as places:
        most = len(places.lengths)
        # What serves a pass depends on its rows.
        every = (most, *(fewer for fewer in REQUESTS if fewer < most))
        for requests in every[:2] if ends else every:
            _compare(found, head, worker, places.first(requests), nodes)
            if worker.speculative_num_steps > 1:
                _compare(found, head, worker, places.first(requests), 1)
    return found


def rehearse(head: FastHead, worker: Any) -> None:
    """Compile side by side what the check launches, and a capture of the head's passes."""
    from sglang.srt.model_executor.forward_context import ForwardContext, forward_context

    nodes, runner = worker.speculative_num_draft_tokens, worker.draft_runner
    compilers = worker.target_worker.model_runner.__dict__.get(COMPILERS)
    with ahead.compiling(compilers) as compiler:
        if compiler is None:
            return
        with compiler.surviving(), made_up_places(worker, nodes) as places:
            most = len(places.lengths)
            batches = {most, *REQUESTS, *captured_batches(worker.target_worker.model_runner)}
            for requests in sorted(n for n in batches if n <= most):
                own = places.first(requests)
                for tokens in (nodes, 1) if worker.speculative_num_steps > 1 else (nodes,):
                    batch, backend, at = made_up_pass(head, worker, own, tokens)
                    with forward_context(ForwardContext(attn_backend=backend)):
                        backend.init_forward_metadata(batch)
                        compiler.run(partial(head.forward, at))
                        stock = batch.input_ids, batch.positions, batch
                        compiler.run(partial(runner.model.forward, *stock))
        logger.info("sglang-qwen3next-eagle3: fast path: head: %s", compiler.finish())


def made_up_pass(
    head: FastHead, worker: Any, places: Places, nodes: int
) -> tuple[Any, Any, HeadPass]:
    """A batch, its backend, and the pass of ours: a draft extend, or with one node a step."""
    extends, requests = _extends(worker, nodes), len(places.lengths)
    batch, backend = (extend_batch if extends else step_batch)(head, worker, places, nodes)
    if extends:
        return batch, backend, head.extending(batch, backend, requests, nodes)
    return batch, backend, HeadPass(batch, backend, requests)


def _extends(worker: Any, nodes: int) -> bool:
    return nodes > 1 or bool(worker.speculative_num_draft_tokens == 1)


def _compare(
    found: list[Deviation], head: FastHead, worker: Any, places: Places, nodes: int
) -> None:
    from sglang.srt.model_executor.forward_context import ForwardContext, forward_context

    runner, requests = worker.draft_runner, len(places.lengths)
    extends = _extends(worker, nodes)
    batch, backend, at = made_up_pass(head, worker, places, nodes)
    cache = runner.token_to_kv_pool.get_kv_buffer(head.attn.attn.layer_id)
    own = places.own(nodes)
    with forward_context(ForwardContext(attn_backend=backend)):
        backend.init_forward_metadata(batch)
        rows = torch.arange(requests, device=own.device)
        if extends and batch.spec_info.select_index is None:
            rows = rows * nodes + batch.spec_info.num_accept_tokens - 1
        # On a GPU stock adds the layer's output to the state that it is given, in place.
        hidden = batch.spec_info.hidden_states.clone()
        with head.weights.in_place():
            stock = runner.model.forward(batch.input_ids, batch.positions, batch)
        batch.spec_info.hidden_states = hidden
        wanted = {
            f"{'extended' if extends else 'drafted'}_state": stock.hidden_states[rows],
            f"{'extended' if extends else 'drafted'}_logits": stock.next_token_logits[rows],
            "keys": cache[0][own].flatten(1),
            "values": cache[1][own].flatten(1),
        }
        if at.fills:
            wanted = {name: wanted[name] for name in ("keys", "values")}
        wanted = {name: value.clone() for name, value in wanted.items()}
        for part in cache:
            part[own] = 0

        def ours() -> Tensors:
            out = head.forward(at)
            left = [part[own].flatten(1).clone() for part in cache]
            if at.fills:
                return left[0], left[1]
            return out.hidden_states[rows], out.next_token_logits[rows], left[0], left[1]

        probe_step(found, -1, "head", ours, wanted)


@contextmanager
def made_up_places(worker: Any, nodes: int) -> Iterator[Places]:
    """Places for made-up requests; pools and tables are afterwards as before."""
    runner = worker.draft_runner
    lengths = fitting(draft_room(runner), nodes, MAX_ROWS, ROWS["head"])
    width = max(lengths) + nodes
    device = runner.device
    used = torch.arange(1, 1 + len(lengths) * width, device=device).view(len(lengths), width)
    table = runner.req_to_token_pool.req_to_token
    cache = runner.token_to_kv_pool.get_kv_buffer(
        runner.model.model.layers[0].self_attn.attn.layer_id
    )
    slots = used.flatten()
    kept = table[: len(lengths), :width].clone()
    before = [part[slots].clone() for part in cache]
    generator = torch.Generator().manual_seed(13)
    try:
        table[: len(lengths), :width] = used.to(table.dtype)
        for part in cache:
            drawn = torch.randn(part[slots].shape, generator=generator)
            part[slots] = drawn.to(part.device, part.dtype)
        yield Places(used, lengths)
    finally:
        table[: len(lengths), :width] = kept
        for part, old in zip(cache, before, strict=True):
            part[slots] = old


def _batch(head: FastHead, worker: Any, places: Places, nodes: int, mode: Any, **more: Any) -> Any:
    from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardBatch

    device, requests = places.used.device, len(places.lengths)
    generator = torch.Generator().manual_seed(17 + nodes)
    most = worker.draft_runner.model_config.vocab_size
    whole = [length + nodes for length in places.lengths]
    return ForwardBatch(
        forward_mode=mode,
        batch_size=requests,
        input_ids=torch.randint(0, most, (requests * nodes,), generator=generator).to(device),
        req_pool_indices=torch.arange(requests, device=device),
        seq_lens=torch.tensor(whole, device=device),
        seq_lens_cpu=torch.tensor(whole),
        orig_seq_lens=torch.tensor(whole, device=device),
        out_cache_loc=places.own(nodes),
        seq_lens_sum=sum(whole),
        positions=places.positions(nodes),
        return_logprob=False,
        spec_algorithm=worker.draft_runner.spec_algorithm,
        capture_hidden_mode=CaptureHiddenMode.LAST,
        **more,
    )


def _hidden(rows: int, width: int, device: Any) -> torch.Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(19))
    return drawn.to(device, torch.bfloat16)


def extend_batch(head: FastHead, worker: Any, places: Places, nodes: int) -> tuple[Any, Any]:
    """A draft extend of the requests, with random streams of the target, and its backend."""
    from sglang.srt.model_executor.forward_batch_info import ForwardMode
    from sglang.srt.speculative.eagle_info import EagleDraftExtendInput

    device, requests = places.used.device, len(places.lengths)
    rows = requests * nodes
    alone = variants.draft_extend_reads_alone()
    lengths = torch.full((requests,), nodes, dtype=torch.int32, device=device)
    starts = torch.arange(requests, dtype=torch.int32, device=device) * nodes
    batch = _batch(
        head, worker, places, nodes, ForwardMode.DRAFT_EXTEND_V2,
        extend_seq_lens=lengths,
        extend_seq_lens_cpu=[nodes] * requests,
        extend_prefix_lens=torch.tensor(places.lengths, dtype=torch.int32, device=device),
        extend_prefix_lens_cpu=list(places.lengths),
        extend_start_loc=starts,
        extend_num_tokens=rows,
        next_token_logits_buffer=torch.zeros(
            requests if alone else rows, head.vocabulary, device=device
        ),
    )  # fmt: skip
    accepted = [1 + (1 + request) % nodes for request in range(requests)]
    accept = torch.tensor(accepted, dtype=torch.int32, device=device)
    batch.spec_info = EagleDraftExtendInput(
        hidden_states=_hidden(rows, head.model.model.fc.weight.shape[1], device),
        num_correct_drafts=accept - 1,
        num_accept_tokens=accept,
        num_tokens_per_req=nodes,
        num_tokens_for_logprob_per_req=1 if alone else nodes,
        select_index=starts.long() + accept - 1 if alone else None,
    )
    return batch, worker.draft_extend_attn_backend or worker.draft_runner.attn_backend


def step_batch(head: FastHead, worker: Any, places: Places, nodes: int) -> tuple[Any, Any]:
    """A first draft step of the requests, with random states, and its backend."""
    from sglang.srt.model_executor.forward_batch_info import ForwardMode
    from sglang.srt.speculative.eagle_info import EagleDraftInput

    device, requests = places.used.device, len(places.lengths)
    batch = _batch(head, worker, places, nodes, ForwardMode.DECODE)
    spec = EagleDraftInput(
        hidden_states=_hidden(requests, head.embedding.shape[1], device),
        topk_p=torch.ones(requests, 1, device=device),
        topk_index=torch.zeros(requests, 1, dtype=torch.int64, device=device),
    )
    seen = [places.used[r, : n + 1] for r, n in enumerate(places.lengths)]
    counts = torch.tensor([0, *map(len, seen)], device=device)
    spec.kv_indptr = counts.cumsum(0).int()
    spec.kv_indices = torch.cat(seen).long()
    batch.spec_info = spec
    return batch, worker.draft_attn_backend.attn_backends[0]
