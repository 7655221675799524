"""What the verbs share: the parser, actions of a verb, options as dataclasses, keys, and types of
values."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sglang_qwen3next_eagle3.base.errors import UserError, one_line

_Options = TypeVar("_Options")


class Parser(argparse.ArgumentParser):
    """argparse's, of which a mistake ends as any other does: by UserError, in one line.

    Its children are of its kind.
    """

    words: Sequence[str] = ()
    """What it was given to parse."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.register("type", int, whole)
        self.register("type", float, number)
        self.register("type", Path, place)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        self.words = sys.argv[1:] if args is None else args
        arguments, unknown = super().parse_known_args(self.words, namespace)
        if unknown:
            self.error(_unknown(unknown))
        return arguments, unknown

    def error(self, message: str) -> NoReturn:
        said = one_line(message).removeprefix("argument ")
        raise UserError(f"{said}; `{self.prog} --help` tells what there is")


def _unknown(words: Sequence[str]) -> str:
    """Of what no option took. A word may be a secret, so that none is shown."""
    options = [word for word in words if word.startswith("-") and word != "--"]
    if options:
        return f"no such option: {' '.join(map(_name_of, options))}"
    return "there are words that belong to no option; a text with spaces in it stands in quotes"


def _name_of(word: str) -> str:
    """Without a value, which may be a secret."""
    return word.partition("=")[0] if word.startswith("-") else "..."


@dataclass(frozen=True)
class Action:
    """One of a verb's. add: its options; call: with what was parsed, to the exit status.

    Both are called only where the action is asked for, and may import what they need.
    """

    summary: str
    add: Callable[[argparse.ArgumentParser], None]
    call: Callable[[argparse.Namespace], int]


class _ActionParser(Parser):
    """An action's parser. Its options are added when it is called, so that `VERB --help` and the
    other actions import nothing of it."""

    action: Action

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        self.action.add(self)
        self.set_defaults(call=self.action.call)
        return super().parse_known_args(args, namespace)


def add_actions(parser: argparse.ArgumentParser, actions: Mapping[str, Action]) -> None:
    """The parsed arguments' `call` is that of the action."""
    parsers = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=_ActionParser
    )
    for name, action in actions.items():
        one = parsers.add_parser(
            name, help=action.summary, description=action.summary, allow_abbrev=False
        )
        one.action = action


class _SGLangFlags(argparse.Action):
    """argparse takes words for these wherever no option stands, also without a `--`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values and not values[0].startswith("-"):
            known = parser._option_string_actions
            raise UserError(_stray(values[0], getattr(parser, "words", ()), known))
        setattr(namespace, self.dest, values)


def _stray(word: str, words: Sequence[str], known: Container[str]) -> str:
    """Of one that belongs to no option; behind an option that there is not it may be a secret.

    known: the options that there are.
    """
    at = words.index(word) if word in words else 0
    before = words[at - 1].partition("=")[0] if at > 0 else ""
    if before.startswith("-") and before != "--" and before not in known:
        return (
            f"no such option: {_name_of(words[at - 1])}; SGLang's own flags stand behind a --, at "
            "the end"
        )
    return (
        f"{word!r} belongs to no option: mend it; SGLang's flags begin with - and stand behind a --"
    )


def add_sglang_flags(parser: argparse.ArgumentParser, summary: str, dest: str = "sglang") -> None:
    """`-- FLAGS`, at the end. Parsing raises UserError: a word that is no flag begins them."""
    parser.add_argument(dest, nargs="*", metavar="-- FLAGS", help=summary, action=_SGLangFlags)


def add_key_options(group: Any) -> None:
    """`--api-key` and `--api-key-file`, of the server that is asked; `key_of` reads them."""
    from sglang_qwen3next_eagle3.serving.connection import API_KEY_VARIABLE

    group.add_argument("--api-key", metavar="KEY", help=f"default: ${API_KEY_VARIABLE}")
    group.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="one that holds the key, which others then do not see in the list of processes",
    )


def key_of(arguments: argparse.Namespace) -> str | None:
    """The key that was given, that of the file, or that of the environment. Raises UserError."""
    from sglang_qwen3next_eagle3.serving.connection import API_KEY_VARIABLE, find_key

    return find_key(arguments.api_key, arguments.api_key_file, os.environ.get(API_KEY_VARIABLE))


def defaults(options: type[Any]) -> dict[str, Any]:
    """Of a dataclass's fields, as far as they have any."""
    return {one.name: one.default for one in fields(options) if one.default is not MISSING}


def given_of(kind: type[Any], arguments: argparse.Namespace) -> list[str]:
    """The fields for which something was given that is not their default."""
    own = defaults(kind)
    found = []
    for name in (one.name for one in fields(kind)):
        value = getattr(arguments, name, None)
        value = tuple(value) if isinstance(value, list) else value
        if value not in (None, (), own.get(name)):
            found.append(name)
    return found


def options_of(kind: type[_Options], arguments: argparse.Namespace) -> _Options:
    """What was parsed, as the options that a room takes; lists as tuples.

    What was not given is left to the dataclass.
    """
    own = defaults(kind)
    given = {
        one.name: getattr(arguments, one.name)
        for one in fields(kind)  # type: ignore[arg-type]
        if hasattr(arguments, one.name)
    }
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
            if value is not None or name not in own
        }
    )


def place(text: str, what: str = "file or folder") -> Path:
    """Of an argument: an empty word, as an unset variable leaves one, is not the folder that one is
    in, as it is for Path."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"the name of a {what} is needed")
    return Path(text)


def folder(text: str) -> Path:
    return place(text, "folder")


def whole(text: str) -> int:
    """Of an argument: a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number is needed") from None


def positive(text: str) -> int:
    """Of an argument: a whole number from 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: at least 1")
    return value


def number(text: str) -> float:
    """Of an argument: a number, not infinity."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: a number is needed")
    return value
