"""What the demo's corpus is made of: chat turns from functions, and nothing of the benchmarks."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import corpus
import pytest
import sources
from corpus import Turn, excluded_ngrams, ngrams, turns
from sources import Source, documents

from sglang_qwen3next_eagle3.base.errors import UserError

MODULE = '''
class Stack:
    def push(self, item):
        """Put an item on the top of the stack."""
        self.items.append(item)
        return self

    def pop(self, default=None):
        """Take the newest item from the top.

        Returns the default if there is none.
        """
        if not self.items:
            return default
        return self.items.pop()

    def peek(self):
        return self.items[-1]


LIMIT = 3
'''


def test_documented_functions_become_both_kinds_of_question() -> None:
    write, complete = turns(MODULE)
    assert write.question == "Write a Python function to put an item on the top of the stack."
    assert write.answer.startswith("```python\ndef push(self, item):\n")
    assert write.answer.endswith("    return self\n```")
    assert complete.question.startswith("Complete the following Python function:\n\ndef pop(")
    assert complete.question.endswith('"""\n')
    assert complete.answer.startswith("    if not self.items:\n        return default\n")


def test_an_answer_ends_where_the_code_stands_further_left() -> None:
    _, complete = turns(MODULE)
    assert "def peek(self):" in complete.answer
    assert "LIMIT" not in complete.answer


def test_a_turn_is_spelled_in_qwens_chat_format() -> None:
    assert Turn("q", "a").text() == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    )


def test_text_that_does_not_parse_has_no_turns() -> None:
    assert not list(turns("def broken(:\n"))


def test_a_text_shares_runs_of_words_with_what_is_excluded(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(20)]
    path = tmp_path / "benchmark.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        stream.write(json.dumps({"prompt": " ".join(words), "turns": ["one two"], "id": 3}) + "\n")
    excluded = excluded_ngrams([path])
    inside = "before, " + "; ".join(words[5 : 5 + corpus.NGRAM]).upper() + " after"
    short = " ".join(words[5 : 4 + corpus.NGRAM])
    assert not excluded.isdisjoint(ngrams(inside))
    assert excluded.isdisjoint(ngrams(short))


def archive(folder: Path, files: dict[str, str]) -> Source:
    path = folder / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"thing-1.0/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Source("thing", "1.0", "MIT", path.name, digest)


def test_code_and_prose_are_taken_and_tests_and_vendored_copies_are_not(tmp_path: Path) -> None:
    text = "value = compute_the_value(of_something)\n" * 20
    files = dict.fromkeys(
        ["thing/core.py", "docs/guide.rst", "tests/test_core.py", "thing/_vendor/other.py",
         "CHANGES.rst", "setup.cfg"],
        text,
    )  # fmt: skip
    found = list(documents(archive(tmp_path, files), tmp_path))
    assert [(d.path, d.kind) for d in found] == [
        ("thing-1.0/thing/core.py", "code"),
        ("thing-1.0/docs/guide.rst", "prose"),
    ]


def test_another_archive_under_the_pinned_name_is_refused(tmp_path: Path) -> None:
    source = archive(tmp_path, {"a.py": "x = 1\n"})
    (tmp_path / source.file).write_bytes(b"something else")
    with pytest.raises(UserError, match="is not the pinned one"):
        list(documents(source, tmp_path))


def test_only_permissive_licences_are_pinned() -> None:
    pinned = sources.pinned()
    assert len(pinned) == len({source.file for source in pinned}) > 50
    assert not [s.name for s in pinned if "GPL" in s.licence or not s.licence]
