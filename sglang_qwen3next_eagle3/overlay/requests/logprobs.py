"""Logprobs that SGLang 0.5.17 loses, or that end it: of given tokens, where only some requests of a
batch ask for them; of a first token, where a request is retracted before it.
"""

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


def send(original: Callable[..., None], accumulator: Any, *, req: Any) -> None:
    """Around what is sent of a request behind a batch that it was in.

    One that was retracted before its first token is sent, too, as no tokens yet, and stock SGLang
    0.5.17 counts one logprob as sent: that of the first token, which is then never sent. Until a
    request has a token or has ended, there is nothing to send of it.
    """
    if req.output_ids or req.finished():
        original(accumulator, req=req)
