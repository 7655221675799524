import json
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import chat_format
from sglang_qwen3next_eagle3.model.chat_format import BadRecord, ChatFormat, messages_of
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.small_target import CONFIG, write_tokenizer

TOLD: chat_format.Conversation = [
    {"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."},
]  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        {"messages": TOLD},
        {"conversations": TOLD},
        {"conversations": [{"from": "human", "value": "How?"}, {"from": "gpt", "value": "So."}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "How?"}]}, TOLD[1]]},
    ],
)
def test_each_way_to_write_a_conversation_is_read_to_the_same(record: object) -> None:
    assert list(messages_of(record)) == TOLD


def test_turns_without_roles_are_the_user_s_first() -> None:
    assert list(messages_of({"data": ["How?", "So."]}, ("data",))) == TOLD


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([], "not_an_object"),
        ({}, "other_format"),
        ({"messages": "a"}, "other_format"),
        ({"messages": [1]}, "not_a_message"),
        ({"messages": [{}]}, "unknown_role"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "unknown_role"),
        ({"messages": [{"role": "user", "content": None}]}, "not_text"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "tool_calls"),
    ],
)
def test_what_is_no_conversation_has_a_reason(record: object, reason: str) -> None:
    with pytest.raises(BadRecord) as bad:
        list(messages_of(record))
    assert bad.value.reason == reason


def test_a_conversation_is_asked_again_without_its_last_answers() -> None:
    again = chat_format.questions_of([*TOLD, TOLD[0], TOLD[1], TOLD[1]])
    assert again == [*TOLD, TOLD[0]]
    assert chat_format.questions_of([TOLD[1]]) == []


def test_texts_are_read_whoever_says_them() -> None:
    turns = ["a", {"role": "nobody", "content": "b"}, {"value": "c"}, {"content": None}, 7]
    assert list(chat_format.texts_of(turns)) == ["a", "b", "c"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "target")


def test_a_conversation_is_rendered_and_encoded(folder: Path) -> None:
    chat = ChatFormat(folder)
    text = "<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant\n"
    assert chat.text(TOLD[:1], answer=True) == text
    ids = chat.ids(TOLD[:1], answer=True)
    assert chat.tokenizer.decode(ids) == text
    assert chat.decode(ids) == "user\nHow?\nassistant\n"
    assert chat.text(TOLD).endswith("So.<|im_end|>\n")


def test_everything_that_says_what_ends_an_answer_is_asked(folder: Path) -> None:
    chat = ChatFormat(folder)
    own = chat.tokenizer.eos_token_id
    assert chat.end_tokens(Target({**CONFIG, "eos_token_id": 7})) == {own, 7}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [8, 9]}))
    assert chat.end_tokens(Target({**CONFIG, "eos_token_id": 7})) == {own, 7, 8, 9}
    assert own in chat.special_tokens()


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no tokenizer: give a whole checkpoint"):
        ChatFormat(tmp_path / "empty")
    silent = ChatFormat(write_tokenizer(tmp_path / "silent", template=None))
    with pytest.raises(UserError, match="has no chat template: give --tokenizer with one"):
        silent.require_template("give --tokenizer with one")
    strict = write_tokenizer(tmp_path / "strict", "{{ raise_exception('no system turn') }}")
    with pytest.raises(ValueError, match="no system turn"):
        ChatFormat(strict).ids(TOLD)


def test_of_a_hub_name_only_the_tokenizer_is_fetched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(name: str, *, allow_patterns: list[str], **options: object) -> str:
        asked.append((name, options["revision"], "*.safetensors" in allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert ChatFormat("org/name", "v1").ids(TOLD)
    assert asked == [("org/name", "v1", False)]
