"""Several answers to one prompt (`n`), each with a seed of its own.

Stock SGLang gives every choice the request's seed, so that all `n` of them are the same text where
the seed is honoured.
"""

import copy
from collections.abc import Callable
from typing import Any

_SENT = "_qwen3next_eagle3_choices_sent"


def send_one_request(original: Callable[..., None], manager: Any, tokenized: Any) -> None:
    """Around the tokenizer manager's hand-over of a request to the scheduler.

    Choice 0 has the seed of the request, choice i the i-th behind it.
    """
    logical = manager.child_rid_to_logical_rid.get(tokenized.rid)
    state = manager.rid_to_state.get(logical)
    if state is not None:
        # The first that is sent is no choice: it only puts the prompt into the prefix cache.
        sent = getattr(state, _SENT, 0)
        setattr(state, _SENT, sent + 1)
        seed = getattr(tokenized.sampling_params, "sampling_seed", None)
        if seed is not None and sent > 1:
            # The choices share one object.
            tokenized.sampling_params = copy.copy(tokenized.sampling_params)
            tokenized.sampling_params.sampling_seed = _behind(seed, sent - 1)
    original(manager, tokenized)


def _behind(seed: int, steps: int) -> int:
    """seed + steps, within 64 bits."""
    return (seed + steps + 2**63) % 2**64 - 2**63
