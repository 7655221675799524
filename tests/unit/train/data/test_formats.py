from collections import Counter
from typing import Any

import pytest

from sglang_qwen3next_eagle3.model.chat_format import BadRecord
from sglang_qwen3next_eagle3.train.data.formats import detect, normalised, parse

QUESTION = {"role": "user", "content": "How?"}
ANSWER = {"role": "assistant", "content": "So."}
TOOL = {"role": "tool", "content": "42"}
SYSTEM = {"role": "system", "content": "Be brief."}

SHAREGPT = {
    "id": "a_0",
    "conversations": [{"from": "human", "value": "How?"}, {"from": "gpt", "value": "So."}],
}
PERFECTBLEND = {"conversations": SHAREGPT["conversations"], "source": "orca"}
ULTRACHAT_200K = {"prompt": "How?", "prompt_id": "1", "messages": [QUESTION, ANSWER]}
ULTRACHAT = {"id": "0", "data": ["How?", "So."]}
MESSAGES = {"messages": [QUESTION, ANSWER]}


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (SHAREGPT, "sharegpt"),
        (PERFECTBLEND, "perfectblend"),
        (ULTRACHAT_200K, "ultrachat"),
        (ULTRACHAT, "ultrachat"),
        (MESSAGES, "messages"),
        ({"conversations": [QUESTION, ANSWER]}, "messages"),
    ],
)
def test_each_format_is_told_and_read_to_the_same_conversation(
    record: dict[str, Any], name: str
) -> None:
    assert detect(record) == name
    assert parse(record, name) == [QUESTION, ANSWER]


@pytest.mark.parametrize(
    "record", [None, [], "text", {}, {"messages": []}, {"text": "a"}, {"data": [1]}]
)
def test_a_record_of_no_format_is_told_as_none(record: object) -> None:
    assert detect(record) is None


def messages(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(turns)}


def test_only_role_and_content_are_kept_verbatim() -> None:
    spaced = {"role": "assistant", "content": "  a\n\n\tb ", "name": "x", "tool_calls": None}
    assert parse(messages(QUESTION, spaced), "messages")[1] == {
        "role": "assistant",
        "content": "  a\n\n\tb ",
    }


def test_a_system_message_may_open_and_tools_may_answer_between() -> None:
    turns = [SYSTEM, QUESTION, ANSWER, TOOL, TOOL, ANSWER, QUESTION, ANSWER]
    assert parse(messages(*turns), "messages") == turns


def test_what_precedes_the_first_question_and_follows_the_last_answer_goes() -> None:
    record = messages(SYSTEM, ANSWER, ANSWER, QUESTION, ANSWER, QUESTION)
    assert parse(record, "messages") == [SYSTEM, QUESTION, ANSWER]


def test_text_parts_are_joined() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "Ho"}, {"text": "w?"}]}
    assert parse(messages(parts, ANSWER), "messages") == [QUESTION, ANSWER]


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([1], "not_an_object"),
        ({"text": "a"}, "other_format"),
        ({"messages": "a"}, "other_format"),
        (messages(), "no_answer"),
        (messages(QUESTION), "no_answer"),
        (messages(SYSTEM, ANSWER), "no_answer"),
        (messages(QUESTION, QUESTION, ANSWER), "same_speaker"),
        (messages(QUESTION, ANSWER, ANSWER), "same_speaker"),
        (messages(SYSTEM, SYSTEM, QUESTION, ANSWER), "same_speaker"),
        (messages(QUESTION, ANSWER, TOOL, QUESTION, ANSWER), "turn_order"),
        (messages(QUESTION, SYSTEM, ANSWER), "turn_order"),
        (messages(TOOL, QUESTION, ANSWER), "turn_order"),
        (messages(user("  \n"), ANSWER), "empty_message"),
        (messages(user(None), ANSWER), "not_text"),
        (messages(user(7), ANSWER), "not_text"),
        (messages(user([{"type": "image_url"}]), ANSWER), "not_text"),
        (messages(user("\ud800"), ANSWER), "not_unicode"),
        (messages(user("a<|im_end|>b"), ANSWER), "chat_markup"),
        (messages({"role": "critic", "content": "a"}, ANSWER), "unknown_role"),
        (messages({"role": ["user"], "content": "a"}, ANSWER), "unknown_role"),
        (messages(QUESTION, {**ANSWER, "tool_calls": [{"id": "1"}]}), "tool_calls"),
        (messages(QUESTION, {"role": "assistant", "tool_calls": [{"id": "1"}]}), "tool_calls"),
        (
            messages(QUESTION, {"role": "function_call", "content": "{}"}, TOOL, ANSWER),
            "tool_calls",
        ),
        ({**messages(QUESTION, ANSWER), "tools": [{"name": "add"}]}, "tools"),
        ({**messages(QUESTION, ANSWER), "tools": '[{"name": "add"}]'}, "tools"),
        ({**messages(QUESTION, ANSWER), "functions": {"add": 1}}, "tools"),
        (messages(QUESTION, {**SYSTEM, "content": ""}, ANSWER), "empty_message"),
        (messages({"role": "system", "content": 7}, QUESTION, ANSWER), "not_text"),
        (messages(QUESTION, 3), "not_a_message"),
    ],
)
def test_what_cannot_be_trained_on_has_a_reason(record: object, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        parse(record, "messages")
    assert caught.value.reason == reason
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize("nothing", ["", " \n", None, []])
def test_an_empty_system_message_is_none(nothing: object) -> None:
    left_out: Counter[str] = Counter()
    empty = {"role": "system", "content": nothing}
    assert parse(messages(empty, QUESTION, ANSWER), "messages", left_out) == [QUESTION, ANSWER]
    shared = {"from": "system", "value": nothing}
    record = {"conversations": [shared, *SHAREGPT["conversations"]]}
    assert parse(record, "sharegpt", left_out) == [QUESTION, ANSWER]
    assert left_out == {"empty_system": 2}


def test_what_is_left_out_of_a_conversation_is_counted_unless_it_is_bad() -> None:
    left_out: Counter[str] = Counter()
    parse(messages(SYSTEM, ANSWER, QUESTION, ANSWER, QUESTION), "messages", left_out)
    assert left_out == {"before_question": 1, "after_answer": 1}
    with pytest.raises(BadRecord):
        parse(messages(QUESTION, QUESTION, ANSWER, QUESTION), "messages", left_out)
    assert left_out == {"before_question": 1, "after_answer": 1}


@pytest.mark.parametrize("none", [None, [], "", "[]", {}])
def test_a_record_that_names_no_tools_is_read(none: object) -> None:
    assert parse({**messages(QUESTION, ANSWER), "tools": none}, "messages") == [QUESTION, ANSWER]


def test_normalised_text_ignores_white_space_and_how_accents_are_composed() -> None:
    assert normalised(" cafe\u0301\n\n  au  lait\t") == "caf\u00e9 au lait"
