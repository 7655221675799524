import json
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.calibrate import CalibrationOptions, prompts
from sglang_qwen3next_eagle3.calibrate.run import source_of
from tests.support.calibration import target


class WordTokenizer:
    """A word is a token, named by its length; a chat is its contents, one behind the other."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}

    def apply_chat_template(
        self, messages: Any, add_generation_prompt: bool, return_dict: bool
    ) -> dict[str, list[int]]:
        assert return_dict
        assert not add_generation_prompt
        if messages[0]["role"] == "system":
            raise RuntimeError("no system messages\nhere")
        return self(" ".join(message["content"] for message in messages))


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").touch()
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda _: WordTokenizer())


def test_the_built_in_prompts_are_code_and_conversations() -> None:
    found = prompts.built_in()
    texts = [prompt for prompt in found if isinstance(prompt, str)]
    chats = [prompt for prompt in found if not isinstance(prompt, str)]
    assert len(texts) >= 10
    assert len(chats) >= 10
    assert all([m["role"] for m in chat] == ["user", "assistant"] for chat in chats)


def test_a_file_may_hold_texts_messages_and_conversations(tmp_path: Path) -> None:
    lines = [
        {"text": "def f():"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    text, messages, conversation = prompts.read(file)
    assert text == "def f():"
    assert messages == conversation == lines[1]["messages"]


@pytest.mark.parametrize("line", ["nonsense", "[]", "{}", '{"text": 1}', '{"messages": [{}]}'])
def test_a_line_that_is_none_of_these_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"text": "a"}\n' + line)
    with pytest.raises(UserError, match=r"p\.jsonl, line 2: "):
        prompts.read(file)


def test_a_file_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    for name in ("gone.jsonl", "gone.txt"):
        with pytest.raises(UserError, match="cannot read the prompts .*: there is no such file"):
            prompts.read(tmp_path / name)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match="holds no prompts"):
        prompts.read(tmp_path / "empty.txt")


@pytest.mark.usefixtures("tokenizer")
def test_long_texts_are_cut_and_their_short_ends_dropped(tmp_path: Path) -> None:
    text = " ".join("x" * (i % 7 + 1) for i in range(50))
    pieces = prompts.tokenize([text], tmp_path, 20)
    assert [len(piece) for piece in pieces] == [20, 20], "the last ten tokens say too little"
    assert pieces[0][:3] == [1, 2, 3]
    assert [len(piece) for piece in prompts.tokenize([text], tmp_path, 8)] == [8] * 6


@pytest.mark.usefixtures("tokenizer")
def test_a_conversation_goes_through_the_chat_format(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a " * 10}, {"role": "assistant", "content": "bb " * 10}]
    assert prompts.tokenize([chat], tmp_path, 64) == [[1] * 10 + [2] * 10]


@pytest.mark.usefixtures("tokenizer")
def test_what_cannot_be_tokenized_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not take a conversation \(no system messages\)"):
        prompts.tokenize([[{"role": "system", "content": "s"}]], tmp_path, 64)
    with pytest.raises(UserError, match="fewer than 16 tokens each"):
        prompts.tokenize(["too short"], tmp_path, 64)


def test_a_target_without_a_tokenizer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_next"}')
    with pytest.raises(UserError, match="has no tokenizer: give a whole checkpoint"):
        prompts.tokenize(["text"], tmp_path, 64)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="has no tokenizer that can be read"):
        prompts.tokenize(["text"], tmp_path, 64)


def test_random_prompts_are_tokens_of_the_target() -> None:
    rows = prompts.random_tokens(target(), 3, 20)
    assert [len(row) for row in rows] == [20, 20, 20]
    assert max(max(row) for row in rows) < 40
    assert rows == prompts.random_tokens(target(), 3, 20)


@pytest.mark.usefixtures("tokenizer")
def test_max_prompts_counts_prompts_and_not_the_pieces_of_long_ones(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"text": "word " * 50}) + "\n" + json.dumps({"text": "x " * 30}))
    options = CalibrationOptions("h", "t", prompts=file, max_prompts=1, max_length=20)
    source = source_of(options, target(), tmp_path)
    assert [set(text) for text in source.texts] == [{4}, {4}], "both pieces of the first prompt"
