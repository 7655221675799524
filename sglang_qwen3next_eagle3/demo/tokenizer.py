"""A byte-level BPE tokenizer for the demo pair, trained on the corpus of this folder.

The merges are counted here, not by `tokenizers`' trainer: which of two equally frequent pairs is
merged first then depends on these lines alone, and so do the bytes of the files.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# In Qwen's order. Their ids follow the merges, as in Qwen's own vocabulary.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, TURN_START, TURN_END = SPECIAL_TOKENS
MAX_MERGES = 760
MIN_PAIR_COUNT = 2

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""


@cache
def corpus() -> tuple[tuple[str, str], ...]:
    """The questions and answers of corpus.txt, a question a line that starts with `### `."""
    text = files(__package__).joinpath("corpus.txt").read_text(encoding="utf-8")
    pairs = []
    for block in ("\n" + text.strip()).split("\n### ")[1:]:
        question, _, answer = block.partition("\n")
        pairs.append((question, answer.strip()))
    return tuple(pairs)


def chat_turns(question: str, answer: str) -> str:
    """One question and the beginning of its answer, in the words of the chat template."""
    return f"{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n{answer}"


def build_tokenizer() -> dict[str, Any]:
    """The content of tokenizer.json."""
    from tokenizers.pre_tokenizers import ByteLevel

    split = ByteLevel(add_prefix_space=False, use_regex=True)
    texts = [part for pair in corpus() for part in ("user\n", "assistant\n", *pair)]
    words = Counter(word for text in texts for word, _ in split.pre_tokenize_str(text))
    merges = _count_merges(words)
    tokens = sorted(ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys(tokens))
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": len(tokens) + i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [list(pair) for pair in merges],
        },
    }


def load_tokenizer(content: dict[str, Any]) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(content))


def tokenizer_config(max_length: int) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "additional_special_tokens": [TURN_START],
        "model_max_length": max_length,
    }


def _count_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """The merges of BPE, the most frequent pair first, the smaller of two equal ones."""
    pieces = {word: list(word) for word in sorted(words)}
    merges: list[tuple[str, str]] = []
    while len(merges) < MAX_MERGES:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < MIN_PAIR_COUNT:
            break
        merges.append(best)
        for word, parts in pieces.items():
            if len(parts) > 1:
                pieces[word] = list(_merge(parts, best))
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> Iterable[str]:
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            yield parts[i] + parts[i + 1]
            i += 2
        else:
            yield parts[i]
            i += 1
