"""What the ranks of tensor parallelism do together, by SGLang's own communication.

Every rank has its shard of heads and of every expert, and all of the rest. What a shard adds to the
stream is a part of a sum over ranks, where stock has it: behind the output projection (added up
before the norm of the sparse block) and behind the experts.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from sglang_qwen3next_eagle3.overlay.fast.conditions import Unsupported

logger = logging.getLogger(__name__)
T = TypeVar("T")
LATER = "_sglang_needs_allreduce_fusion"
"""So stock marks what its experts left as a part: the next layer's norm adds it up."""


def summed(part: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, [T, D] bf16; with one rank the same tensor."""
    from sglang.srt.distributed import tensor_model_parallel_all_reduce

    whole: torch.Tensor = tensor_model_parallel_all_reduce(part)
    return whole


def whole(hidden: torch.Tensor) -> torch.Tensor:
    """What a layer of stock's leaves, added up if that was left to the next one."""
    return summed(hidden) if getattr(hidden, LATER, False) else hidden


def several() -> bool:
    from sglang.srt.distributed import get_tp_group

    return bool(get_tp_group().world_size > 1)


def of_all(own: T) -> list[T]:
    """What every rank has to say, in order of rank. Every rank has to ask."""
    from sglang.srt.distributed import get_tp_group

    group = get_tp_group()
    if group.world_size == 1:
        return [own]
    said: list[T] = group.all_gather_object(own)
    return said


def told(error: Exception) -> str:
    """An error in one line, as a reason in the log."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, Unsupported) else f"{type(error).__name__}: {text}"


def first_failure(step: Callable[[], Any], quiet: bool = False) -> tuple[Any, str | None]:
    """What a step gives, or why it failed on the first rank on which it did: what comes next has to
    come on all of them or on none.

    step: without sums over ranks, in which the others would wait for one that failed. quiet: no
    traceback in the log, for who did not ask for ours.
    """
    result, reason = None, None
    try:
        result = step()
    except Exception as error:
        # Whatever is wrong with our kernels, the server has stock's.
        if not quiet and not isinstance(error, Unsupported):
            logger.exception("sglang-qwen3next-eagle3: fast path: its preparation failed")
        reason = told(error)
    return result, first_reason(reason)


def first_reason(own: str | None) -> str | None:
    """The reason of the first rank that has one, on all of them. Every rank has to ask."""
    return next((said for said in of_all(own) if said is not None), None)
