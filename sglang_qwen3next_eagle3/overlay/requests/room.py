"""How long an answer may become: the context, and the pool of KV slots, with room for drafts.

Speculation needs slots behind an answer's end: a step writes the KV of every draft before it is
known which of them are right. Stock SGLang 0.5.17 counts them where a request names `max_tokens`,
and forgets them where it does not and where the pool is smaller than the context: the rows of its
table then overflow, or a request that fills the pool alone is aborted and all its text is lost.
"""

from collections.abc import Callable
from typing import Any

from sglang_qwen3next_eagle3.overlay import variants


def too_long(prompt: int, new: int | None, context: int, reserved: int) -> str | None:
    """Why a prompt and the tokens asked for do not fit, with the numbers that a client can act on.

    context: the target's; reserved: of it, what drafts take.
    """
    room = context - reserved
    why = f": of the context of {context} tokens, speculation keeps {reserved} for drafts"
    if prompt >= room:
        return f"The prompt has {prompt} tokens; it may have at most {room - 1}{why}."
    if new is not None and prompt + new > room:
        return (
            f"The prompt has {prompt} tokens and {new} more are asked for, {prompt + new} together;"
            f" there is room for {room}{why}."
        )
    return None


def most_new_tokens(prompt: int, context: int, reserved: int, pool: int, page: int) -> int:
    """The longest answer that a request can reach with speculation, running alone.

    pool: KV slots; page: slots of one page.
    """
    pages = -(-prompt // page) * page
    # A step is prepared with room for the drafts of two: see SGLang's allocation_sizing.
    return max(0, min(context - reserved - prompt, pool - pages - 2 * reserved - page))


def validate_one_request(
    original: Callable[..., None], manager: Any, request: Any, input_ids: Any
) -> None:
    """Around the tokenizer manager's check of lengths, which reports the prompt with the drafts'
    slots as its length."""
    reserved = manager.num_reserved_tokens
    if reserved and input_ids is not None and not manager.allow_auto_truncate:
        new = request.sampling_params.get("max_new_tokens")
        new = new if isinstance(new, int) and manager.validate_total_tokens else None
        reason = too_long(len(input_ids), new, manager.context_len, reserved)
        if reason is not None:
            raise ValueError(reason)
    original(manager, request, input_ids)


def init_req_max_new_tokens(original: Callable[..., None], scheduler: Any, request: Any) -> None:
    """Around the scheduler's bound of an answer that names none, or a longer one than fits."""
    original(scheduler, request)
    if scheduler.spec_algorithm.is_none() or not scheduler.spec_algorithm.is_eagle():
        return
    sampling = request.sampling_params
    most = most_new_tokens(
        prompt=len(request.origin_input_ids),
        context=scheduler.model_config.context_len,
        reserved=variants.reserved_tokens(scheduler.server_args),
        pool=scheduler.max_total_num_tokens,
        page=scheduler.page_size,
    )
    sampling.max_new_tokens = min(sampling.max_new_tokens, most)
    sampling.min_new_tokens = min(sampling.min_new_tokens, sampling.max_new_tokens)
