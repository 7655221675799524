"""What SGLang's server will make of its command line, without SGLang.

Its parser takes abbreviations (`--hos`), `--flag=value`, several names for one flag, the last of
several values, and a file of more flags (`--config`). What is checked here is what it will take,
from a table of its flags that `patches/` holds for a release that was run.
"""

import contextlib
import difflib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import schema
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir, expanded, parse_json
from sglang_qwen3next_eagle3.base.redact import masked
from sglang_qwen3next_eagle3.model import rope

CONFIG = "--config"
_SUFFIX = ".flags.json"
_PACKAGE = "sglang-qwen3next-eagle3"
_SERVED = re.compile(r"sglang *==([0-9.]+) *;.*extra *== *['\"]serve['\"]")
# SGLang 0.5.17, srt/utils/common.py, human_readable_int: decimals with k, M, G, T only.
# Nothing is counted with more digits, and Python writes none of thousands.
_NUMBER = re.compile(
    r"(\d{1,18}(?=$|[KMGT]i$)|\d{1,18}(?:\.\d{1,18})?(?=[kMGT]$))(Ki|Mi|Gi|Ti|k|M|G|T|)"
)
# argparse, _negative_number_matcher, of a parser without flags that look like one.
_NEGATIVE = re.compile(r"-\d+$|-\d*\.\d+$")
_TIMES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_TIMES |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True)
class Flag:
    """dest: what SGLang calls its value, or, where flags of one value take different words, the
    first name. names: as its parser takes them. values: words that follow one: "0", "1", or "?",
    "*" and "+" as argparse means them. kind: of each, where it is no text: "int", "float", "tokens"
    or "json". keys: what a `--config` file may call it besides dest. in_file: whether it may name
    it at all. candidates: see `overlay.server_flags.Table`."""

    dest: str
    names: tuple[str, ...]
    values: str
    kind: str | None = None
    keys: tuple[str, ...] = ()
    in_file: bool = True
    candidates: tuple[int, ...] = ()

    @property
    def longest(self) -> str:
        """The name to tell people."""
        return self.names[0]


@dataclass(frozen=True)
class Given:
    """One flag of a command line. word: as it is spelled there; flag: None where SGLang has no such
    one, or where it could be several."""

    word: str
    flag: Flag | None
    values: tuple[str, ...]


