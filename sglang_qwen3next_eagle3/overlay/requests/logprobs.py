"""Logprobs of given tokens, where only some requests of a batch ask for them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def of_token_ids(
    original: Callable[..., tuple[list[Any], list[Any]]],
    logprobs: Tensor,
    token_ids: Any,
    *args: Any,
    **kwargs: Any,
) -> tuple[list[Any], list[Any]]:
    """Around the gathering of `token_ids_logprob`.

    Stock SGLang 0.5.17 has a list for a request that asks for none, and then calls `tolist` of
    everything: such a batch ends the scheduler. Here it is a tensor of no elements.
    """
    values, ids = original(logprobs, token_ids, *args, **kwargs)
    if any(isinstance(value, Tensor) for value in values):
        empty = torch.empty(0, dtype=logprobs.dtype, device=logprobs.device)
        values = [value if isinstance(value, Tensor) or value else empty for value in values]
    return values, ids
