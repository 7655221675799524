"""The first prefills, gone through without a launch, so that what they launch is compiled with
what the check at start launches (`rehearsal`).

A prefill is stock's. With nothing compiled its first one waits for a dozen kernels of Triton, one
after the other, of which one is tuned: in six configurations, each compiled before it is timed.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch

from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath
from sglang_qwen3next_eagle3.overlay.fast.layers import FastGdnLayer, FastLayer
from sglang_qwen3next_eagle3.overlay.fast.made_up import States, target_room

LENGTHS: Final = (256, 133, 38)
"""Tokens of the prompts that are made up: for an argument that 16 divides Triton compiles a kernel
of its own, and SGLang tunes its experts by the number of rows. With these, what experts launch for
up to 768 tokens is there but for 16 and 32 (0.5.17, one H200)."""
APPEND: Final = "_append_shared_to_topk_output"
"""What of a block's adds the shared experts that are fused to those that were chosen."""
Step = Callable[[], Any]


@torch.no_grad()
def go_through(path: FastPath, runner: Any, run: Callable[[Step], Any]) -> None:
    """A prefill of one request for each length, step by step, each handed to `run`; one layer of
    each kind stands for all."""
    from sglang.srt.model_executor.forward_context import ForwardContext, forward_context

    first: dict[str, FastLayer] = {}
    for layer in path.layers.values():
        first.setdefault(layer.mixer, layer)
    room = target_room(runner)
    longest = min(room.places - 1, room.width) if room.requests else 0
    for tokens in sorted({min(length, longest) for length in LENGTHS}):
        if tokens < 1:
            continue
        with _one_request(path, runner, list(first.values()), tokens) as batch:
            backend = runner.attn_backend
            with forward_context(ForwardContext(attn_backend=backend)):
                backend.init_forward_metadata(batch)
                for layer in first.values():
                    for step in _steps(layer, batch):
                        run(in_all_configurations(step))


def _steps(layer: FastLayer, batch: Any) -> Iterator[Step]:
    """What a layer launches in a prefill. No step takes what another one left, which is undefined
    where nothing is launched."""
    weight = layer.norm.weight
    rows = torch.randn(
        batch.input_ids.shape[0], weight.shape[0], generator=torch.Generator().manual_seed(23)
    ).to(weight.device, torch.bfloat16)
    block = layer.layer.mlp
    # Without a stream to be added, as in front of the first layer.
    yield lambda: layer.norm(rows.clone())
    yield partial(stock_block, block, rows)
    yield partial(router, block, rows)
    if isinstance(layer, FastGdnLayer):
        yield lambda: layer.gdn(rows.clone(), batch)
    else:
        yield lambda: layer.layer.self_attention(batch.positions, rows.clone(), batch)


def stock_block(block: Any, hidden: torch.Tensor) -> Any:
    """Stock's sparse block on rows that choose the first experts and the fused shared ones: of its
    router some kernels are Triton's, whose choice is undefined here."""
    from sglang.srt.layers.moe.topk import StandardTopKOutput

    routed, fused = block.topk.topk_config.top_k, block.num_fused_shared_experts
    experts = block.experts.w13_weight.shape[0]
    ids = torch.tensor([*range(routed), *range(experts - fused, experts)], dtype=torch.int32)

    def chosen(rows: torch.Tensor, logits: torch.Tensor, **_: Any) -> Any:
        shape = rows.shape[0], len(ids)
        weights = torch.full(shape, 1 / len(ids), device=rows.device)
        return StandardTopKOutput(weights, ids.to(rows.device).repeat(shape[0], 1), logits)

    # In front of what the block has by these names; a module's own names are looked up first.
    shadows = {"topk": chosen, APPEND: lambda output, rows: output}
    assert not block.__dict__.keys() & shadows
    block.__dict__.update(shadows)
    try:
        return block(hidden.clone())
    finally:
        for name in shadows:
            del block.__dict__[name]


def router(block: Any, hidden: torch.Tensor) -> Any:
    """What chooses the experts, whose choice nobody reads."""
    logits, _ = block.gate(hidden)
    output = block.topk(hidden, logits)
    return getattr(block, APPEND)(output, hidden) if block.num_fused_shared_experts else output


def in_all_configurations(step: Step) -> Step:
    """A step in which a kernel that is to be tuned is asked for in all configurations that it would
    be timed in. Nothing is timed: no launch is one here."""

    def gone_through() -> Any:
        from triton.runtime.autotuner import Autotuner

        thread = threading.get_ident()

        def every(tuner: Any, *args: Any, **options: Any) -> Any:
            if threading.get_ident() != thread:
                return before(tuner, *args, **options)
            tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
            try:
                for configuration in tuner.prune_configs(options):
                    tuner.fn.run(*args, **options, **configuration.all_kwargs())
            finally:
                tuner.nargs = None
            return None

        before, Autotuner.run = Autotuner.run, every
        try:
            return step()
        finally:
            Autotuner.run = before

    return gone_through


@contextmanager
def _one_request(
    path: FastPath, runner: Any, layers: list[FastLayer], tokens: int
) -> Iterator[Any]:
    """The batch of a prefill of a request that nobody sent, in caches that nobody uses yet;
    afterwards as before."""
    from sglang.srt.model_executor.forward_batch_info import (
        CaptureHiddenMode,
        ForwardBatch,
        ForwardMode,
    )

    device = runner.device
    pool = runner.attn_backend.linear_attn_backend.req_to_token_pool
    mapping, table = pool.req_index_to_mamba_index_mapping, pool.req_to_token
    gdn = [layer.index for layer in layers if isinstance(layer, FastGdnLayer)]
    states = States(pool, [1], [0], next(iter(gdn), 0))
    places = torch.arange(1, 1 + tokens, device=device)
    kv = [
        cache
        for layer in layers
        if not isinstance(layer, FastGdnLayer)
        for cache in runner.token_to_kv_pool.get_kv_buffer(layer.layer.layer_id)
    ]
    kept = mapping[:1].clone(), table[:1, :tokens].clone()
    before = [cache[places].clone() for cache in kv]

    def integers(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    length = torch.tensor([tokens], device=device)
    drafts = runner.spec_algorithm.is_eagle()
    batch = ForwardBatch(
        forward_mode=ForwardMode.EXTEND,
        batch_size=1,
        input_ids=torch.zeros(tokens, dtype=torch.int64, device=device),
        req_pool_indices=torch.zeros(1, dtype=torch.int64, device=device),
        seq_lens=length,
        seq_lens_cpu=torch.tensor([tokens]),
        orig_seq_lens=length,
        out_cache_loc=places,
        seq_lens_sum=tokens,
        positions=torch.arange(tokens, device=device),
        return_logprob=False,
        spec_algorithm=runner.spec_algorithm,
        capture_hidden_mode=CaptureHiddenMode.FULL if drafts else CaptureHiddenMode.NULL,
        extend_num_tokens=tokens,
        extend_seq_lens=integers(tokens),
        extend_seq_lens_cpu=[tokens],
        extend_prefix_lens=integers(0),
        extend_prefix_lens_cpu=[0],
        extend_start_loc=integers(0),
    )
    try:
        mapping[:1] = torch.tensor([1], dtype=mapping.dtype, device=mapping.device)
        table[:1, :tokens] = places.to(table.dtype)
        yield batch
    finally:
        states.empty()
        mapping[:1], table[:1, :tokens] = kept
        for cache, old in zip(kv, before, strict=True):
            cache[places] = old