@dataclass(frozen=True)
class Parsed:
    """A command line as SGLang's parser reads it. stray: words that no flag takes, behind one."""

    given: tuple[Given, ...]
    stray: tuple[str, ...] = ()

    def of(self, name: str) -> list[Given]:
        """Each time that the flag is given, under whatever name, in order."""
        flag = find(name)
        if flag is None:
            return [entry for entry in self.given if entry.word == name]
        return [entry for entry in self.given if entry.flag == flag]

    def value(self, name: str) -> str | None:
        """The value that counts: the last. Without a word behind it ""; None: it is not given."""
        entries = self.of(name)
        if not entries:
            return None
        return entries[-1].values[0] if entries[-1].values else ""

    def number(self, name: str) -> int | None:
        """The same as a whole number from 0, which may be spelled 256k, 256Ki or as Python reads
        one (+2, 2_000); None: it is none."""
        text = (self.value(name) or "").strip()
        if match := _NUMBER.fullmatch(text):
            return int(Decimal(match[1]) * _TIMES[match[2]])
        with contextlib.suppress(ValueError):
            return number if 0 <= (number := int(text)) < 10**18 else None
        return None

    def overrides(self) -> dict[str, Any]:
        """What SGLang sets in the target's config, and in the head's. Raises UserError."""
        spelled = self.value(rope.OVERRIDES)
        try:
            found = parse_json("{}" if spelled is None else spelled)
        except ValueError as error:
            raise UserError(f"{rope.OVERRIDES} {spelled!r} is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise UserError(f"{rope.OVERRIDES} {spelled!r}: an object of the config's keys")
        return found


def find(word: str) -> Flag | None:
    """The flag that SGLang takes a word for: by one of its names, or the beginning of one.

    None: it has no such flag, or several that begin so.
    """
    by_name = table()
    if word in by_name:
        return by_name[word]
    if not word.startswith("--"):
        return None
    found = {flag.dest: flag for name, flag in by_name.items() if name.startswith(word)}
    return next(iter(found.values())) if len(found) == 1 else None


def parse(words: Sequence[str]) -> Parsed:
    """Read a command line, with or without `python -m MODULE` before it.

    Raises:
        UserError: a `--config` file that SGLang would not read, or not as it is meant.
    """
    words = _with_config(words[3:] if words[1:2] == ["-m"] else words)
    given: list[Given] = []
    stray: list[str] = []
    index = 0
    while index < len(words):
        word, equals, value = words[index].partition("=")
        index += 1
        if not _is_option(words[index - 1]):
            # Of a flag that is not known, nobody knows how many words follow.
            if not given or given[-1].flag is not None:
                stray.append(words[index - 1])
            continue
        flag = find(word)
        values: list[str] = [value] if equals else []
        most = {"0": 0, "1": 1, "?": 1}.get(flag.values, len(words)) if flag else 1
        while not equals and len(values) < most and index < len(words):
            if _is_option(words[index]):
                break
            values.append(words[index])
            index += 1
        given.append(Given(word, flag, tuple(values)))
    return Parsed(tuple(given), tuple(stray))


def _is_option(word: str) -> bool:
    """Whether argparse takes a word for a flag, known or not, and so for nobody's value."""
    if word.startswith("--"):
        return True
    return word.startswith("-") and word != "-" and " " not in word and not _NEGATIVE.match(word)


def check(parsed: Parsed) -> None:
    """That SGLang's parser knows every flag, and takes its values for what they are to be.

    A release that there is no table of may know more.

    Raises:
        UserError: it would end with its usage.
    """
    for entry in parsed.given:
        if entry.flag is None:
            # With one dash it may be a secret's, which nothing masks: no release has any but -h.
            if not entry.word.startswith("--") or _is_of_the_installed():
                raise UserError(f"SGLang has no flag {entry.word}{_meant(entry.word)}")
            continue
        if not entry.values and entry.flag.values in ("1", "+"):
            raise UserError(f"{entry.word} needs a value")
        if entry.values and entry.flag.values == "0":
            raise UserError(f"{entry.word} takes no value: leave what stands behind the =")
        for value in entry.values:
            if not _is(entry.flag.kind, value):
                raise UserError(f"{entry.word} {value!r}: {_KINDS[str(entry.flag.kind)]} is needed")


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "tokens": "a number of tokens, as 131072 or 128Ki,",
    "json": "JSON",
}


def _is(kind: str | None, value: str) -> bool:
    try:
        if kind == "int" or (kind == "tokens" and not _NUMBER.fullmatch(value.strip())):
            int(value)
        elif kind == "float":
            float(value)
        elif kind == "json":
            parse_json(value)
    except ValueError:
        return False
    return True


def _meant(word: str) -> str:
    """What it could be."""
    word = word if word.startswith("--") else f"-{word}"
    names = [name for name in table() if name.startswith("--")]
    near = [name for name in names if name.startswith(word)] or difflib.get_close_matches(
        word, names, 1, 0.75
    )
    return f": {' or '.join(near[:4])}?" if near else "; `sglang serve --help` lists them"


def last_value(argv: Sequence[str], name: str) -> str | None:
    """What SGLang will take for one flag of a command line: see `Parsed.value`."""
    return parse(argv).value(name)


def overruled(words: Sequence[str], extra: Sequence[str]) -> list[str]:
    """What a `--config` file among the user's flags asks for in vain: SGLang reads it before all
    flags, so those of the profile count. A line each, for people.

    words: of the profile; extra: the user's.
    """
    if CONFIG not in extra:
        return []
    at = list(extra).index(CONFIG)
    file, own = parse(extra[at : at + 2]), parse(words)
    named = parse([*extra[:at], *extra[at + 2 :]])
    told = {}
    for entry in file.given:
        name = entry.word if entry.flag is None else entry.flag.longest
        ours, theirs = own.of(name), file.of(name)
        if ours and not named.of(name) and ours[-1].values != theirs[-1].values:
            counts, read = (" ".join(masked([name, *one[-1].values])) for one in (ours, theirs))
            told[name] = (
                f"warning: {CONFIG}: the profile's {counts} counts and not the file's {read}, "
                "which SGLang reads first: give it as a flag"
            )
    return list(told.values())


