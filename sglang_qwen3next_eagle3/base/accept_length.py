"""Accept length: how many tokens a verification of drafts brings. Defined here and nowhere else.

Two figures go by this name, and differ by what prefill gives:

    accept_length   all tokens of the answers over verify steps, as SGLang and the model card count;
                    each request's first token, which its prefill gives, is among them
    per_cycle       the tokens that cycles gave, over the cycles: what speed follows from, and what
                    `bench plan` takes

They lie requests / steps apart: 0.5 % of it at answers of 500 tokens, 5 % at 50.
"""

from collections.abc import Sequence


def accept_length(tokens: int, steps: int | None) -> float | None:
    """tokens, steps: of any number of requests together; None without speculation (no steps)."""
    return tokens / steps if steps else None


def per_cycle(tokens: int, steps: int | None, requests: int = 1) -> float | None:
    """The same without the first token of each request."""
    return accept_length(tokens - requests, steps)


def of_chain(shares: Sequence[float]) -> float:
    """Per cycle, of a chain, given the shares of steps that accept at least 1, 2, ... drafts.

    The target's own token comes with every step.
    """
    return 1 + sum(shares)
