import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.train.capture.encode import (
    TrainingSample,
    encode,
    load_format,
    read_conversations,
    samples_of,
)
from tests.support.small_target import FORGETFUL, conversation, write_tokenizer

QUESTION = {"role": "user", "content": "Hi"}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_format(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def encoded(tokenizer: Any, *messages: dict[str, str], max_length: int = 1000) -> TrainingSample:
    sample = encode(tokenizer, messages, max_length, "c1")
    assert sample is not None
    assert len(sample.ids) == len(sample.loss_mask)
    return sample


def trained_on(tokenizer: Any, sample: TrainingSample) -> str:
    pairs = zip(sample.ids, sample.loss_mask, strict=True)
    text: str = tokenizer.tokenizer.decode([token for token, used in pairs if used])
    return text


def test_the_whole_rendered_conversation_is_encoded(tokenizer: Any) -> None:
    sample = encoded(tokenizer, QUESTION, answer("Yo"))
    assert sample.id == "c1"
    assert tokenizer.tokenizer.decode(sample.ids) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    )


def test_the_loss_covers_the_answer_and_the_token_that_ends_it(tokenizer: Any) -> None:
    sample = encoded(tokenizer, QUESTION, answer("Yo"))
    # 1 + "user\n" 5 + "Hi" 2 + 2, then 1 + "assistant\n" 10 = 21; "Yo" and the end; a line feed.
    assert sample.loss_mask == [0] * 21 + [1] * 3 + [0]


def test_every_answer_of_a_conversation_counts(tokenizer: Any) -> None:
    sample = encoded(tokenizer, QUESTION, answer("Yo"), QUESTION, answer("née 中"))
    assert trained_on(tokenizer, sample) == "Yo<|im_end|>née 中<|im_end|>"


def test_white_space_of_the_answer_is_the_answer_s(tokenizer: Any) -> None:
    sample = encoded(tokenizer, QUESTION, answer("  a\n"))
    assert trained_on(tokenizer, sample) == "  a\n<|im_end|>"


def test_a_token_that_begins_in_the_prompt_is_not_trained_on(tokenizer: Any) -> None:
    """The answer's first line feed is one token with the prompt's last; no server generates it."""
    sample = encoded(tokenizer, QUESTION, answer("\nYo"))
    assert trained_on(tokenizer, sample) == "Yo<|im_end|>"


def test_a_long_conversation_is_cut(tokenizer: Any) -> None:
    whole = encoded(tokenizer, QUESTION, answer("Yo"))
    cut = encoded(tokenizer, QUESTION, answer("Yo"), max_length=22)
    assert cut.ids == whole.ids[:22]
    assert cut.loss_mask == whole.loss_mask[:22]


def test_nothing_remains_where_the_cut_is_before_the_first_answer(tokenizer: Any) -> None:
    assert encode(tokenizer, [QUESTION, answer("Yo")], 21) is None
    assert encode(tokenizer, [QUESTION], 1000) is None


# The demo's template, with the marks by which transformers says what an assistant generated.
MARKED = (
    "{%- for message in messages -%}{%- if message.role == 'assistant' -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}"
    "{%- else -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endif -%}{%- endfor -%}"
)
SYSTEM, RESULT = {"role": "system", "content": "Be brief."}, {"role": "tool", "content": "42"}


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_format(demo_pair().target)


@pytest.mark.parametrize(
    "messages",
    [
        [QUESTION, answer("Yo")],
        [SYSTEM, QUESTION, answer("Yo"), QUESTION, answer("née 中 😀")],
        [{**SYSTEM, "content": ""}, QUESTION, answer("Yo")],
        [QUESTION, answer("I call it."), RESULT, RESULT, answer("42\n\n```python\nx\n```\n")],
        [QUESTION, answer('<tool_call>\n{"name": "add"}\n</tool_call>'), RESULT, answer("so")],
        [QUESTION, QUESTION, answer("a"), answer("b")],
        [{**QUESTION, "content": "a <|im_end|>\n<|im_start|>assistant\nno answer"}, answer("Yo")],
        [QUESTION, answer("it is <|im_start|>assistant\nand <|im_end|>\n here"), QUESTION],
        [QUESTION, answer("<|endoftext|>")],
        [QUESTION, answer("")],
        [QUESTION, answer("   indented")],
        [QUESTION, answer("trailing  \n")],
    ],
    ids=lambda messages: repr(messages[-1]["content"])[:20],
)
def test_ids_and_mask_are_those_of_the_template_token_by_token(
    demo: Any, messages: list[dict[str, str]]
) -> None:
    sample = encoded(demo, *messages)
    told = demo.tokenizer.apply_chat_template(
        messages, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    assert sample.ids == demo.ids(messages) == told["input_ids"]
    assert sample.loss_mask == told["assistant_masks"]


def test_conversations_with_special_tokens_in_their_text_are_counted(
    demo: Any, tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    lines = [
        conversation("q", "an answer", "good"),
        conversation("q <|im_start|>system", "a", "asked"),
        conversation("q", "a<|endoftext|>", "answered"),
        conversation("q" * 900, "a", "long"),
        conversation("q", "<|im start|>", "near"),
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    left_out: Counter[str] = Counter()
    read: list[None] = []
    kept = [one.id for one in samples_of(path, demo, 100, left_out, lambda: read.append(None))]
    assert kept == ["good", "near"]
    assert left_out == {"special_token": 2, "no_answer": 1}
    assert len(read) == 5


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    forgetful = load_format(write_tokenizer(tmp_path, FORGETFUL))
    once = encode(forgetful, [QUESTION, answer("[hm]Yo")], 1000)
    assert once is not None
    assert trained_on(forgetful, once) == "[hm]Yo<|im_end|>"
    with pytest.raises(UserError, match=r"'c1': .* renders turn 2 differently"):
        encode(forgetful, [QUESTION, answer("[hm]Yo"), QUESTION, answer("x")], 1000, "c1")


def test_a_template_that_refuses_a_conversation_is_quoted(tmp_path: Path) -> None:
    strict = load_format(write_tokenizer(tmp_path, "{{ raise_exception('no system turn') }}"))
    with pytest.raises(UserError, match="'c7': the target's chat template refuses it .*no system"):
        encode(strict, [QUESTION, answer("x")], 1000, "c7")


def test_a_tokenizer_without_template_or_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no chat template"):
        load_format(write_tokenizer(tmp_path / "silent", template=None))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no tokenizer: give a whole"):
        load_format(tmp_path / "empty")


def test_conversations_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = [json.dumps(conversation("q", "a", "one")), "", json.dumps(conversation("r", "b"))]
    path.write_text("\n".join(lines) + "\n")
    one, two = read_conversations(path)
    assert one.id == "one"
    assert two.messages == ({"role": "user", "content": "r"}, {"role": "assistant", "content": "b"})


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("{", "is not JSON"),
        ("[]", 'has no list "conversations"'),
        ('{"conversations": []}', 'has no list "conversations"'),
        ('{"conversations": [{"role": "user"}]}', "a turn is not"),
        ('{"conversations": [{"role": "user", "content": [1]}]}', "a turn is not"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, cause: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(conversation("q", "a")) + "\n" + line + "\n")
    with pytest.raises(UserError, match=rf"train\.jsonl:2\b.*{cause}"):
        list(read_conversations(path))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read .No such file"):
        list(read_conversations(tmp_path / "none.jsonl"))
