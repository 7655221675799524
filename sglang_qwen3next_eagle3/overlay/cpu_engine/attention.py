"""Paged attention as SGLang's `intel_amx` backend calls it, over torch's own kernel.

B requests, L query tokens in all, H query heads, HKV key heads, D and DV the head sizes. Keys and
values are in pools by token slot; a row of `req_to_token` lists a request's slots by position.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def decode(
    query: Tensor,
    k_buffer: Tensor,
    v_buffer: Tensor,
    output: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    loc: Tensor,
    attn_logits: Tensor,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    scaling: float,
    logit_cap: float,
    is_cross_attention: bool,
    sliding_window: int,
    encoder_lens: Tensor | None,
    sinks: Tensor | None,
) -> None:
    """Store one token's key and value per request, and attend from it to the request so far.

    Args:
        query: [B, H, D].
        k_buffer, v_buffer: [slots, HKV, D] and [slots, HKV, DV]; the slots `loc` are overwritten.
        output: [B, H, DV], overwritten.
        key, value: of the new tokens, reshaped to the pools' rows; None if they are stored already.
        loc: [B], slots of the new tokens.
        attn_logits: scratch space of the AMX kernel; not touched.
        req_to_token: [requests, positions]; req_pool_indices: [B], its rows.
        seq_lens: [B], tokens to attend to, the new one included.
        scaling: factor of the scores.
        logit_cap, is_cross_attention, sliding_window, encoder_lens, sinks: only their neutral
            values (0, False, 0, None, None) are served.
    """
    _refuse_variants(logit_cap, is_cross_attention, sliding_window, encoder_lens, sinks)
    if key is not None and value is not None:
        k_buffer[loc] = key.reshape(-1, *k_buffer.shape[1:]).to(k_buffer.dtype)
        v_buffer[loc] = value.reshape(-1, *v_buffer.shape[1:]).to(v_buffer.dtype)
    lengths = seq_lens.tolist()
    if not lengths:
        return
    slots = req_to_token[req_pool_indices.long(), : max(lengths)].long()
    visible = torch.arange(slots.shape[1]) < seq_lens[:, None]
    attended = _attend(query[:, None], k_buffer, v_buffer, slots, visible[:, None], scaling)
    output.copy_(attended[:, 0])


def extend(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    output: Tensor,
    k_buffer: Tensor,
    v_buffer: Tensor,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    extend_seq_lens: Tensor,
    extend_start_loc: Tensor,
    max_len_extend: int,
    scaling: float,
    logit_cap: float,
    is_cross_attention: bool,
    sliding_window: int,
    encoder_lens: Tensor | None,
    sinks: Tensor | None,
    tree_mask: Tensor | None = None,
) -> None:
    """Attend from each request's last E tokens to its prefix and, causally, to one another.

    Args:
        query: [L, H, D], the requests' new tokens one after the other.
        key, value: of the new tokens; not read, the backend has stored them in the pools.
        output: [L, H, DV], overwritten.
        k_buffer, v_buffer: [slots, HKV, D] and [slots, HKV, DV].
        req_to_token: [requests, positions]; req_pool_indices: [B], its rows.
        seq_lens: [B], prefix and new tokens together.
        extend_seq_lens, extend_start_loc: [B], E of each request and where its tokens start in L.
        max_len_extend: the largest E; not needed.
        tree_mask: B blocks of [E, E], flattened: which new tokens each new token sees, instead of
            causally. All requests then have the same E.
        the rest: as for `decode`.
    """
    _refuse_variants(logit_cap, is_cross_attention, sliding_window, encoder_lens, sinks)
    trees = None
    if tree_mask is not None and extend_seq_lens.numel():
        width = int(extend_seq_lens[0])
        trees = tree_mask.view(-1, width, width).bool()
    requests = zip(
        req_pool_indices.tolist(),
        seq_lens.tolist(),
        extend_seq_lens.tolist(),
        extend_start_loc.tolist(),
        strict=True,
    )
    for i, (row, length, new, start) in enumerate(requests):
        visible = torch.ones(new, length, dtype=torch.bool)
        if trees is None:
            visible = visible.tril(length - new)
        else:
            visible[:, length - new :] = trees[i]
        tokens = slice(start, start + new)
        slots = req_to_token[row, :length].long()
        attended = _attend(
            query[None, tokens], k_buffer, v_buffer, slots[None], visible[None], scaling
        )
        output[tokens] = attended[0]


def decode_scaled(
    query: Tensor,
    k_buffer: Tensor,
    v_buffer: Tensor,
    key_scale: float,
    value_scale: float,
    output: Tensor,
    *arguments: Any,
) -> None:
    """As `decode`, with the scales of an FP8 cache (0.5.23), of which only 1 is served."""
    _refuse_scales(key_scale, value_scale)
    decode(query, k_buffer, v_buffer, output, *arguments)


def extend_scaled(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    output: Tensor,
    k_buffer: Tensor,
    v_buffer: Tensor,
    key_scale: float,
    value_scale: float,
    *arguments: Any,
) -> None:
    """As `extend`, with the scales of an FP8 cache (0.5.23), of which only 1 is served, and behind
    the tree's mask whether attention is causal, which must be true."""
    *known, is_causal = arguments
    _refuse_scales(key_scale, value_scale)
    if not is_causal:
        raise NotImplementedError("the CPU engine's attention is causal")
    extend(query, key, value, output, k_buffer, v_buffer, *known)


def _refuse_scales(key_scale: float, value_scale: float) -> None:
    if key_scale != 1 or value_scale != 1:
        raise NotImplementedError("the CPU engine's attention has no scales of an FP8 cache")


def _attend(
    query: Tensor, k_buffer: Tensor, v_buffer: Tensor, slots: Tensor, visible: Tensor, scale: float
) -> Tensor:
    """query [B, E, H, D], slots [B, N], visible [B, E, N] -> [B, E, H, DV]."""
    keys, values = k_buffer[slots].to(query.dtype), v_buffer[slots].to(query.dtype)
    attended = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=visible.unsqueeze(1),
        scale=scale,
        enable_gqa=True,
    )
    return attended.transpose(1, 2)


def _refuse_variants(
    logit_cap: float,
    is_cross_attention: bool,
    sliding_window: int,
    encoder_lens: Tensor | None,
    sinks: Tensor | None,
) -> None:
    variants = {
        "a logit cap": logit_cap != 0,
        "cross attention": is_cross_attention or encoder_lens is not None,
        "a sliding window": sliding_window > 0,
        "attention sinks": sinks is not None,
    }
    if asked := [name for name, given in variants.items() if given]:
        raise NotImplementedError(f"the CPU engine's attention has no {' and no '.join(asked)}")
