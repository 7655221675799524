import json
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.suites import Prompt, Suite, load_suite
from sglang_qwen3next_eagle3.bench.suites.prompts import select

TEMPLATE = {"id": "id", "template": "Say {word} {{twice}}, {word}."}


def prompts(suite: Suite, data_dir: Path | None = None, **how: int | None) -> list[Prompt]:
    return list(select(suite, data_dir, **how).prompts)


def suite(rule: dict[str, Any], *records: dict[str, Any], count: int | None = None) -> Suite:
    return Suite.model_validate(
        {
            "name": "ours",
            "description": "",
            "licence": "",
            "source": {"records": records},
            "prompt": rule,
            "temperature": 0,
            "max-tokens": 8,
            "sample-count": count,
            "seed": 3,
        }
    )


def many(count: int | None = None) -> Suite:
    records = [{"id": number, "word": f"w{number}"} for number in range(100)]
    return suite(TEMPLATE, *records, count=count)


def ids(found: list[Prompt]) -> list[int]:
    return [int(prompt.id) for prompt in found]


def test_a_template_takes_the_record_s_fields_as_they_are() -> None:
    record = {"id": "a", "word": "{id}\n  x"}
    assert prompts(suite(TEMPLATE, record)) == [
        Prompt("a", ("Say {id}\n  x {twice}, {id}\n  x.",), None)
    ]


def test_turns_are_a_list_of_the_record_and_the_system_message_is_the_suite_s() -> None:
    rule = {"id": "n", "turns": "ask", "system": "Be brief."}
    assert prompts(suite(rule, {"n": 7, "ask": ["one", "two"]})) == [
        Prompt("7", ("one", "two"), "Be brief.")
    ]


def test_humaneval_s_prompt_is_the_instruction_and_the_function(tmp_path: Path) -> None:
    own = load_suite("humaneval").model_dump(by_alias=True)
    own["source"]["files"] = [{"path": "h.jsonl"}]
    row = {"task_id": "HumanEval/0", "prompt": "def f():\n", "test": "assert f()"}
    (tmp_path / "h.jsonl").write_text(json.dumps(row))
    [prompt] = prompts(Suite.model_validate(own), tmp_path)
    text = "Complete the following Python function:\n\ndef f():\n"
    assert prompt == Prompt("HumanEval/0", (text,), None)


def test_the_smoke_suite_needs_no_data_and_has_second_turns() -> None:
    found = prompts(load_suite("smoke"))
    assert len(found) == 8
    assert {len(prompt.turns) for prompt in found} == {1, 2}


def test_all_are_asked_in_their_order_unless_the_suite_or_the_user_says_fewer() -> None:
    assert ids(prompts(many())) == list(range(100))
    assert len(prompts(many(count=10))) == 10
    assert len(prompts(many(count=10), limit=20)) == 20
    assert len(prompts(many(), limit=1000)) == 100


def test_a_sample_keeps_the_order_and_repeats_nothing() -> None:
    found = ids(prompts(many(), limit=30))
    assert found == sorted(set(found))
    assert found != list(range(30)), "drawn, not the first"


def test_a_sample_is_fixed_by_its_seed_and_part_of_a_larger_one() -> None:
    ten = ids(prompts(many(), limit=10))
    assert ten == ids(prompts(many(count=10))) == ids(prompts(many(), limit=10, seed=3))
    assert ten == [5, 6, 21, 25, 65, 75, 77, 85, 87, 92], "published results name these"
    assert set(ten) < set(ids(prompts(many(), limit=40)))
    assert ten != ids(prompts(many(), limit=10, seed=4))


@pytest.mark.parametrize("limit", [0, -1])
def test_fewer_than_one_is_refused(limit: int) -> None:
    with pytest.raises(UserError, match=f"--limit {limit}: ask at least 1"):
        prompts(many(), limit=limit)


@pytest.mark.parametrize(
    ("rule", "record", "match"),
    [
        (TEMPLATE, {"id": 1}, "record 2 has no field 'word'; it has id"),
        (TEMPLATE, {"word": "x"}, "record 2 has no field 'id'; it has word"),
        (TEMPLATE, {"id": 1, "word": ""}, "record 2: field 'word' is no text, or an empty one"),
        (TEMPLATE, {"id": 1, "word": ["x"]}, "record 2: field 'word' is no text"),
        (TEMPLATE, {"id": "a", "word": "x"}, "two records have the id 'a'"),
        ({"id": "id", "turns": "t"}, {"id": 1}, "record 2 has no field 't'"),
        ({"id": "id", "turns": "t"}, {"id": 1, "t": "text"}, "record 2: 't' lists no turns"),
        ({"id": "id", "turns": "t"}, {"id": 1, "t": []}, "record 2: 't' lists no turns"),
        ({"id": "id", "turns": "t"}, {"id": 1, "t": ["x", " "]}, "turn 2 in 't' is no text"),
    ],
)
def test_a_record_that_gives_no_prompt_is_named(
    rule: dict[str, Any], record: dict[str, Any], match: str
) -> None:
    good = {"id": "a", "word": "x", "t": ["x"]}
    with pytest.raises(UserError, match=match):
        prompts(suite(rule, good, record))


def test_a_wrong_record_is_refused_even_where_the_sample_leaves_it_out() -> None:
    good = [{"id": number, "word": "x"} for number in range(9)]
    for limit in (1, 2):
        with pytest.raises(UserError, match="record 10 has no field 'word'"):
            prompts(suite(TEMPLATE, *good, {"id": 9}), limit=limit)


def test_the_settings_say_what_was_asked_and_of_what() -> None:
    settings = select(many(), limit=10, seed=5).settings
    assert settings.pop("data")["suite"] == "ours"
    assert settings == {
        "available": 100,
        "count": 10,
        "seed": 5,
        "temperature": 0,
        "max-tokens": 8,
        "prompt": TEMPLATE,
    }


def test_changed_records_of_the_suite_itself_show_in_the_settings() -> None:
    one, two = ({"id": "a", "word": word} for word in ("x", "y"))
    origins = [select(suite(TEMPLATE, record)).settings["data"] for record in (one, two)]
    assert origins[0] != origins[1]
