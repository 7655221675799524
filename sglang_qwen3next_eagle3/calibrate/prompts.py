"""The texts that a head is calibrated on: built in, or the user's; as they stand, or with the
target's own answers.

Its own answers are the kind of text that heads are trained on. A little-trained head is told from
its neighbours on such text only, and learns from the answers alone; so with these texts nothing is
scored before the answer begins.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.records import read_file
from sglang_qwen3next_eagle3.model.chat_format import (
    BadRecord,
    ChatFormat,
    Conversation,
    messages_of,
    questions_of,
)
from sglang_qwen3next_eagle3.model.target import Target

OWN, GIVEN, RANDOM = "own answers", "as given", "random tokens"
RANDOM_PROMPTS = 24
CONTINUE = "Continue the following:\n\n"
"""What is asked where a prompt is a plain text."""
PERIOD, REPEATS = 16, 4
"""A tail that is so many times the same PERIOD tokens or fewer is a loop, which greedy decoding of
a small target does not leave any more. Every head drafts it well, from any states."""
MIN_TOKENS = 16
"""A text that is shorter has too few roots to say anything."""
Prompt = str | Conversation
"""A text as it stands, or a conversation in the target's chat format."""


@dataclass(frozen=True)
class Sample:
    """A tokenized text. start: the first position that is scored; answer_tokens: those at its end
    that the target itself made."""

    ids: Sequence[int]
    start: int = 0
    answer_tokens: int = 0


def built_in() -> list[Prompt]:
    """Short programs and conversations about code, written for this purpose."""
    return _packaged("prompts.jsonl")


def built_in_questions() -> list[Prompt]:
    """Questions without an answer, written for this purpose; and those of `built_in`."""
    return [*_packaged("questions.jsonl"), *built_in()]


def _packaged(name: str) -> list[Prompt]:
    return list(_prompts(Path(__file__).parent / name))


def read(path: Path) -> list[Prompt]:
    """A JSONL file with `text`, `messages` or `conversations` in each line, else one plain text.

    Raises:
        UserError: no such file, or a line that is none of these.
    """
    if not path.is_file():
        raise UserError(f"cannot read the prompts {path}: there is no such file")
    if path.suffix == ".jsonl":
        prompts = list(_prompts(path))
    else:
        try:
            prompts = [path.read_text(encoding="utf-8")]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the prompts {path}: {error}") from None
    if not any(prompts):
        raise UserError(f"{path} holds no prompts")
    return prompts


def _prompts(path: Path) -> Iterator[Prompt]:
    for record in read_file(path):
        entry = record.value
        if isinstance(entry, dict) and isinstance(entry.get("text"), str):
            yield entry["text"]
            continue
        try:
            yield list(messages_of(entry))
        except BadRecord as bad:
            detail = bad.detail if record.problem is None else record.problem[1]
            raise UserError(
                f"{path}, line {record.line}: a JSON object with text, messages or conversations "
                f"is expected ({detail})"
            ) from None


def tokenize(prompts: list[Prompt], folder: Path, length: int) -> list[list[int]]:
    """Token ids; texts longer than `length` tokens are cut into pieces, short ends dropped.

    Raises:
        UserError: the target's folder has no tokenizer, or no chat format where one is needed.
    """
    chat = ChatFormat(folder)
    found: list[list[int]] = []
    for prompt in prompts:
        ids = chat.encode(prompt) if isinstance(prompt, str) else templated(chat, prompt)
        pieces = [ids[start : start + length] for start in range(0, len(ids), length)]
        found += [piece for piece in pieces if len(piece) >= min(length, MIN_TOKENS)]
    if not found:
        raise UserError(f"the prompts have fewer than {MIN_TOKENS} tokens each: give longer ones")
    return found


def templated(chat: ChatFormat, conversation: Conversation, answer: bool = False) -> list[int]:
    """A conversation in the target's chat format. answer: up to where its next answer begins.

    Raises:
        UserError: the format is missing, or takes no such conversation.
    """
    try:
        return chat.ids(conversation, answer=answer)
    except ValueError as error:
        raise UserError(
            f"the chat format of {chat.name} does not take a conversation ({error}): "
            "give --prompts with plain texts and --no-regenerate"
        ) from None


def random_tokens(target: Target, count: int, length: int, seed: int = 0) -> list[list[int]]:
    """Prompts for a target without weights, which has no tokenizer either."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(target.vocab_size, (count, length), generator=generator)
    rows: list[list[int]] = ids.tolist()
    return rows


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
        ids = templated(chat_format, chat, answer=True) if chat else []
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


@dataclass(frozen=True)
class TextSource:
    """kind: one of the three. texts: token ids, those of `asked` where the target answers them with
    at most `answer_tokens` each."""

    kind: str
    texts: list[list[int]]
    asked: Questions | None = None
    answer_tokens: int = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest text there may be."""
        return max(map(len, self.texts)) + self.answer_tokens

    @property
    def most(self) -> int:
        """Tokens of all texts, at most."""
        return sum(map(len, self.texts)) + self.answer_tokens * len(self.texts)

    def left_out(self, samples: Sequence[Sample]) -> int:
        """Prompts that did not make it into what `samples` returned."""
        return 0 if self.asked is None else self.asked.left_out + len(self.texts) - len(samples)

    def samples(
        self, decoder: Decoder, steps: int, done: Callable[[], None] = lambda: None
    ) -> list[Sample]:
        """The texts, answered. steps: drafts in a chain. done: called `answer_tokens` times a text.

        Raises:
            UserError: no answer is long enough, or SGLang failed.
        """
        if self.asked is None:
            return [Sample(ids) for ids in self.texts]
        fewest = max(steps + 2, min(MIN_TOKENS, self.answer_tokens))
        return answer(decoder, self.asked, self.answer_tokens, fewest, done)
