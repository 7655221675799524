"""cli/arguments: from words to frozen options, with the defaults of the options."""

import argparse
from dataclasses import dataclass

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.cli.arguments import (
    Action,
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
    parser = argparse.ArgumentParser()
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
    parser = argparse.ArgumentParser()
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

    parser = argparse.ArgumentParser()
    add_actions(parser, {"one": action("one"), "two": action("two")})
    assert "does one" in parser.format_help()
    assert added == []
    arguments = parser.parse_args(["two", "--size", "7"])
    assert added == ["two"]
    assert arguments.call(arguments) == 7
