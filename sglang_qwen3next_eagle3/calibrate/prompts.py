"""The texts that a head is calibrated on: built in, or the user's."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.chat_format import (
    BadRecord,
    ChatFormat,
    Conversation,
    messages_of,
)
from sglang_qwen3next_eagle3.model.target import Target

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
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(_parse(text, name))


def read(path: Path) -> list[Prompt]:
    """A JSONL file with `text`, `messages` or `conversations` in each line, else one plain text.

    Raises:
        UserError: no such file, or a line that is none of these.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompts {path}: {error}") from None
    prompts: list[Prompt] = [text]
    if path.suffix == ".jsonl":
        prompts = list(_parse(text, str(path)))
    if not any(prompts):
        raise UserError(f"{path} holds no prompts")
    return prompts


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


MIN_TOKENS = 16
"""A text that is shorter has too few roots to say anything."""


def _parse(text: str, where: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield _prompt(json.loads(line))
        except (ValueError, BadRecord) as error:
            detail = error.detail if isinstance(error, BadRecord) else error
            raise UserError(
                f"{where}, line {number}: a JSON object with text, messages or conversations "
                f"is expected ({detail})"
            ) from None


def _prompt(entry: object) -> Prompt:
    if isinstance(entry, dict) and isinstance(entry.get("text"), str):
        text: str = entry["text"]
        return text
    return list(messages_of(entry))
