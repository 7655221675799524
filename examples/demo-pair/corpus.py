"""The demo target's corpus: tokenizer, token streams and chat turns.

    python examples/demo-pair/corpus.py --archives DIR --out DIR \
        --exclude HumanEval.jsonl.gz

Writes `tokenizer.json` and `tokenizer_config.json`, `train.bin` and `held_out.bin` (uint16 token
ids, documents parted by <|endoftext|>), `questions.jsonl` and `held_out_questions.jsonl` (one
conversation a line, for `train prepare`) and `corpus.json`.
"""

import argparse
import ast
import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sources
from sources import Document

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCAB = 4096
END_OF_TEXT, TURN_START, TURN_END = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Qwen's pre-tokenizer: a digit is a token of its own, spaces join the word that follows.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""

MOST_OF_A_SOURCE = {"code": 6_000_000, "prose": 3_000_000}
HELD_OUT_ONE_IN = 100
NGRAM = 10
LONGEST_ANSWER = 1400
SEED = 0


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: str
    answer: str

    def text(self) -> str:
        return (
            f"{TURN_START}user\n{self.question}{TURN_END}\n"
            f"{TURN_START}assistant\n{self.answer}{TURN_END}\n"
        )


def turns(text: str) -> Iterator[Turn]:
    """Chat turns from a module's documented functions. Every second one asks to continue the
    code from its docstring on, the others to write a function from the docstring's first line."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = text.splitlines(keepends=True)
    for count, node in enumerate(_functions(tree)):
        summary, doc = _summary(node), node.body[0]
        start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        if not summary or doc.end_lineno is None or node.end_lineno is None:
            continue
        code = "".join(lines[start : node.end_lineno])
        indent = len(lines[start]) - len(lines[start].lstrip())
        if count % 2:
            answer = _dedent("".join(lines[doc.end_lineno :]), indent)[:LONGEST_ANSWER]
            head = _dedent("".join(lines[start : doc.end_lineno]), indent)
            if 60 < len(head) < 1600 and len(answer) > 80:
                whole_lines = answer.rpartition("\n")[0] + "\n"
                question = f"Complete the following Python function:\n\n{head}"
                yield Turn(question.rstrip("\n") + "\n", whole_lines)
        elif 80 < len(code) < LONGEST_ANSWER:
            asked = summary[0].lower() + summary[1:]
            yield Turn(
                f"Write a Python function to {asked}" if _is_imperative(summary) else
                f"Write the Python function `{node.name}`: {summary}",
                f"```python\n{_dedent(code, indent)}```",
            )  # fmt: skip


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and len(node.body) > 1 and ast.get_docstring(node):
            yield node


def _summary(node: ast.FunctionDef) -> str:
    first = (ast.get_docstring(node) or "").strip().split("\n\n")[0]
    summary = " ".join(first.split())
    return summary if 12 < len(summary) < 200 else ""


def _is_imperative(summary: str) -> bool:
    first = summary.split()[0]
    return first.isalpha() and first.istitle() and not first.endswith(("s", "ed", "ing", "The"))


def _dedent(code: str, indent: int) -> str:
    """Without the first `indent` columns; text that stands further left ends it."""
    kept = []
    for line in code.splitlines(keepends=True):
        if line[:indent].strip():
            break
        kept.append(line[indent:] if line.strip() else "\n")
    return "".join(kept)


def gather(archives: Path, excluded: set[int]) -> tuple[list[Document], dict[str, object]]:
    """Every source's documents without duplicates, capped, free of what is excluded."""
    found: list[Document] = []
    seen: set[bytes] = set()
    report = []
    contaminated = 0
    for source in sources.pinned():
        size = Counter[str]()
        for document in _shuffled(sources.documents(source, archives), source.name):
            digest = hashlib.sha256(document.text.encode()).digest()
            if digest in seen or size[document.kind] > MOST_OF_A_SOURCE[document.kind]:
                continue
            seen.add(digest)
            if not excluded.isdisjoint(ngrams(document.text)):
                contaminated += 1
                continue
            size[document.kind] += len(document.text)
            found.append(document)
        entry = {"name": source.name, "version": source.version, "licence": source.licence}
        report.append({**entry, **size})
        print(f"{source.name} {source.version}: {dict(size)}", flush=True)
    return found, {"sources": report, "documents_with_excluded_text": contaminated}


