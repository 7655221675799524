"""Which conversations share text with a benchmark, by word n-grams."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sglang_qwen3next_eagle3.base import records
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import chat_format
from sglang_qwen3next_eagle3.model.chat_format import Conversation

# GPT-3 (arXiv:2005.14165, appendix C) and most since call 13 words in common an overlap.
NGRAM = 13
# Of any 13 words in a row, a run of 7 starts at a multiple of 7: looking up those finds every
# candidate with a seventh of the lookups, and the 13 words are compared only then.
_PROBE = (NGRAM + 1) // 2
_WORD = re.compile(r"\w+")


class Excluded:
    """Texts that must not be trained on.

    A text shorter than 13 words counts only where it is a whole message, or ordinary sentences
    would be excluded everywhere.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._ngrams: set[tuple[str, ...]] = set()
        self._probes: set[tuple[str, ...]] = set()
        self._short: set[tuple[str, ...]] = set()
        for text in texts:
            words = _words(text)
            if len(words) < NGRAM:
                self._short.add(words)
            self._ngrams.update(_runs(words, NGRAM))
            self._probes.update(_runs(words, _PROBE))
        self._short.discard(())

    def __bool__(self) -> bool:
        return bool(self._ngrams or self._short)

    def hits(self, conversation: Conversation) -> bool:
        """Whether any message shares 13 words in a row with an excluded text."""
        return any(self._hits_words(_words(message["content"])) for message in conversation)

    def _hits_words(self, words: tuple[str, ...]) -> bool:
        if words in self._short:
            return True
        for start in range(0, len(words) - _PROBE + 1, _PROBE):
            if words[start : start + _PROBE] in self._probes:
                around = words[max(0, start + _PROBE - NGRAM) : start + NGRAM]
                if any(run in self._ngrams for run in _runs(around, NGRAM)):
                    return True
        return False


def read_texts(path: Path) -> Iterator[str]:
    """The texts of a benchmark's JSONL: `prompt`, `turns`, or the contents of its messages.

    Raises:
        UserError: the file cannot be read, or a line holds none: half a list guards nothing.
    """
    found = False
    for record in records.read_file(path):
        texts = list(_texts(record.value))
        if not texts:
            raise UserError(
                f"{path}:{record.line}: nothing to exclude here: "
                "a `prompt`, `turns` or `messages` field was expected"
            )
        found = True
        yield from texts
    if not found:
        raise UserError(f"{path} is empty: it should list what to exclude")


def _texts(record: object) -> Iterator[str]:
    if not isinstance(record, Mapping):
        return
    turns = (record.get("turns"), *(record.get(key) for key in chat_format.KEYS))
    listed = [turn for value in turns if isinstance(value, list) for turn in value]
    for text in (record.get("prompt"), *chat_format.texts_of(listed)):
        if isinstance(text, str) and text.strip():
            yield text


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def _runs(words: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    return (words[i : i + length] for i in range(len(words) - length + 1))
