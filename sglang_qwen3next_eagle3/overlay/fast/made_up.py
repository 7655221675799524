"""Requests that nobody sent, in caches that nobody uses yet: what the fast path is checked on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath
from sglang_qwen3next_eagle3.overlay.fast.layers import FastGdnLayer, FastLayer, SmallPass

LENGTHS = (133, 64)
"""Tokens in the cache of the requests that are made up: odd, and a boundary of blocks."""
REQUESTS = (1, 2, 4, 8, 16, 32)
"""How many are made up at a time, up to the kernels' rows: these have variants of their own."""


class Room(NamedTuple):
    """What a server's pools have room for: requests, places in the KV cache (of which the first is
    nobody's), and tokens of a request."""

    requests: int
    places: int
    width: int


def target_room(runner: Any) -> Room:
    """Of a target's `ModelRunner`."""
    full = next(layer for layer in runner.model.model.layers if not hasattr(layer, "linear_attn"))
    pool = runner.attn_backend.linear_attn_backend.req_to_token_pool
    room = _room(runner, full.layer_id)
    # As in the KV cache, the first is nobody's.
    states = pool.mamba_pool.mamba_cache.temporal.shape[1] - 1
    return room._replace(requests=min(room.requests, states))


def draft_room(runner: Any) -> Room:
    """Of the `ModelRunner` of an EAGLE3 head."""
    return _room(runner, runner.model.model.layers[0].self_attn.attn.layer_id)


def _room(runner: Any, layer_id: int) -> Room:
    pool = runner.req_to_token_pool
    places = runner.token_to_kv_pool.get_kv_buffer(layer_id)[0].shape[0]
    return Room(min(pool.size, pool.req_to_token.shape[0]), places, pool.req_to_token.shape[1])


