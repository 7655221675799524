import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.calibrate import prompts
from sglang_qwen3next_eagle3.calibrate.prompts import Questions, Sample
from sglang_qwen3next_eagle3.model.chat_format import Message, Role
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.calibration import SMALL_TARGET, target

END, ASK = 2, 99


class CountingDown:
    """A target that says the number below the last one, down to the end; two prompts a batch."""

    def __init__(self) -> None:
        self.begun: list[list[list[int]]] = []
        self.steps: list[list[int]] = []
        self.planned: list[int] = []

    def plan(self, lengths: Sequence[int]) -> list[range]:
        self.planned = list(lengths)
        return [range(i, min(i + 2, len(lengths))) for i in range(0, len(lengths), 2)]

    def begin(self, asked: Sequence[Sequence[int]]) -> list[int]:
        self.begun.append([list(ids) for ids in asked])
        return [ids[-1] - 1 for ids in asked]

    def step(self, tokens: Sequence[int]) -> list[int]:
        self.steps.append(list(tokens))
        return [token - 1 for token in tokens]


def test_answers_end_with_the_end_token_or_where_they_are_cut() -> None:
    decoder, calls = CountingDown(), []
    asked = Questions([[9, 6], [5], [20]], frozenset({END}))
    found = prompts.answer(decoder, asked, 5, 1, lambda: calls.append(1))
    assert found == [
        Sample([9, 6, 5, 4, 3, 2], start=1, answer_tokens=4),
        Sample([5, 4, 3, 2], start=0, answer_tokens=3),
        Sample([20, 19, 18, 17, 16, 15], start=0, answer_tokens=5),
    ]
    assert decoder.planned == [7, 6, 6], "room for the longest answers"
    assert decoder.begun == [[[9, 6], [5]], [[20]]]
    assert len(decoder.steps) == 3 + 4, "until the last of a batch has ended; none behind the cut"
    assert len(calls) == 3 * 5, "a bar is full also where answers are short"


class Looping(CountingDown):
    """A target that begins to repeat its last two tokens after four."""

    def step(self, tokens: Sequence[int]) -> list[int]:
        self.steps.append(list(tokens))
        return [(50, 51)[len(self.steps) % 2] if len(self.steps) > 2 else t - 1 for t in tokens]


def test_an_answer_ends_where_it_begins_to_loop() -> None:
    decoder = Looping()
    (sample,) = prompts.answer(decoder, Questions([[20]], frozenset({END})), 64, 1)
    assert sample.ids == [20, 19, 18, 17, 51, 50]
    assert len(decoder.steps) == 2 + 2 * prompts.REPEATS
    unlike = [1, 2] * (prompts.REPEATS - 1)
    assert prompts._loop([9, *unlike]) == 0
    assert prompts._loop([*unlike, 1, 2]) == len(unlike)
    long = list(range(prompts.PERIOD + 1)) * prompts.REPEATS
    assert prompts._loop(long) == 0, "code repeats itself, too"


def test_short_answers_say_nothing_and_are_left_out() -> None:
    asked = Questions([[4], [20], [5]], frozenset({END}))
    found = prompts.answer(CountingDown(), asked, 5, fewest=3)
    assert [sample.ids[0] for sample in found] == [20, 5]
    with pytest.raises(UserError, match="answers none of 1 prompts with 3 tokens or more"):
        prompts.answer(CountingDown(), Questions([[4]], frozenset({END})), 5, fewest=3)


class Tokenizer:
    """A word is a token, named by its length; the token ASK begins an answer."""

    eos_token_id = END

    def apply_chat_template(
        self, chat: list[Message], add_generation_prompt: bool, return_dict: bool
    ) -> dict[str, Any]:
        words = " ".join(message["content"] for message in chat).split()
        return {"input_ids": [len(word) for word in words] + [ASK] * add_generation_prompt}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").touch()
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda _: Tokenizer())
    return tmp_path


def turn(role: Role, content: str) -> Message:
    return {"role": role, "content": content}


def test_of_a_conversation_the_last_answer_is_taken_away(folder: Path) -> None:
    chat = [turn("user", "a"), turn("assistant", "bb"), turn("user", "ccc")]
    found = prompts.questions([[*chat, turn("assistant", "dddd")], chat], folder, target(), 64)
    assert found.ids == [[1, 2, 3, ASK]] * 2
    assert found.left_out == 0


def test_of_a_text_the_first_half_is_to_be_continued(folder: Path) -> None:
    found = prompts.questions(["aaaaa bbbbb ccccc ddddd"], folder, target(), 64)
    asked = [len(word) for word in prompts.CONTINUE.split()]
    assert found.ids == [[*asked, 5, 5, ASK]]


def test_what_asks_nothing_or_is_too_long_is_left_out(folder: Path) -> None:
    silent, long = [turn("assistant", "a")], [turn("user", "a " * 9)]
    found = prompts.questions([silent, [turn("user", "a")], long, ""], folder, target(), 9)
    assert found.ids == [[1, ASK]]
    assert found.left_out == 3
    with pytest.raises(UserError, match="no prompt asks anything in 9 tokens"):
        prompts.questions([silent, long], folder, target(), 9)


def test_an_answer_ends_with_any_token_that_the_checkpoint_names(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    its = Target.from_config({**SMALL_TARGET, "eos_token_id": 9})
    found = prompts.questions([[turn("user", "a")]], folder, its, 64)
    assert found.ends == {END, 7, 8, 9}


def test_the_built_in_questions_are_many_and_of_several_kinds() -> None:
    found = prompts.built_in_questions()
    assert len(found) == len(set(map(json.dumps, found))) >= 60
    assert found[-len(prompts.built_in()) :] == prompts.built_in()
