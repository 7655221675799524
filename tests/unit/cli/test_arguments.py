"""cli/arguments: from words to frozen options, with the defaults of the options."""

import argparse
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.__main__ import VERBS, main
from sglang_qwen3next_eagle3.cli.arguments import (
    Action,
    Parser,
    add_actions,
    add_sglang_flags,
    defaults,
    options_of,
    positive,
)


@dataclass(frozen=True)
class Options:
    name: str | None
    sizes: tuple[int, ...] = (1, 2)
    seed: int = 0
    plots: bool = True


def parse(*words: str) -> argparse.Namespace:
    parser = Parser()
    parser.add_argument("--name")
    parser.add_argument("--sizes", action="append", type=int)
    parser.add_argument("--no-plots", dest="plots", action="store_false")
    return parser.parse_args(words)


def test_what_is_not_given_is_left_to_the_options() -> None:
    assert options_of(Options, parse()) == Options(name=None)
    assert defaults(Options) == {"sizes": (1, 2), "seed": 0, "plots": True}


def test_what_is_given_wins_and_lists_become_tuples() -> None:
    given = options_of(Options, parse("--name", "a", "--sizes", "3", "--no-plots"))
    assert given == Options(name="a", sizes=(3,), plots=False)


@pytest.mark.parametrize("text", ["0", "-1"])
def test_a_count_is_at_least_one(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
        positive(text)


@pytest.mark.parametrize(
    ("words", "flags"), [([], []), (["--"], []), (["--", "--tp", "2"], ["--tp", "2"])]
)
def test_flags_for_sglang_stand_behind_the_dashes(words: list[str], flags: list[str]) -> None:
    parser = Parser()
    add_sglang_flags(parser, "flags")
    assert parser.parse_args(words).sglang == flags


@pytest.mark.parametrize(
    "words",
    [
        ["launch", "--profile", "b1", "extra", "words"],
        ["launch", "--profile", "b1", "extra", "--", "--tp", "2"],
        ["demo", "extra"],
        ["bench", "speed", "--out", "x", "extra"],
    ],
)
def test_words_without_the_dashes_are_none(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "'extra' belongs to no option" in error
    assert error.count("\n") == 1


def test_only_the_action_that_is_asked_for_adds_its_options() -> None:
    added: list[str] = []

    def action(name: str) -> Action:
        def add(parser: argparse.ArgumentParser) -> None:
            added.append(name)
            parser.add_argument("--size", type=positive)

        return Action(f"does {name}", add, lambda arguments: int(arguments.size))

    parser = Parser()
    add_actions(parser, {"one": action("one"), "two": action("two")})
    assert "does one" in parser.format_help()
    assert added == []
    arguments = parser.parse_args(["two", "--size", "7"])
    assert added == ["two"]
    assert arguments.call(arguments) == 7


def takes(option: argparse.Action, value: str) -> bool:
    """Whether its value may be any word, as that of a folder that only may not be empty."""
    assert callable(option.type)
    try:
        option.type(value)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False
    return True


def typed_options() -> Iterator[tuple[str, ...]]:
    """Every option of every verb and action whose value is converted, with the words before it."""
    for verb, (module, _) in VERBS.items():
        named = importlib.import_module(f"sglang_qwen3next_eagle3.{module}")
        parsers: dict[tuple[str, ...], Parser] = {}
        for name, action in getattr(named, "ACTIONS", {}).items():
            action.add(parsers.setdefault((verb, name), Parser()))
        if not parsers:
            named.add_arguments(parsers.setdefault((verb,), Parser()))
        for words, parser in parsers.items():
            for option in parser._actions:
                if option.type not in (None, str, Path) and not takes(option, "abc"):
                    yield *words, option.option_strings[0]


@pytest.mark.parametrize("words", typed_options(), ids=" ".join)
def test_a_value_that_is_none_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main([*words, "abc"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {words[-1]}: 'abc': ")
    assert printed.err.count("\n") == 1
    assert f"{' '.join(words[:-1])} --help` tells" in printed.err


def test_so_it_is_at_the_launcher_s_own_door(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--profile", "demo", "--port", "abc"]) == 2
    assert capsys.readouterr().err.startswith("error: --port: 'abc': a whole number is needed; ")


@pytest.mark.parametrize(
    "words",
    [
        ["launch", "--profile", "demo", "--admin-api-key", "SECRET"],
        ["launch", "--profile", "demo", "--admin-api-key=SECRET"],
        ["launch", "--profile", "demo", "--admin-api-key=SECRET", "--", "--tp", "2"],
        ["bench", "suites", "--admin-api-key", "SECRET"],
        ["patches", "verify", "--admin-api-key=SECRET"],
    ],
)
def test_an_option_that_there_is_not_is_named_without_its_value(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no such option: --admin-api-key")
    assert "SECRET" not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["launch", "--profile", "b1", "--dry-run", "extra"],
        ["launch", "--profile", "b1", "--tp=2", "extra", "--dry-run"],
        ["launch", "--no-fast", "extra", "--profile", "b1"],
        ["doctor", "--json", "extra"],
    ],
)
def test_a_word_behind_an_option_that_there_is_does_not_blame_the_option(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 'extra' belongs to no option: mend it")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["chat", "hello", "w0rld"], ["head", "inspect", "demo", "--json", "w0rld"]]
)
def test_a_word_too_many_is_told_and_not_shown(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: there are words that belong to no option; a text with spaces")
    assert "w0rld" not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["no-verb"], ["bench"], ["bench", "run"], ["head", "x"]])
def test_what_is_missing_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["warmup", "--profile", "demo", "--out", ""],
        ["bench", "plan", "--result", " "],
        ["bench", "speed", "--out="],
        ["bench", "report", ""],
        ["head", "convert", "x", ""],
        ["patches", "new", "0.5.17", "--out", ""],
        ["train", "vocab", "--data", "", "--out", "x"],
        ["launch", "--profile", "b1", "--dry-run", "--api-key-file", ""],
        ["launch", "--profile", "b1", "--dry-run", "--admin-api-key-file="],
    ],
)
def test_an_empty_word_is_not_the_folder_that_one_is_in(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """So it is for `Path`, and an unset variable of a script leaves one."""
    assert main(words) == 2
    assert "the name of a file or folder is needed" in capsys.readouterr().err


def test_empty_limits_are_not_taken_for_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--profile", "b1", "--dry-run", "--limits", ""]) == 2
    assert "--limits is empty" in capsys.readouterr().err