def fitting(
    room: Room, nodes: int | None, rows: int = MAX_ROWS, requests: int = len(LENGTHS)
) -> list[int]:
    """The lengths of the requests that are made up, each of `nodes` draft tokens: `requests`, or as
    many as there is room for in the pools and in kernels of so many rows, and shorter where the
    pools are small. Empty where not even one has room."""
    new = nodes or 1
    for count in range(min(requests, room.requests, max(1, rows // new)), 0, -1):
        longest = min(room.width, (room.places - 1) // count) - new
        if longest >= 1:
            return [min(LENGTHS[one % len(LENGTHS)], longest) for one in range(count)]
    return []


def no_room(room: Room, nodes: int | None) -> str | None:
    """Why nothing can be made up there, or None."""
    if fitting(room, nodes):
        return None
    return (
        f"its check has no room: {room.requests} requests of {room.width} tokens, "
        f"{room.places - 1} places in the KV cache"
    )


def draft_tokens(runner: Any) -> int | None:
    """Tokens of a request that a target's `ModelRunner` verifies; None: it decodes."""
    if not runner.spec_algorithm.is_eagle():
        return None
    tokens: int = variants.arguments_of(runner).speculative_num_draft_tokens
    return tokens


def captured_batches(runner: Any) -> list[int]:
    """Requests of the passes that are captured, as far as a runner says so."""
    config = getattr(variants.arguments_of(runner), "cuda_graph_config", None)
    return list(getattr(getattr(config, "decode", None), "bs", None) or ())


def captured(runner: Any) -> tuple[int, int]:
    """The fewest and the most requests of a pass that is captured, as far as a runner says so."""
    batches = captured_batches(runner)
    pool = getattr(getattr(runner, "req_to_token_pool", None), "size", MAX_ROWS)
    return (min(*batches, pool), min(max(batches), pool)) if batches else (1, pool)


def lengths_of(runner: Any, rows: int, requests: int = len(LENGTHS)) -> list[int]:
    """`fitting` of a target's `ModelRunner`."""
    return fitting(target_room(runner), draft_tokens(runner), rows, requests)


class States:
    """The GDN states of the requests that are made up, as they were drawn.

    accepted: the last node that each request accepts. only: the one layer, by its place among the
    GDN layers, whose states these are.
    """

    def __init__(
        self, pool: Any, slots: list[int], accepted: list[int], only: int | None = None
    ) -> None:
        cache = pool.mamba_pool.mamba_cache
        self._pool, self._slots, self.accepted = pool, slots, accepted
        of = slice(None) if only is None else slice(only, only + 1)
        self._first = only or 0
        self._live = (cache.conv[0][of], cache.temporal[of])
        self._before = [live[:, slots].clone() for live in self._live]
        generator = torch.Generator().manual_seed(7)
        self._drawn = [
            torch.randn(part.shape[1:], generator=generator).to(part).mul_(0.5)
            for part in self._before
        ]

    def restore(self) -> None:
        """The drawn states into every layer."""
        for live, drawn in zip(self._live, self._drawn, strict=True):
            live[:, self._slots] = drawn

    def empty(self) -> None:
        """What was in the pool before."""
        for live, before in zip(self._live, self._before, strict=True):
            live[:, self._slots] = before

    def of(self, layer: FastLayer, compute: Any) -> torch.Tensor:
        """A computation on the drawn states of a layer."""
        if isinstance(layer, FastGdnLayer):
            for live, drawn in zip(self._live, self._drawn, strict=True):
                live[layer.index - self._first, self._slots] = drawn
        out: torch.Tensor = compute()
        return out

    def now(self) -> tuple[torch.Tensor, ...]:
        return tuple(live[:, self._slots].clone() for live in self._live)

    def stock_commit(self, backend: Any, last: torch.Tensor) -> None:
        backend.update_mamba_state_after_mtp_verify(
            last_correct_step_indices=last,
            mamba_track_indices=None,
            mamba_steps_to_track=None,
            model=None,
        )


def random_rows(at: SmallPass, layer: FastLayer, seed: int) -> torch.Tensor:
    """bf16 [T, D], the same at every call."""
    weight = layer.norm.weight
    generator = torch.Generator().manual_seed(1000 * layer.layer.layer_id + seed)
    rows = torch.randn(at.requests * at.nodes, weight.shape[0], generator=generator)
    return rows.to(weight.device, torch.bfloat16)


@contextmanager
def made_up(
    path: FastPath,
    runner: Any,
    rows: int = MAX_ROWS,
    requests: int = len(LENGTHS),
    only: tuple[int, ...] | None = None,
) -> Iterator[tuple[SmallPass, States]]:
    """A pass of requests that nobody sent, in caches that nobody uses yet; afterwards as before.

    rows, requests: as for `fitting`. only: the layers that it is for, one of each kind at most; all
    of the path without it.
    """
    from sglang.srt.model_executor.forward_context import ForwardContext, forward_context

    backend = runner.attn_backend
    arguments = variants.arguments_of(runner)
    nodes = draft_tokens(runner)
    tree = bool(nodes) and (arguments.speculative_eagle_topk or 1) > 1
    lengths = lengths_of(runner, rows, requests)
    layers = [path.layers[number] for number in (path.layers if only is None else only)]
    gdn = [layer.index for layer in layers if isinstance(layer, FastGdnLayer)]
    pool = backend.linear_attn_backend.req_to_token_pool
    kv = [
        cache
        for layer in layers
        if not isinstance(layer, FastGdnLayer)
        for cache in runner.token_to_kv_pool.get_kv_buffer(layer.layer.layer_id)
    ]
    batch, used = _batch(runner, lengths, nodes, tree)
    slots = [1 + request for request in range(len(lengths))]
    last = (nodes or 1) - 1
    accepted = [last if request % 2 else min(1, last) for request in range(len(lengths))]
    # A request's states of all layers are 75 MB.
    states = States(pool, slots, accepted, None if only is None else next(iter(gdn), 0))
    mapping = pool.req_index_to_mamba_index_mapping
    table = pool.req_to_token
    kept = mapping[: len(lengths)].clone(), table[: len(lengths), : used.shape[1]].clone()
    locations = used.flatten()
    before = [cache[locations].clone() for cache in kv]
    generator = torch.Generator().manual_seed(11)
    try:
        mapping[: len(lengths)] = torch.tensor(slots, dtype=mapping.dtype, device=mapping.device)
        table[: len(lengths), : used.shape[1]] = used.to(table.dtype)
        states.restore()
        for cache in kv:
            drawn = torch.randn(cache[locations].shape, generator=generator)
            cache[locations] = drawn.to(cache.device, cache.dtype)
        with forward_context(ForwardContext(attn_backend=backend)):
            backend.init_forward_metadata(batch)
            at = path.prepare(batch, backend)
            if at is None:
                raise RuntimeError("a made-up batch is not one that the fast path takes")
            path.current = at
            path.end()
            yield at, states
    finally:
        states.empty()
        mapping[: len(lengths)], table[: len(lengths), : used.shape[1]] = kept
        for cache, old in zip(kv, before, strict=True):
            cache[locations] = old


def _batch(
    runner: Any, lengths: list[int], nodes: int | None, tree: bool
) -> tuple[Any, torch.Tensor]:
    """A batch of decoding (nodes: None) or of verifying trees or chains of `nodes` tokens, and the
    places in the KV cache of every request, [B, most]."""
    from sglang.srt.model_executor.forward_batch_info import (
        CaptureHiddenMode,
        ForwardBatch,
        ForwardMode,
    )

    device, requests, new = runner.device, len(lengths), nodes or 1
    # A decode step counts its own token among the lengths, a verify does not.
    width = max(lengths) + new
    used = torch.arange(1, 1 + requests * width, device=device).view(requests, width)
    depth = [0] * new
    parents = [node - 1 for node in range(new)]
    if tree:
        parents = [(node - 1) // 2 if node else -1 for node in range(new)]
    for node in range(1, new):
        depth[node] = depth[parents[node]] + 1
    locations = [int(used[r, length + i]) for r, length in enumerate(lengths) for i in range(new)]
    positions = [length + d for length in lengths for d in depth]
    whole = lengths if nodes else [length + 1 for length in lengths]

    def longs(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    batch = ForwardBatch(
        forward_mode=ForwardMode.TARGET_VERIFY if nodes else ForwardMode.DECODE,
        batch_size=requests,
        input_ids=longs([0] * (requests * new)),
        req_pool_indices=longs(list(range(requests))),
        seq_lens=longs(whole),
        seq_lens_cpu=torch.tensor(whole),
        orig_seq_lens=longs(whole),
        out_cache_loc=longs(locations),
        seq_lens_sum=sum(whole),
        positions=longs(positions),
        return_logprob=False,
        spec_algorithm=runner.spec_algorithm,
        capture_hidden_mode=CaptureHiddenMode.FULL if nodes else CaptureHiddenMode.NULL,
    )
    if nodes:
        batch.spec_info = _verify(runner, lengths, parents, tree)
    return batch, used


def _verify(runner: Any, lengths: list[int], parents: list[int], tree: bool) -> Any:
    from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode
    from sglang.srt.speculative.eagle_info import EagleVerifyInput
    from sglang.srt.speculative.eagle_utils import TreeMaskMode, default_tree_mask_mode

    device, nodes, requests = runner.device, len(parents), len(lengths)
    child, sibling, seen = [-1] * nodes, [-1] * nodes, dict[int, int]()
    sees = torch.eye(nodes, dtype=torch.bool)
    for node in range(1, nodes):
        parent = parents[node]
        sees[node] |= sees[parent]
        if parent in seen:
            sibling[seen[parent]] = node
        else:
            child[parent] = node
        seen[parent] = node
    # Stock's GPU kernels read what a node sees of the context too.
    whole = default_tree_mask_mode() == TreeMaskMode.FULL_MASK
    mask = [
        torch.cat([torch.ones(nodes, length if whole else 0, dtype=torch.bool), sees], 1).flatten()
        for length in lengths
    ]
    arguments = variants.arguments_of(runner)

    def links(values: list[int]) -> torch.Tensor:
        return torch.tensor([values] * requests, dtype=torch.int64, device=device)

    return EagleVerifyInput(
        draft_token=None,
        custom_mask=torch.cat(mask).to(device),
        positions=None,
        retrieve_index=None,
        retrieve_next_token=links(child) if tree else None,
        retrieve_next_sibling=links(sibling) if tree else None,
        retrieve_cum_len=None,
        spec_steps=arguments.speculative_num_steps,
        topk=arguments.speculative_eagle_topk,
        draft_token_num=nodes,
        capture_hidden_mode=CaptureHiddenMode.FULL,
        seq_lens_sum=sum(lengths),
        seq_lens_cpu=torch.tensor(lengths),
    )
