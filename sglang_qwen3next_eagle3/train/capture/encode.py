"""Conversations to token ids and loss masks, by the target's own chat template."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError

Message = Mapping[str, str]


@dataclass(frozen=True)
class Conversation:
    """One line of a prepared file. messages: `{"role", "content"}` in order."""

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Sample:
    """One conversation as the head is trained on it.

    ids: token ids, unshifted; loss_mask: 1 on what an assistant said and the token that ends its
    turn, 0 elsewhere; equally long.
    """

    id: str
    ids: list[int]
    loss_mask: list[int]


def read_conversations(path: Path) -> Iterator[Conversation]:
    """The conversations of a file as `train prepare` writes it.

    Raises:
        UserError: the file cannot be read, or a line is none; the message names the line.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _conversation(line, f"{path}:{number}")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give the JSONL of `train prepare`"
        ) from None


def _conversation(line: bytes, where: str) -> Conversation:
    try:
        value = json.loads(line)
    except ValueError:
        raise UserError(f"{where} is not JSON: write the file with `train prepare`") from None
    turns = value.get("conversations") if isinstance(value, dict) else None
    if not isinstance(turns, list) or not turns:
        raise UserError(f'{where} has no list "conversations": write the file with `train prepare`')
    for turn in turns:
        if not isinstance(turn, dict) or not all(
            isinstance(turn.get(key), str) for key in ("role", "content")
        ):
            raise UserError(
                f'{where}: a turn is not {{"role", "content"}} with texts: '
                "write the file with `train prepare`"
            )
    messages = tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)
    return Conversation(str(value.get("id", where.rpartition(":")[2])), messages)


def load_tokenizer(folder: Path) -> Any:
    """The target's tokenizer, with its chat template.

    Raises:
        UserError: there is none, it has no template, or it cannot tell where in the text its
            tokens are.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"the target {folder} has no tokenizer that loads: {reason}") from None
    if not tokenizer.chat_template:
        raise UserError(f"the target {folder} has no chat template: its tokenizer files lack it")
    if not tokenizer.is_fast:
        raise UserError(f"the target {folder} has no tokenizer.json, which loss masks need")
    return tokenizer


def encode(
    tokenizer: Any, messages: Sequence[Message], max_length: int, id: str = ""
) -> Sample | None:
    """The first `max_length` tokens of a conversation, or None if no assistant's is among them.

    Where the answers are is found by rendering: an answer begins where the template's generation
    prompt after the turns before it ends, and ends with the turn's last token. The text is
    tokenized once, as a server does with the history of a chat.

    Raises:
        UserError: the template refuses the conversation, or renders a turn differently once others
            follow, so that no part of the text is the answer as it was generated.
    """
    text = _render(tokenizer, messages, id)
    answers = list(_answers(tokenizer, messages, text, id))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"][:max_length]
    loss_mask, current = [], 0
    for start, _ in encoded["offset_mapping"][:max_length]:
        while current < len(answers) and start >= answers[current][1]:
            current += 1
        loss_mask.append(int(current < len(answers) and start >= answers[current][0]))
    return Sample(id, ids, loss_mask) if any(loss_mask) else None


def _answers(
    tokenizer: Any, messages: Sequence[Message], text: str, id: str
) -> Iterator[tuple[int, int]]:
    """Begin and end of every assistant's turn in the rendered text, without the white space that
    the template puts between turns."""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:index], id, add_generation_prompt=True)
        is_last = index == len(messages) - 1
        until = text if is_last else _render(tokenizer, messages[: index + 1], id)
        if not (text.startswith(until) and until.startswith(before)):
            raise UserError(
                f"conversation {id!r}: the target's chat template renders turn {index + 1} "
                "differently when others follow, so its tokens cannot be told: split the "
                "conversation into one for each answer"
            )
        yield len(before), len(until.rstrip())


def _render(tokenizer: Any, messages: Sequence[Message], id: str, **options: bool) -> str:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except (TemplateError, IndexError) as error:
        raise UserError(
            f"conversation {id!r}: the target's chat template refuses it ({error}): leave it out"
        ) from None
    return text
