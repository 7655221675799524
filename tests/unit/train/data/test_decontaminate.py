import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.data.decontaminate import Excluded, read_texts

WORDS = [f"w{i}" for i in range(40)]


def hits(excluded: Excluded, text: str, role: str = "user") -> bool:
    ask = {"role": "user", "content": "other"}
    said = {"role": role, "content": text}
    return excluded.hits([ask, said])  # type: ignore[list-item]


def test_thirteen_words_in_a_row_are_too_many_and_twelve_are_not() -> None:
    excluded = Excluded([" ".join(WORDS)])
    for start in range(28):
        assert hits(excluded, "before it " + " ".join(WORDS[start : start + 13]) + " after")
        assert not hits(excluded, "before it " + " ".join(WORDS[start : start + 12]) + " after")


def test_case_punctuation_and_role_do_not_matter() -> None:
    excluded = Excluded([" ".join(WORDS)])
    assert hits(excluded, ",\n".join(word.upper() for word in WORDS[:13]), role="assistant")


def test_a_short_text_counts_only_as_a_whole_message() -> None:
    excluded = Excluded(["Start every sentence with the letter A.", "..."])
    assert hits(excluded, "start every sentence with the letter a")
    assert not hits(excluded, "Please start every sentence with the letter A.")
    assert not hits(excluded, "!!!")


@given(st.lists(st.sampled_from("abc"), max_size=60), st.lists(st.sampled_from("abc"), max_size=60))
def test_the_probes_find_what_comparing_everything_finds(left: list[str], right: list[str]) -> None:
    runs = {tuple(left[i : i + 13]) for i in range(len(left) - 12)}
    shared = any(tuple(right[i : i + 13]) in runs for i in range(len(right) - 12))
    whole = 0 < len(left) < 13 and left == right
    assert Excluded([" ".join(left)]).hits(
        [{"role": "user", "content": " ".join(right)}]
    ) == (shared or whole)  # fmt: skip


def test_prompts_turns_and_messages_are_read_gzipped_or_not(tmp_path: Path) -> None:
    records = [
        {"task_id": "HumanEval/0", "prompt": "def f():"},
        {"question_id": 81, "turns": ["one", "two"]},
        {"messages": [{"role": "user", "content": "three"}]},
        {"conversations": [{"from": "human", "value": "four"}]},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    plain, zipped = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_text(text)
    zipped.write_bytes(gzip.compress(text.encode()))
    assert list(read_texts(plain)) == ["def f():", "one", "two", "three", "four"]
    assert list(read_texts(zipped)) == list(read_texts(plain))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"prompt": "a"}\n{"answer": 3}\n', ":2: nothing to exclude here"),
        ('{"prompt": "a"}\n{\n', ":2: nothing to exclude here"),
        ("\n", "is empty"),
    ],
)
def test_a_list_that_would_guard_only_in_part_is_refused(
    tmp_path: Path, text: str, match: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=match):
        list(read_texts(path))
    with pytest.raises(UserError, match=re.escape("none.jsonl: No such file")):
        list(read_texts(tmp_path / "none.jsonl"))
