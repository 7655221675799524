"""Bookkeeping of cache slots around a speculative step: small scatters and gathers by request.

`req_to_token` [requests, positions] lists the KV slots of each request by position; a "row" is a
request's index in it. `pool_len` is its width, which a tensor knows by itself.
"""

import torch
from torch import Tensor


def assign_req_to_token_pool(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """Write new slots to positions start .. end of each request, in place.

    Args:
        req_pool_indices, start_offset, end_offset: [B].
        req_to_token: changed in place.
        out_cache_loc: the slots, request after request.
    """
    taken = 0
    for row, start, end in _spans(req_pool_indices, start_offset, end_offset):
        slots = out_cache_loc[taken : taken + end - start]
        req_to_token[row, start:end] = slots.to(req_to_token.dtype)
        taken += end - start


def assign_extend_cache_locs(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """Read the slots of positions start .. end of each request into `out_cache_loc`, in place.

    They fill its front, request after request; the rest stays.
    """
    written = 0
    for row, start, end in _spans(req_pool_indices, start_offset, end_offset):
        slots = req_to_token[row, start:end]
        out_cache_loc[written : written + end - start] = slots.to(out_cache_loc.dtype)
        written += end - start


def assign_draft_cache_locs_contiguous(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    seq_lens: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
    topk: int,
    num_steps: int,
) -> None:
    """Read the topk * num_steps slots after each request's tokens into `out_cache_loc`.

    Args:
        seq_lens: [B].
        out_cache_loc: [B * topk * num_steps], overwritten: by request, branch, step.
    """
    positions = seq_lens.long().unsqueeze(1) + torch.arange(topk * num_steps)
    slots = req_to_token[req_pool_indices.long().unsqueeze(1), positions]
    out_cache_loc.copy_(slots.flatten())


def build_draft_decode_metadata(
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    topk: int,
    num_steps: int,
    pool_len: int,
) -> Tensor:
    """A table of slots for the draft's branches, as if each were a request of its own.

    Returns:
        [B * topk, positions]: the request's slots, then the num_steps slots of the branch, in the
        order of `assign_draft_cache_locs_contiguous`.
    """
    rows = req_pool_indices.long().repeat_interleave(topk)
    table = req_to_token[rows]
    ends = seq_lens.long().repeat_interleave(topk).unsqueeze(1)
    branch = torch.arange(topk).repeat(req_pool_indices.shape[0]).unsqueeze(1)
    steps = torch.arange(num_steps)
    slots = req_to_token[rows.unsqueeze(1), ends + branch * num_steps + steps]
    return table.scatter_(1, ends + steps, slots)


def fill_bonus_tokens(
    accept_tokens: Tensor, accept_lens: Tensor, bonus_tokens: Tensor, accept_stride: int
) -> None:
    """Pick the last accepted token of each request.

    Args:
        accept_tokens: [B, accept_stride], flat or not; accept_lens: [B], at least 1.
        bonus_tokens: [B], overwritten.
    """
    last = accept_lens.long().unsqueeze(1) - 1
    bonus_tokens.copy_(accept_tokens.view(-1, accept_stride).gather(1, last).squeeze(1))


def fill_accept_out_cache_loc(
    accept_index: Tensor, out_cache_loc: Tensor, accept_out_cache_loc: Tensor
) -> None:
    """Gather the slots of the accepted tokens, without gaps.

    Args:
        accept_index: places in `out_cache_loc`, -1 for none.
        accept_out_cache_loc: its beginning is overwritten, the rest stays.
    """
    accepted = accept_index[accept_index >= 0].long()
    slots = out_cache_loc[accepted].to(accept_out_cache_loc.dtype)
    accept_out_cache_loc[: accepted.numel()] = slots


def _spans(rows: Tensor, starts: Tensor, ends: Tensor) -> list[tuple[int, int, int]]:
    return list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
