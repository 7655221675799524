"""Structured output that cannot hold up the server: how large a grammar may be, and how long it may
take to follow.

A grammar is compiled in the scheduler's process and followed between two steps of the batch. One
of a thousand nested arrays takes gigabytes to compile, and an ambiguous one takes longer with each
token, until SGLang's watchdog takes the scheduler for stuck and ends the server.
"""

import re
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

MOST_CHARACTERS = {
    "json_schema": 1 << 18,
    "structural_tag": 1 << 18,
    "ebnf": 1 << 16,
    "regex": 1 << 13,
}
"""Of each kind of grammar: what is compiled in seconds, and far beyond what is written by hand."""

SECONDS, SECONDS_PER_TOKEN = 5.0, 0.05
"""The CPU time that a grammar may take of the scheduler. Ordinary ones take a thousandth of it."""


def too_large(sampling: Any, deepest: int) -> Iterator[str]:
    """Why a request's grammar is not compiled. sampling: SGLang's `SamplingParams`; deepest: how
    many brackets may be in one another."""
    for kind, most in MOST_CHARACTERS.items():
        grammar = getattr(sampling, kind)
        if not isinstance(grammar, str):
            continue
        if len(grammar) > most:
            yield f"{kind} has {len(grammar):,} characters; it may have at most {most:,}."
        elif (depth := _depth(grammar)) > deepest:
            yield f"{kind} nests {depth} brackets in one another; at most {deepest} may be."


def _depth(grammar: str) -> int:
    """The most brackets that are open at once; those in strings and behind a backslash count, too,
    since they are patterns there, more often than not."""
    depth = deepest = 0
    for bracket in re.findall(r"[(){}\[\]]", grammar):
        depth = depth + 1 if bracket in "([{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def timed(original: Callable[..., Any], grammar: Any, *args: Any, **kwargs: Any) -> Any:
    """Around the methods of a grammar that the scheduler waits for: counts their CPU time."""
    begun = time.thread_time()
    try:
        return original(grammar, *args, **kwargs)
    finally:
        grammar.seconds = getattr(grammar, "seconds", 0.0) + time.thread_time() - begun


def accept_tokens(
    original: Callable[..., Any], processor: Any, request: Any, tokens: Any
) -> list[int]:
    """Around what takes a step's tokens over: ends a request whose grammar takes too long.

    With one rank only: of several each would go by its own clock, and where one ended a request and
    another did not, their batches would differ and their next collective would wait for ever.
    """
    from sglang.srt.runtime_context import get_server_args

    retained: list[int] = original(processor, request, tokens)
    started = get_server_args()
    if started.tp_size * started.pp_size > 1:
        return retained
    # A reasoning parser wraps the grammar in one that waits for the end of the thoughts.
    followed = getattr(request.grammar, "grammar", None) or request.grammar
    reason = too_slow(getattr(followed, "seconds", 0.0), len(request.output_ids))
    if reason is not None and request.to_finish is None:
        from sglang.srt.managers.schedule_batch import FINISH_ABORT

        request.to_finish = FINISH_ABORT(reason, HTTPStatus.BAD_REQUEST, "BadRequestError")
    return retained


def too_slow(seconds: float, tokens: int) -> str | None:
    """Why an answer is not continued. seconds: what its grammar has taken for so many tokens."""
    if seconds <= SECONDS + SECONDS_PER_TOKEN * tokens:
        return None
    return (
        f"The grammar took {seconds:.1f} s for {tokens} tokens, in which every other answer waited:"
        " it is ambiguous. Write it so that a text can be read in one way only."
    )