def _with_config(words: Sequence[str]) -> list[str]:
    """With the flags of a `--config` file, which SGLang puts before all others."""
    spelled = [word for word in words if _is_config(word.partition("=")[0])]
    if not spelled:
        return list(words)
    if spelled != [CONFIG] or words[-1] == CONFIG:
        raise UserError(
            f"{' '.join(spelled)}: SGLang reads one file of flags, spelled `{CONFIG} FILE` in two "
            "words; any other spelling it ignores"
        )
    at = list(words).index(CONFIG)
    path = expanded(words[at + 1])
    if path.suffix not in schema.YAML_SUFFIXES or not path.is_file():
        raise UserError(f"{CONFIG} {path}: there is no such .yaml file")
    merged: list[str] = []
    for key, value in schema.read_mapping(path, "SGLang flag").items():
        merged += _words(f"--{key}", value)
    return [*merged, *words[:at], *words[at + 2 :]]


def _is_config(word: str) -> bool:
    flag = find(word) if word.startswith("--") else None
    return flag is not None and CONFIG in flag.names


def _words(name: str, value: object) -> list[str]:
    """What SGLang makes of a key of its file: by `keys` and dest it tells switches, and what it
    refuses.

    Raises:
        UserError: it ends there.
    """
    dest = name.removeprefix("--").replace("-", "_")
    by_key = {key: flag for flag in table().values() for key in (*flag.keys, flag.dest)}
    own = by_key.get(dest)
    if own is not None and not own.in_file:
        raise UserError(
            f"{CONFIG}: SGLang takes no {name.removeprefix('--')} from a file: give it as a flag, "
            f"{name}"
        )
    if isinstance(value, bool):
        if own is not None and own.values == "0":
            return [name] if value else []
        flag = find(name)
        if flag is None:
            return [name] if value or _is_of_the_installed() else []
        if flag.values == "0":
            raise UserError(
                f"{CONFIG}: SGLang takes no true or false of {name.removeprefix('--')} from a "
                f"file, only of a switch by its whole name: give it as a flag, {flag.longest}"
            )
        return [name, str(value).lower()]
    if isinstance(value, list):
        return [name, *map(str, value)] if value else []
    return [name, json.dumps(value) if isinstance(value, dict) else str(value)]


def _tables() -> dict[str, Path]:
    """By release, oldest first."""
    found = {
        path.name.removeprefix("sglang-").removesuffix(_SUFFIX): path
        for path in data_dir("patches").glob(f"sglang-*{_SUFFIX}")
    }
    return dict(sorted(found.items(), key=lambda entry: _numbers(entry[0])))


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def _is_of_the_installed() -> bool:
    """Whether `table` is of the release that will run; of one that is not here, it is taken to."""
    installed = _installed()
    return installed is None or installed in _tables()


def _installed() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("sglang")
    return None


def _served() -> str | None:
    """The release that `[serve]` of this package installs; None: of a checkout without metadata."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for requirement in importlib.metadata.requires(_PACKAGE) or ():
            if match := _SERVED.match(requirement):
                return match[1]
    return None


@cache
def table() -> Mapping[str, Flag]:
    """The flags of a release by each of their names.

    Of the installed release. Where that has no table, of the newest that has one; where SGLang is
    not installed at all, as where launches are only looked at, of the one that `[serve]` installs.
    """
    tables = _tables()
    path = tables.get(_installed() or _served() or "", list(tables.values())[-1])
    table = json.loads(path.read_text(encoding="utf-8"))
    flags = [
        Flag(
            dest,
            tuple(row["names"]),
            row["values"],
            row.get("type"),
            tuple(row.get("keys", ())),
            row.get("in_file", True),
            tuple(row.get("candidates", ())),
        )
        for dest, row in table.items()
    ]
    return {name: flag for flag in flags for name in flag.names}
