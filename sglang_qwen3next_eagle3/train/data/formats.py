"""Records of the public conversation sets, turned into the one form that training reads.

A conversation is a list of messages `{"role", "content"}`: an optional system message, then
user and assistant in turn, where tool results may stand between two assistant messages. SpecForge
0.2.0 (`data/parse.py`) truncates at the first message out of this order with a warning only, and
hands every further key of a record to the chat template; so neither is let through here.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypedDict, cast

Role = Literal["system", "user", "assistant", "tool"]


class Message(TypedDict):
    role: Role
    content: str


Conversation = list[Message]

# Where the messages stand, in the order of preference.
FORMATS: dict[str, tuple[str, ...]] = {
    "sharegpt": ("conversations",),
    "ultrachat": ("messages", "data"),
    "perfectblend": ("conversations",),
    "messages": ("messages", "conversations"),
}

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
_FOLLOWS: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
# Within a message these would open and close turns of Qwen's chat format, loss mask included.
_MARKUP = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


class BadRecord(Exception):
    """A record that cannot be trained on. reason: a name to count by; detail: for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def detect(record: object) -> str | None:
    """The format of a record, None if it is of none.

    UltraChat-200k differs from OpenAI messages by its `prompt_id`, PerfectBlend from ShareGPT by
    `source` instead of `id`; each pair is read alike.
    """
    if not isinstance(record, Mapping):
        return None
    if _is_list_of(record.get("messages"), Mapping):
        return "ultrachat" if "prompt_id" in record else "messages"
    if _is_list_of(record.get("conversations"), Mapping):
        if "from" not in record["conversations"][0]:
            return "messages"
        return "perfectblend" if "source" in record and "id" not in record else "sharegpt"
    return "ultrachat" if _is_list_of(record.get("data"), str) else None


def parse(record: object, format_name: str) -> Conversation:
    """The conversation of a record, verbatim, without what precedes the first question and
    follows the last answer.

    Raises:
        BadRecord: it does not hold a conversation with an answer.
    """
    if not isinstance(record, Mapping):
        raise BadRecord("not_an_object", f"a JSON object was expected, not {_kind(record)}")
    turns = next((record[k] for k in FORMATS[format_name] if record.get(k) is not None), None)
    if not isinstance(turns, list):
        keys = " or ".join(f"`{key}`" for key in FORMATS[format_name])
        raise BadRecord("other_format", f"no list {keys}, which format {format_name} has")
    messages = [message(role, content) for role, content in _pairs(turns)]
    start = 1 if messages and messages[0]["role"] == "system" else 0
    while start < len(messages) and messages[start]["role"] == "assistant":
        del messages[start]
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        raise BadRecord("no_answer", "no assistant message after a user message")
    previous: Role | None = None
    for number, one in enumerate(messages, 1):
        if one["role"] not in _FOLLOWS[previous]:
            after = f"follows {previous}" if previous else "comes first"
            raise BadRecord("turn_order", f"message {number} ({one['role']}) {after}")
        previous = one["role"]
    return messages


def _pairs(turns: list[Any]) -> Iterator[tuple[object, object]]:
    for index, turn in enumerate(turns):
        if isinstance(turn, str):
            yield ("user", "assistant")[index % 2], turn
            continue
        if not isinstance(turn, Mapping):
            raise BadRecord("not_a_message", f"message {index + 1} is {_kind(turn)}")
        # Only its content would be kept, and the head trained on answers without the calls.
        if turn.get("tool_calls") or turn.get("function_call"):
            raise BadRecord("tool_calls", f"message {index + 1} calls tools outside its content")
        yield turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))


def message(role: object, content: object) -> Message:
    """A message with its role as SpecForge names it. Raises BadRecord."""
    known = _ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise BadRecord("unknown_role", f"role {role!r}")
    text = _text(content)
    if not text.strip():
        raise BadRecord("empty_message", f"a {known} message is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecord("not_unicode", f"a {known} message holds half a surrogate pair") from None
    for markup in _MARKUP:
        if markup in text:
            raise BadRecord("chat_markup", f"a {known} message contains {markup}")
    return {"role": known, "content": text}


def _text(content: object) -> str:
    """A string, or the text parts of OpenAI's list form, joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        parts = [p.get("text") if isinstance(p, Mapping) else None for p in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(cast(list[str], parts))
    raise BadRecord("not_text", f"a content is {_kind(content)}, not text")


def normalised(text: str) -> str:
    """For comparison only: Unicode NFC, every run of white space one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], kind)


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
