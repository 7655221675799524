"""Conversations to token ids and loss masks, by the target's own chat template."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.chat_format import BadRecord, ChatFormat, Message, messages_of


@dataclass(frozen=True)
class Prepared:
    """One line of a file that `train prepare` wrote."""

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class TrainingSample:
    """One conversation as the head is trained on it.

    ids: token ids, unshifted; loss_mask: 1 on what an assistant said and the token that ends its
    turn, 0 elsewhere; equally long.
    """

    id: str
    ids: list[int]
    loss_mask: list[int]


def read_conversations(path: Path) -> Iterator[Prepared]:
    """The conversations of a file as `train prepare` writes it.

    Raises:
        UserError: the file cannot be read, or a line is none; the message names the line.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _prepared(line, f"{path}:{number}")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give the JSONL of `train prepare`"
        ) from None


def _prepared(line: bytes, where: str) -> Prepared:
    try:
        value = json.loads(line)
    except ValueError:
        raise UserError(f"{where} is not JSON: write the file with `train prepare`") from None
    turns = value.get("conversations") if isinstance(value, dict) else None
    if not isinstance(turns, list) or not turns:
        raise UserError(f'{where} has no list "conversations": write the file with `train prepare`')
    try:
        messages = tuple(messages_of(value, ("conversations",)))
    except BadRecord as bad:
        raise UserError(
            f'{where}: a turn is not {{"role", "content"}} with texts ({bad.detail}): '
            "write the file with `train prepare`"
        ) from None
    return Prepared(str(value.get("id", where.rpartition(":")[2])), messages)


def samples_of(
    path: Path,
    chat: ChatFormat,
    max_length: int,
    left_out: Counter[str],
    read: Callable[[], None] = lambda: None,
) -> Iterator[TrainingSample]:
    """The conversations of a prepared file that can be trained on. read: called after each.

    left_out: counts the others, as `no_answer` (among the first `max_length` tokens) and
        `special_token`, which within a message opens or closes a turn or is no text; no answer that
        the target gives holds one.

    Raises:
        UserError: as `read_conversations` and `encode`.
    """
    special = chat.special_texts()
    for conversation in read_conversations(path):
        sample, reason = None, "no_answer"
        if any(token in one["content"] for one in conversation.messages for token in special):
            reason = "special_token"
        else:
            sample = encode(chat, conversation.messages, max_length, conversation.id)
        read()
        if sample is not None:
            yield sample
        else:
            left_out[reason] += 1


def load_format(target: str | Path) -> ChatFormat:
    """The target's chat format.

    Raises:
        UserError: there is no tokenizer, it has no template, or it cannot tell where in the text
            its tokens are.
    """
    chat = ChatFormat(target)
    chat.require_template("its tokenizer files lack it")
    chat.require_offsets()
    return chat


def encode(
    chat: ChatFormat, messages: Sequence[Message], max_length: int, id: str = ""
) -> TrainingSample | None:
    """The first `max_length` tokens of a conversation, or None if no assistant's is among them.

    Where the answers are is found by rendering: an answer begins where the template's generation
    prompt after the turns before it ends, and ends with the turn's last token. The text is
    tokenized once, as a server does with the history of a chat.

    Raises:
        UserError: the template refuses the conversation, or renders a turn differently once others
            follow, so that no part of the text is the answer as it was generated.
    """
    text = _render(chat, messages, id)
    answers = list(_answers(chat, messages, text, id))
    encoded = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"][:max_length]
    loss_mask, current = [], 0
    for start, _ in encoded["offset_mapping"][:max_length]:
        while current < len(answers) and start >= answers[current][1]:
            current += 1
        loss_mask.append(int(current < len(answers) and start >= answers[current][0]))
    return TrainingSample(id, ids, loss_mask) if any(loss_mask) else None


def _answers(
    chat: ChatFormat, messages: Sequence[Message], text: str, id: str
) -> Iterator[tuple[int, int]]:
    """Begin and end of every assistant's turn in the rendered text, without the white space that
    the template puts between turns."""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(chat, messages[:index], id, answer=True)
        is_last = index == len(messages) - 1
        until = text if is_last else _render(chat, messages[: index + 1], id)
        if not (text.startswith(until) and until.startswith(before)):
            raise UserError(
                f"conversation {id!r}: the target's chat template renders turn {index + 1} "
                "differently when others follow, so its tokens cannot be told: split the "
                "conversation into one for each answer"
            )
        yield len(before), len(until.rstrip())


def _render(chat: ChatFormat, messages: Sequence[Message], id: str, *, answer: bool = False) -> str:
    try:
        return chat.text(messages, answer=answer)
    except ValueError as error:
        raise UserError(
            f"conversation {id!r}: the target's chat template refuses it ({error}): leave it out"
        ) from None