def _shuffled(documents: Iterable[Document], name: str) -> list[Document]:
    listed = list(documents)
    random.Random(f"{SEED} {name}").shuffle(listed)
    return listed


def ngrams(text: str) -> Iterator[int]:
    """Hashes of all runs of NGRAM words."""
    words = re.findall(r"\w+", text.lower())
    for i in range(len(words) - NGRAM + 1):
        yield hash(tuple(words[i : i + NGRAM]))


def excluded_ngrams(paths: Sequence[Path]) -> set[int]:
    found: set[int] = set()
    for path in paths:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                for value in json.loads(line).values():
                    for text in value if isinstance(value, list) else [value]:
                        if isinstance(text, str):
                            found.update(ngrams(text))
    return found


def train_tokenizer(texts: Sequence[str]) -> "Tokenizer":
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    bpe.decoder = decoders.ByteLevel()
    # The special tokens follow the merges, as in Qwen's own vocabulary.
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(list(SPECIAL))
    return bpe


def tokenizer_config(context: int) -> dict[str, object]:
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
        "model_max_length": context,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--exclude", type=Path, action="append", default=[])
    parser.add_argument("--context", type=int, default=4096)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    excluded = excluded_ngrams(arguments.exclude)
    documents, report = gather(arguments.archives, excluded)
    rng = random.Random(SEED)
    rng.shuffle(documents)
    held_out = {i for i, d in enumerate(documents) if _is_held_out(d)}
    kinds = Counter[str]()
    for document in documents:
        kinds[document.kind] += len(document.text)
    sample = [d.text for i, d in enumerate(documents) if i not in held_out and i % 6 == 0]
    bpe = train_tokenizer(sample)
    bpe.save(str(out / "tokenizer.json"))
    config = json.dumps(tokenizer_config(arguments.context), indent=2)
    (out / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
    counts = {}
    for name, wanted in (("train", False), ("held_out", True)):
        chosen = [d for i, d in enumerate(documents) if (i in held_out) == wanted]
        asked = [turn for d in chosen if d.kind == "code" for turn in turns(d.text)]
        rng.shuffle(asked)
        texts = [d.text + END_OF_TEXT for d in chosen] + _packed(asked)
        rng.shuffle(texts)
        ids = np.concatenate([np.array(e.ids, dtype=np.uint16) for e in _encode(bpe, texts)])
        ids.tofile(out / f"{name}.bin")
        questions = "questions.jsonl" if name == "train" else "held_out_questions.jsonl"
        with (out / questions).open("w", encoding="utf-8") as stream:
            for turn in asked:
                stream.write(json.dumps({"messages": _messages(turn)}) + "\n")
        counts[name] = {"documents": len(chosen), "turns": len(asked), "tokens": len(ids)}
    total = {"characters": dict(kinds), "ngram": NGRAM, "vocabulary": VOCAB, **counts}
    (out / "corpus.json").write_text(json.dumps({**total, **report}, indent=1) + "\n", "utf-8")
    print(json.dumps(total))


def _is_held_out(document: Document) -> bool:
    digest = hashlib.sha256(document.path.encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def _packed(asked: Sequence[Turn]) -> list[str]:
    """Conversations of one turn each, a few to a document."""
    texts = [turn.text() + END_OF_TEXT for turn in asked]
    return ["".join(texts[i : i + 4]) for i in range(0, len(texts), 4)]


def _encode(bpe: "Tokenizer", texts: Sequence[str]) -> Iterator[Any]:
    for i in range(0, len(texts), 2000):
        yield from bpe.encode_batch(texts[i : i + 2000])


def _messages(turn: Turn) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": turn.question},
        {"role": "assistant", "content": turn.answer},
    ]


if __name__ == "__main__":
    main()
