"""Which conversations are drawn, and which of them evaluate: pure functions of keys and a seed.

Nothing here is random: whatever has to be in a mixed order is sorted by a hash of its content keyed
with the seed. So the draw depends neither on the order of lines in a file nor on a generator's
state, and a larger draw with the same seed contains the smaller one of the same source.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from hashlib import blake2b
from typing import NamedTuple

from sglang_qwen3next_eagle3.model.chat_format import Conversation
from sglang_qwen3next_eagle3.train.data.formats import normalised


class Candidate(NamedTuple):
    """A conversation that may be drawn.

    source: index of its source; number: its row there, from 1; offset: bytes into the source's
    spool; content, prompt: its keys.
    """

    source: int
    number: int
    offset: int
    content: bytes
    prompt: bytes


def content_key(conversation: Conversation, *, answers: bool = True) -> bytes:
    """Equal for conversations with equal roles and normalised contents (16 bytes).

    answers: False leaves the assistant's messages out, for when they are to be replaced.
    """
    digest = blake2b(digest_size=16)
    for message in conversation:
        if not answers and message["role"] == "assistant":
            continue
        # No normalised text holds these two characters, so parts cannot run into each other.
        digest.update(f"{message['role']}\x1e{normalised(message['content'])}\x1f".encode())
    return digest.digest()


def prompt_key(conversation: Conversation) -> bytes:
    """Equal for conversations whose first user messages are equal but for case and white space."""
    first = next(message["content"] for message in conversation if message["role"] == "user")
    return blake2b(normalised(first).casefold().encode(), digest_size=16).digest()


def quotas(
    available: Sequence[int], weights: Sequence[Fraction] | None, total: int | None
) -> list[int]:
    """How many conversations to draw from each source.

    weights: shares of the conversations drawn (not of tokens), in any unit; None for no preference.
    total: how many altogether. None takes everything, or with weights as many as keep to the shares
        until the first source runs out.

    With a total, a source that runs out is drawn whole, and the others share what it lacks by
    their weights. Fractions of a conversation go by the largest remainder, earlier sources first.
    """
    if total is None:
        if weights is None:
            return list(available)
        everything = sum(weights)
        total = min(int(n * everything / w) for n, w in zip(available, weights, strict=True))
    if weights is None:
        # Each conversation is as likely as any other, from whichever source.
        weights = [Fraction(max(count, 1)) for count in available]
    counts = [0] * len(available)
    open_sources = list(range(len(available)))
    rest = min(total, sum(available))
    while open_sources:
        weight = sum(weights[i] for i in open_sources)
        shares = {i: rest * weights[i] / weight for i in open_sources}
        exhausted = [i for i in open_sources if shares[i] > available[i]]
        if not exhausted:
            for i, share in shares.items():
                counts[i] = int(share)
            left = rest - sum(counts[i] for i in open_sources)
            for i in sorted(open_sources, key=lambda i: counts[i] - shares[i])[:left]:
                counts[i] += 1
            break
        for i in exhausted:
            counts[i] = available[i]
            rest -= available[i]
            open_sources.remove(i)
    return counts


def draw(
    candidates: Sequence[Sequence[Candidate]], counts: Sequence[int], seed: int
) -> list[Candidate]:
    """That many of each source without replacement, mixed."""
    drawn: list[Candidate] = []
    for pool, count in zip(candidates, counts, strict=True):
        drawn += sorted(pool, key=lambda one: _rank(seed, "draw", one.content))[:count]
    return sorted(drawn, key=lambda one: _rank(seed, "order", one.content))


def split(
    drawn: Sequence[Candidate], count: int, seed: int
) -> tuple[list[Candidate], list[Candidate]]:
    """(training, evaluation), both in the order of `drawn`.

    Conversations with the same first user message stay together, so no prompt of the evaluation
    is trained on; where groups do not add up to `count`, evaluation gets fewer.
    """
    groups: dict[bytes, int] = {}
    for one in drawn:
        groups[one.prompt] = groups.get(one.prompt, 0) + 1
    evaluated = _fill(groups, count, seed)
    train = [one for one in drawn if one.prompt not in evaluated]
    return train, [one for one in drawn if one.prompt in evaluated]


def _fill(groups: Mapping[bytes, int], count: int, seed: int) -> set[bytes]:
    taken: set[bytes] = set()
    for prompt in _ordered(groups, seed):
        if groups[prompt] <= count:
            taken.add(prompt)
            count -= groups[prompt]
        if not count:
            break
    return taken


def _ordered(prompts: Iterable[bytes], seed: int) -> list[bytes]:
    return sorted(prompts, key=lambda prompt: _rank(seed, "evaluate", prompt))


def _rank(seed: int, purpose: str, key: bytes) -> bytes:
    return blake2b(key, digest_size=16, key=f"{purpose}:{seed}".encode()[:64]).digest()
