"""Records of the public conversation sets, turned into the one form that training reads.

A conversation is a list of messages `{"role", "content"}`: an optional system message, then
user and assistant in turn, where tool results may stand between two assistant messages. SpecForge
0.2.0 (`data/parse.py`) truncates at the first message out of this order with a warning only, and
hands every further key of a record to the chat template; so neither is let through here.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping

from sglang_qwen3next_eagle3.model import chat_format
from sglang_qwen3next_eagle3.model.chat_format import BadRecord, Conversation, Message, Role

# Where the messages stand, in the order of preference.
FORMATS: dict[str, tuple[str, ...]] = {
    "sharegpt": ("conversations",),
    "ultrachat": ("messages", "data"),
    "perfectblend": ("conversations",),
    "messages": ("messages", "conversations"),
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


def parse(record: object, format_name: str, left_out: Counter[str] | None = None) -> Conversation:
    """The conversation of a record, verbatim, without an empty system message, what precedes the
    first question and what follows the last answer.

    left_out: counts these, as `empty_system`, `before_question` and `after_answer`.

    Raises:
        BadRecord: it does not hold a conversation with an answer.
    """
    _refuse_tools(record)
    keys, gone = FORMATS[format_name], Counter[str]()
    if (rest := _without_empty_system(record, keys)) is not None:
        record, gone["empty_system"] = rest, 1
    messages = list(map(_checked, chat_format.messages_of(record, keys)))
    start = 1 if messages and messages[0]["role"] == "system" else 0
    while start < len(messages) and messages[start]["role"] == "assistant":
        del messages[start]
        gone["before_question"] = 1
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
        gone["after_answer"] = 1
    if not messages:
        raise BadRecord("no_answer", "no assistant message after a user message")
    previous: Role | None = None
    for number, one in enumerate(messages, 1):
        if one["role"] == previous != "tool":
            raise BadRecord("same_speaker", f"message {number} is of the {previous} again")
        if one["role"] not in _FOLLOWS[previous]:
            after = f"follows {previous}" if previous else "comes first"
            raise BadRecord("turn_order", f"message {number} ({one['role']}) {after}")
        previous = one["role"]
    if left_out is not None:
        left_out.update(gone)
    return messages


def message(role: object, content: object) -> Message:
    """A message that may be trained on. Raises BadRecord."""
    return _checked(chat_format.message(role, content))


def _refuse_tools(record: object) -> None:
    """An answer to a prompt that described tools is another one to a prompt that does not."""
    for name in ("tools", "functions"):
        given = record.get(name) if isinstance(record, Mapping) else None
        if given not in (None, "", [], {}, "[]", "{}", "null"):
            raise BadRecord("tools", f"its answers were given with `{name}`, which are no message")


def _without_empty_system(record: object, keys: tuple[str, ...]) -> Mapping[str, object] | None:
    """The record without the system message that it begins with, if that says nothing."""
    if not isinstance(record, Mapping):
        return None
    for key in keys:
        if isinstance(turns := record.get(key), list):
            break
    else:
        return None
    first = turns[0] if turns else None
    if not isinstance(first, Mapping) or first.get("from", first.get("role")) != "system":
        return None
    content = first.get("value", first.get("content"))
    empty = content in (None, []) or (isinstance(content, str) and not content.strip())
    return {**record, key: turns[1:]} if empty else None


def _checked(one: Message) -> Message:
    role, text = one["role"], one["content"]
    if not text.strip():
        raise BadRecord("empty_message", f"a {role} message is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecord("not_unicode", f"a {role} message holds half a surrogate pair") from None
    for markup in _MARKUP:
        if markup in text:
            raise BadRecord("chat_markup", f"a {role} message contains {markup}")
    return one


def normalised(text: str) -> str:
    """For comparison only: Unicode NFC, every run of white space one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], kind)
