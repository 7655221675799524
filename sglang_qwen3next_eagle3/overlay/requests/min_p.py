"""`min_p` for drafts, which stock SGLang 0.5.17 leaves out where it verifies by sampling."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

_asked: list[Tensor | None] = [None]
"""The `min_ps` [B] of the batch that is verified now; one thread verifies."""


def verify(
    original: Callable[..., Any],
    verify_input: Any,
    batch: Any,
    logits_output: Any,
    *arguments: Any,
    **options: Any,
) -> Any:
    """Around `eagle_sample`, which hands the kernel no `min_p`."""
    info = batch.sampling_info
    needed = not batch.forward_mode.is_idle() and info.need_min_p_sampling
    _asked[0] = info.min_ps if needed else None
    try:
        return original(verify_input, batch, logits_output, *arguments, **options)
    finally:
        _asked[0] = None


def tree_sampling(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Around the kernel that accepts drafts, which is given the target's probabilities."""
    if _asked[0] is not None:
        cut(kwargs["target_probs"], _asked[0])
    original(*args, **kwargs)


def cut(probs: Tensor, min_ps: Tensor) -> None:
    """Leave out what is less likely than `min_p` times the likeliest, and renormalize, in place.

    probs: [B, N, V], after top_k and top_p, as SGLang cuts without speculation; min_ps: [B].
    """
    least = probs.amax(dim=-1, keepdim=True) * min_ps.view(-1, 1, 1)
    probs.masked_fill_(probs < least, 0.0)
    probs.div_(probs.sum(dim=-1, keepdim=True))
