"""The target's tokenizer and chat template, and conversations as data sets write them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import parse_json
from sglang_qwen3next_eagle3.model import hub
from sglang_qwen3next_eagle3.model.target import Target, end_tokens

Role = Literal["system", "user", "assistant", "tool"]


class Message(TypedDict):
    role: Role
    content: str


Conversation = list[Message]

KEYS = ("messages", "conversations")
"""Where a record keeps its messages, in the order of preference."""
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
# A call in the words of its data set, not in those that the target would use.
_CALLS = ("function_call", "tool_call")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


class BadRecord(Exception):
    """A record that holds no conversation. reason: a name to count by; detail: for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def messages_of(record: object, keys: Sequence[str] = KEYS) -> Iterator[Message]:
    """The messages of a record, as ShareGPT (from, value), OpenAI (role, content) or UltraChat
    (texts by turns) write them.

    Raises:
        BadRecord: it has none, or one that is not a role and a text.
    """
    if not isinstance(record, Mapping):
        raise BadRecord("not_an_object", f"a JSON object was expected, not {kind(record)}")
    turns = next((record[key] for key in keys if record.get(key) is not None), None)
    if not isinstance(turns, list):
        names = " or ".join(f"`{key}`" for key in keys)
        raise BadRecord("other_format", f"no list {names}")
    for index, turn in enumerate(turns):
        # Only its content would be kept, and answers without the calls are other answers.
        if isinstance(turn, Mapping) and (turn.get("tool_calls") or turn.get("function_call")):
            raise BadRecord("tool_calls", f"message {index + 1} calls tools outside its content")
        role, content = _pair(turn, index)
        if role in _CALLS:
            raise BadRecord("tool_calls", f"message {index + 1} is a call of a tool ({role})")
        yield message(role, content)


def texts_of(turns: Iterable[object]) -> Iterator[str]:
    """The texts of turns, as far as there are any, whoever says them."""
    for index, turn in enumerate(turns):
        try:
            yield _text(_pair(turn, index)[1])
        except BadRecord:
            continue


def message(role: object, content: object) -> Message:
    """A message with its role as chat templates name it.

    Raises:
        BadRecord: no known role, or content that is no text.
    """
    known = _ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise BadRecord("unknown_role", f"role {role!r}")
    return {"role": known, "content": _text(content)}


def questions_of(conversation: Conversation) -> Conversation:
    """A conversation up to its last answer, to be answered again."""
    count = len(conversation)
    while count and conversation[count - 1]["role"] == "assistant":
        count -= 1
    return conversation[:count]


def _pair(turn: object, index: int) -> tuple[object, object]:
    if isinstance(turn, str):
        return ("user", "assistant")[index % 2], turn
    if not isinstance(turn, Mapping):
        raise BadRecord("not_a_message", f"message {index + 1} is {kind(turn)}")
    return turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))


def _text(content: object) -> str:
    """A string, or the text parts of OpenAI's list form, joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(cast(list[str], parts))
    raise BadRecord("not_text", f"a content is {kind(content)}, not text")


def kind(value: object) -> str:
    """What a JSON value is, for people."""
    return "null" if value is None else type(value).__name__


class ChatFormat:
    """A target's tokenizer and chat template.

    tokenizer: transformers' own. name: of the target, for messages.
    """

    def __init__(self, target: str | Path, revision: str | None = None) -> None:
        """target: a folder, a hub name or `demo`; of a hub name the tokenizer's files are fetched
        and nothing else. revision: of a hub name.

        Raises:
            UserError: there is no tokenizer that can be read.
        """
        from transformers import AutoTokenizer

        self.name = str(target)
        self.folder = hub.local_folder(self.name) or hub.resolve(
            self.name, revision, "target", only_tokenizer=True
        )
        # Without these transformers makes an empty tokenizer of the architecture's kind.
        if not any((self.folder / name).is_file() for name in _TOKENIZER_FILES):
            raise UserError(f"the target {target} has no tokenizer: give a whole checkpoint")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
        except Exception as error:  # tokenizers raises nothing more special
            raise UserError(
                f"the target {target} has no tokenizer that can be read ({_first_line(error)}): "
                "download it again"
            ) from None

    def require_template(self, way_out: str) -> None:
        """way_out: ends the message. Raises UserError: there is no chat template."""
        if not self.tokenizer.chat_template:
            raise UserError(f"the target {self.name} has no chat template: {way_out}")

    def require_offsets(self) -> None:
        """Raises UserError: the tokenizer cannot tell where in a text its tokens are."""
        if not self.tokenizer.is_fast:
            raise UserError(f"the target {self.name} has no tokenizer.json, which loss masks need")

    def text(self, conversation: Sequence[Message], *, answer: bool = False) -> str:
        """A conversation as the template renders it. answer: up to where its next answer begins.

        Raises:
            ValueError: the template refuses it; the first line of what it says.
        """
        return str(self._apply(conversation, answer, tokenize=False))

    def ids(self, conversation: Sequence[Message], *, answer: bool = False) -> list[int]:
        """The same as token ids."""
        return list(self._apply(conversation, answer, return_dict=True)["input_ids"])

    def _apply(self, conversation: Sequence[Message], answer: bool, **options: bool) -> Any:
        try:
            return self.tokenizer.apply_chat_template(
                list(conversation), add_generation_prompt=answer, **options
            )
        except Exception as error:  # templates raise what they like
            raise ValueError(_first_line(error)) from None

    def encode(self, text: str) -> list[int]:
        """The ids of a text as it stands."""
        return list(self.tokenizer(text)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def end_tokens(self, target: Target) -> frozenset[int]:
        """All tokens that end an answer: by the target's config, by its generation_config.json,
        which may name more than one, and by its tokenizer."""
        own = self.tokenizer.eos_token_id
        named = end_tokens(target.config, _generation_config(self.folder))
        return named if own is None else named | {own}

    def special_tokens(self) -> frozenset[int]:
        """Those that have a role, and those that are only marked as special."""
        added = self.tokenizer.added_tokens_decoder.items()
        marked = {id for id, token in added if token.special}
        return frozenset(marked | set(self.tokenizer.all_special_ids))

    def special_texts(self) -> tuple[str, ...]:
        """What stands for a special token wherever it is written."""
        return tuple(self.tokenizer.convert_ids_to_tokens(sorted(self.special_tokens())))


def _generation_config(folder: Path) -> Mapping[str, Any]:
    try:
        found = parse_json((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
