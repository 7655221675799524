"""The target's own answers to prompts: the kind of text that heads are trained on.

A little-trained head is told from its neighbours on such text only, and learns from the answers
alone; so with these texts nothing is scored before the answer begins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.calibrate import prompts
from sglang_qwen3next_eagle3.calibrate.prompts import Prompt, Sample
from sglang_qwen3next_eagle3.model.chat_format import ChatFormat, Conversation, questions_of
from sglang_qwen3next_eagle3.model.target import Target

CONTINUE = "Continue the following:\n\n"
"""What is asked where a prompt is a plain text."""
PERIOD, REPEATS = 16, 4
"""A tail that is so many times the same PERIOD tokens or fewer is a loop, which greedy decoding of
a small target does not leave any more. Every head drafts it well, from any states."""


class Decoder(Protocol):
    """What `PrefillRunner` does that is needed here."""

    def plan(self, lengths: Sequence[int]) -> list[range]: ...
    def begin(self, prompts: Sequence[Sequence[int]]) -> list[int]: ...
    def step(self, tokens: Sequence[int]) -> list[int]: ...


@dataclass(frozen=True)
class Questions:
    """ids: each up to where the target's answer begins; ends: tokens that end an answer.

    left_out: prompts that are too long, or that ask nothing.
    """

    ids: list[list[int]]
    ends: frozenset[int]
    left_out: int = 0


def questions(asked: Sequence[Prompt], folder: Path, target: Target, length: int) -> Questions:
    """Prompts in the target's chat format, without their last answers; of a plain text the first
    half, to be continued.

    length: tokens of the longest question.

    Raises:
        UserError: the target's folder has no tokenizer or no chat format, or no prompt is left.
    """
    chat_format = ChatFormat(folder)
    found = []
    for prompt in asked:
        chat = _asked(prompt)
        ids = prompts.templated(chat_format, chat, answer=True) if chat else []
        if 0 < len(ids) <= length:
            found.append(ids)
    if not found:
        raise UserError(
            f"no prompt asks anything in {length} tokens: give shorter ones, a greater "
            "--max-length, or --no-regenerate"
        )
    return Questions(found, chat_format.end_tokens(target), len(asked) - len(found))


def answer(
    decoder: Decoder,
    asked: Questions,
    tokens: int,
    fewest: int,
    done: Callable[[], None] = lambda: None,
) -> list[Sample]:
    """Each question with the target's greedy answer of at most `tokens` tokens, the end of it
    included, up to where it begins to loop.

    fewest: tokens of the shortest answer that says anything; others are left out.
    done: called `tokens` times for each question.

    Raises:
        UserError: all are too short, or SGLang failed.
    """
    found: list[tuple[list[int], list[int]]] = []
    for batch in decoder.plan([len(ids) + tokens for ids in asked.ids]):
        ids = [asked.ids[index] for index in batch]
        found += zip(ids, _answer(decoder, ids, asked.ends, tokens, done), strict=True)
    # The head drafts first from the question's last token, whose successor it is given.
    samples = [Sample([*q, *a], len(q) - 1, len(a)) for q, a in found if len(a) >= fewest]
    if not samples:
        raise UserError(
            f"the target answers none of {len(asked.ids)} prompts with {fewest} tokens or more: "
            "give other --prompts, or --no-regenerate"
        )
    return samples


def _answer(
    decoder: Decoder,
    asked: Sequence[Sequence[int]],
    ends: frozenset[int],
    tokens: int,
    done: Callable[[], None],
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in asked]
    going = set(range(len(asked)))
    following: list[int] = []
    for _ in range(tokens):
        # A batch decodes as a whole; what an answer's end is followed by is not looked at.
        if going:
            following = decoder.step(following) if following else decoder.begin(asked)
        for index in sorted(going):
            given = answers[index]
            given.append(following[index])
            loop = _loop(given)
            del given[len(given) - loop :]
            if loop or given[-1] in ends:
                going.remove(index)
        for _ in asked:
            done()
    return answers


def _loop(given: Sequence[int]) -> int:
    """Tokens at the end that only repeat those before them; 0 where it does not loop."""
    for period in range(1, PERIOD + 1):
        repeated = period * (REPEATS - 1)
        tail = given[-repeated - period :]
        if len(tail) == repeated + period and tail[period:] == tail[:-period]:
            return repeated
    return 0


def _asked(prompt: Prompt) -> Conversation:
    """The conversation up to the last answer; empty where nobody asks anything."""
    if isinstance(prompt, str):
        half = prompt[: len(prompt) // 2].strip()
        return [{"role": "user", "content": CONTINUE + half}] if half else []
    return questions_of(prompt)
