import argparse
import importlib
import signal
from collections.abc import Callable, Iterator

import pytest

from sglang_qwen3next_eagle3 import __version__, launch
from sglang_qwen3next_eagle3.__main__ import VERBS, main
from sglang_qwen3next_eagle3.base.errors import INTERRUPTED
from sglang_qwen3next_eagle3.cli.arguments import Parser


def test_an_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--profile", "b3"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: no profile 'b3'")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert VERBS[verb][1] in capsys.readouterr().out.replace("\n", " ")


def parsers() -> Iterator[tuple[str, Parser]]:
    for verb, (module, _) in VERBS.items():
        called = importlib.import_module(f"sglang_qwen3next_eagle3.{module}")
        for name, action in getattr(called, "ACTIONS", {}).items():
            parser = Parser(prog=f"{verb} {name}")
            action.add(parser)
            yield parser.prog, parser
        if not hasattr(called, "ACTIONS"):
            parser = Parser(prog=verb)
            called.add_arguments(parser)
            yield verb, parser
            for option in parser._actions:
                if isinstance(option, argparse._SubParsersAction):
                    yield from ((f"{verb} {name}", one) for name, one in option.choices.items())


def test_every_option_says_what_it_is() -> None:
    found = dict(parsers())
    assert {"launch", "warmup", "bench start", "train capture"} <= found.keys()
    bare = {
        f"{name} {' '.join(option.option_strings) or option.dest}"
        for name, parser in found.items()
        for option in parser._actions
        if not option.help and not isinstance(option, argparse._SubParsersAction)
    }
    assert bare == set()


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip().endswith(__version__)


@pytest.mark.parametrize("command", [main, launch.main])
def test_ctrl_c_while_the_options_are_parsed_is_no_traceback(
    command: Callable[[list[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("sglang_qwen3next_eagle3.cli.launch.add_arguments", interrupted)
    assert command(["launch", "--list"]) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
