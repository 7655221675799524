"""Several answers to one prompt (`n`), each with a seed of its own.

Stock SGLang gives every choice the request's seed, so that all `n` of them are the same text where
the seed is honoured.
"""

import copy
from collections.abc import Callable
from typing import Any


def send_one_request(original: Callable[..., Any], manager: Any, tokenized: Any) -> Any:
    """Around the tokenizer manager's hand-over of a request to the scheduler.

    Choice 0 has the seed of the request, choice i the i-th behind it: the choices share one object,
    in which each leaves the seed of the next. What only puts the prompt into the prefix cache, and
    is no choice, has one of its own.
    """
    shared: Any = getattr(tokenized, "sampling_params", None)
    seed = getattr(shared, "sampling_seed", None)
    if seed is not None:
        tokenized.sampling_params = copy.copy(shared)
        shared.sampling_seed = _behind(seed, 1)
    # What it returns has to be awaited on some releases (0.5.23).
    return original(manager, tokenized)


def _behind(seed: int, steps: int) -> int:
    """seed + steps, within 64 bits."""
    return (seed + steps + 2**63) % 2**64 - 2**63
