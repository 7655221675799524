"""Where an answer ends, told token by token as without speculation.

A step of speculation yields several tokens at once. Stock SGLang 0.5.17 looks at them together:
whether `max_tokens` is reached comes first, so an answer that had ended by itself two tokens
earlier runs on to "length"; a stop string or a stop token is looked for only after that. 0.5.23
looks at `max_tokens` last, but takes a stop string for the end even where a stop token came before.
"""

from collections.abc import Callable
from typing import Any


def update_finish_state(
    original: Callable[..., None], request: Any, new_accepted_len: int = 1
) -> None:
    """Ask SGLang's own question after each of the new tokens, as if they had come one by one.

    request: SGLang's `Req`, whose last `new_accepted_len` output tokens are new. All of them stay
    in its `output_ids`, since the cache holds them; `finished_len` tells where the answer ends.
    """
    grammar = request.grammar
    if request.finished() or request.to_finish:
        original(request, new_accepted_len)
        return
    # SGLang looks at the grammar once more after each token, when it has advanced over all.
    request.grammar = None
    try:
        _one_by_one(original, request, new_accepted_len)
    finally:
        request.grammar = grammar
    if grammar is not None and not request.finished() and grammar.is_terminated():
        _end_with_the_grammar(request, grammar)


def _one_by_one(original: Callable[..., None], request: Any, count: int) -> None:
    tokens = request.output_ids
    start = max(len(tokens) - count, 0)
    pending = tokens[start:]
    del tokens[start:]
    for position, token in enumerate(pending, start=1):
        tokens.append(token)
        original(request, 1)
        if request.finished():
            if request.finished_len is None:
                request.finished_len = len(tokens)
            tokens.extend(pending[position:])
            return


def _end_with_the_grammar(request: Any, grammar: Any) -> None:
    """The answer ends with the token that completed the grammar, not with one behind it.

    Without speculation SGLang advances the grammar after it has asked whether the answer ends, and
    so would say one unconstrained token more where `ignore_eos` hides the end of text.
    """
    from sglang.srt.managers.schedule_batch import FINISH_MATCHED_TOKEN

    accepted = len(getattr(grammar, "accepted_tokens", None) or request.output_ids)
    end = min(accepted, len(request.output_ids))
    request.finished_len = end
    request.finished_reason = FINISH_MATCHED_TOKEN(matched=request.output_ids[end - 1])
