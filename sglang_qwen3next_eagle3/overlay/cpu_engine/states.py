"""Copies of recurrent state between slots that SGLang has in Triton only."""

import torch
from torch import Tensor


def commit_accepted(
    dst: Tensor, src: Tensor, dst_indices_raw: Tensor, step_indices_raw: Tensor
) -> None:
    """After verification, keep the state that each request had after its last accepted token.

    Args:
        dst: [layers, slots, ...], changed in place.
        src: [layers, rows, draft tokens, ...], the states after every draft token; request i has
            row i.
        dst_indices_raw: [B], slots; step_indices_raw: [B], the last accepted token. A request with
            either negative is skipped.
    """
    kept = (step_indices_raw >= 0) & (dst_indices_raw >= 0)
    requests = torch.arange(kept.shape[0])[kept]
    slots, steps = dst_indices_raw[kept].long(), step_indices_raw[kept].long()
    dst[:, slots] = src[:, requests, steps].to(dst.dtype)
