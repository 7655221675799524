"""Copies of recurrent state between slots that SGLang has in Triton only."""

import torch
from torch import Tensor


def commit_accepted(
    dst: Tensor,
    src: Tensor,
    dst_indices_raw: Tensor,
    step_indices_raw: Tensor,
    src_indices_raw: Tensor | None = None,
) -> None:
    """After verification, keep the state that each request had after its last accepted token.

    Args:
        dst: [layers, slots, ...], changed in place.
        src: [layers, rows, draft tokens, ...], the states after every draft token.
        dst_indices_raw: [B], slots; step_indices_raw: [B], the last accepted token. A request with
            either negative is skipped.
        src_indices_raw: [B], each request's row (0.5.23); request i has row i without it.
    """
    kept = (step_indices_raw >= 0) & (dst_indices_raw >= 0)
    rows = torch.arange(kept.shape[0]) if src_indices_raw is None else src_indices_raw.long()
    slots, steps = dst_indices_raw[kept].long(), step_indices_raw[kept].long()
    dst[:, slots] = src[:, rows[kept], steps].to(dst.dtype)
