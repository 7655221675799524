from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.suites import Suite, load_suite, suite_names
from sglang_qwen3next_eagle3.bench.suites.suite import PLACEHOLDER

OWN: dict[str, Any] = {
    "description": "ours",
    "licence": "none",
    "source": {"files": [{"path": "ours.jsonl"}]},
    "prompt": {"id": "id", "template": "Say {word}."},
    "temperature": 0,
    "max-tokens": 8,
    "sample-count": None,
    "seed": 0,
}


def own(folder: Path, **changed: Any) -> str:
    path = folder / "ours.yaml"
    path.write_text(yaml.safe_dump({**OWN, **changed}))
    return str(path)


def test_the_card_s_four_suites_and_a_smoke_test_come_with_the_package() -> None:
    assert suite_names() == (
        "humaneval", "mt-bench", "smoke", "swe-bench-verified", "terminal-bench",
    )  # fmt: skip


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_is_greedy_and_says_how_its_data_is_got(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert suite.temperature == 0
    files = suite.source.files
    assert suite.source.records or any(file.get for file in files)
    assert all(PLACEHOLDER in file.get for file in files if file.get)


def test_humaneval_is_asked_as_the_demo_was_taught() -> None:
    rule = load_suite("humaneval").prompt
    assert rule.template == "Complete the following Python function:\n\n{prompt}"
    assert rule.system is None


def test_mt_bench_asks_the_turns_that_its_file_lists() -> None:
    assert load_suite("mt-bench").prompt.turns == "turns"


def test_a_suite_of_ones_own_is_named_by_its_file(tmp_path: Path) -> None:
    suite = load_suite(own(tmp_path))
    assert suite.name == "ours"
    assert suite.source.files[0].sha256 is None


def test_a_suite_does_not_change(tmp_path: Path) -> None:
    suite: Any = load_suite(own(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        suite.seed = 1


def test_a_name_that_is_none_is_answered_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"no suite 'humanevil': choose one of humaneval, mt-bench"):
        load_suite("humanevil")


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"max_tokens": 8}, "max_tokens: unknown key; known are description, licence, source"),
        ({"name": "x"}, "name: unknown key; the file's name is the suite's"),
        ({"source": {}}, "source: give either `records`, or `files` and `hub`"),
        ({"source": {"records": [{"id": "a"}], "hub": {"dataset": "a", "split": "b"}}}, "either"),
        ({"source": {"files": [{"path": "a", "url": "b"}]}}, "source.files.0.url: unknown key"),
        ({"source": {"files": [{"path": "a", "sha256": "12"}]}}, "sha256 has 64 hexadecimal"),
        ({"source": {"files": [{"path": "*", "sha256": "0" * 64}]}}, "not with a pattern"),
        ({"prompt": {"id": "id"}}, "prompt: give either `template` or `turns`"),
        ({"prompt": {"id": "id", "template": "{a}", "turns": "b"}}, "either `template` or `turns`"),
        ({"prompt": {"id": "id", "template": "Hello."}}, "template: names no field of the record"),
        ({"prompt": {"id": "id", "template": "{a.b}"}}, "the name of a field, not 'a.b'"),
        ({"prompt": {"id": "id", "template": "{a!r}"}}, "the name of a field, not 'a'"),
        ({"prompt": {"id": "id", "template": "{}"}}, "the name of a field, not ''"),
        ({"prompt": {"id": "id", "template": "{a"}}, "prompt.template: expected '}'"),
        ({"max-tokens": 0}, "max-tokens: "),
        ({"temperature": -1}, "temperature: "),
        ({"sample-count": 0}, "sample-count: "),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(
    tmp_path: Path, changed: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match) as refusal:
        load_suite(own(tmp_path, **changed))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", ["licence", "sample-count", "seed", "temperature"])
def test_nothing_is_left_to_a_default(tmp_path: Path, key: str) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in OWN.items() if k != key}))
    with pytest.raises(UserError, match=f"{key}: Field required"):
        load_suite(str(path))


@pytest.mark.parametrize(("text", "match"), [("a: [", "is not YAML"), ("- a", "holds no mapping")])
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "a.yml"
    path.write_text(text)
    with pytest.raises(UserError, match=match):
        load_suite(str(path))


def test_a_suite_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no suite file .*none\.yaml"):
        load_suite(str(tmp_path / "none.yaml"))


def test_keys_are_the_same_with_dashes_after_writing(tmp_path: Path) -> None:
    suite = load_suite(own(tmp_path))
    assert Suite.model_validate(suite.model_dump(by_alias=True)) == suite
    assert "max-tokens" in suite.model_dump(by_alias=True)
