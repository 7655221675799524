"""Where conversations come from: local files and hub data sets, record by record."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import expanded, sha256
from sglang_qwen3next_eagle3.base.records import HubRows, Record, open_hub, read_file
from sglang_qwen3next_eagle3.train.data.formats import FORMATS

SPELLING = "PATH_OR_NAME[,weight=W][,format=F][,config=C][,split=S][,revision=R]"
_OPTIONS = ("weight", "format", "config", "split", "revision")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_SUFFIXES = (".json", ".jsonl", ".gz", ".parquet")


@dataclass(frozen=True)
class Source:
    """One `--source`. label: a short name, unique in the mixture, that ids begin with."""

    name: str
    weight: Fraction | None = None
    format: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    label: str = ""

    @property
    def path(self) -> Path | None:
        """The local file; None for a hub name."""
        path = expanded(self.name)
        return path if path.is_file() else None


@dataclass(frozen=True)
class Opened:
    """A source that exists. identity: what tells its content from another (for provenance and
    resuming); rows: how many records, if known beforehand."""

    source: Source
    identity: dict[str, Any]
    rows: int | None
    hub: HubRows | None = None

    def records(self) -> Iterator[Record]:
        if self.hub is not None:
            return self.hub.records()
        return read_file(expanded(self.source.name))


def parse_source(text: str) -> Source:
    """`--source` as spelled: a local file or a hub name, then options after commas.

    Raises:
        UserError: an option that is none, or a value that does not fit.
    """
    if expanded(text).is_file():
        return Source(text)
    name, *words = text.split(",")
    options: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in _OPTIONS or not equals or not value or key in options:
            raise UserError(f"--source {text}: {word!r} does not fit: spell it {SPELLING}")
        options[key] = value
    if "format" in options and options["format"] not in FORMATS:
        raise UserError(f"--source {text}: format is one of {', '.join(FORMATS)}")
    weight = None
    if "weight" in options:
        try:
            weight = Fraction(options.pop("weight"))
        except (ValueError, ZeroDivisionError):
            weight = Fraction(0)
        if weight <= 0:
            raise UserError(f"--source {text}: weight is a number above 0")
    source = Source(name, weight, **options)
    hub_options = [key for key in ("config", "split", "revision") if key in options]
    if source.path and hub_options:
        raise UserError(f"--source {text}: {hub_options[0]} goes with a hub name, not with a file")
    return source


def labelled(sources: Sequence[Source]) -> list[Source]:
    """The same with labels: the file's or data set's name, numbered where two are the same."""
    taken: set[str] = set()
    result: list[Source] = []
    for source in sources:
        stem = Path(source.name).name
        while Path(stem).suffix in _SUFFIXES:
            stem = Path(stem).stem
        label, count = stem, 1
        while label in taken:
            count += 1
            label = f"{stem}.{count}"
        taken.add(label)
        result.append(replace(source, label=label))
    return result


def open_source(source: Source) -> Opened:
    """Find it: hash a file, download a data set (with the hub's own progress bars and cache).

    Raises:
        UserError: not there, not reachable, no such split.
    """
    path = source.path
    if path is not None:
        return Opened(source, {"sha256": sha256(path)}, None)
    if expanded(source.name).is_dir():
        raise UserError(f"{source.name} is a folder: give a JSON, JSONL or Parquet file in it")
    named_as_file = source.name.endswith(_SUFFIXES) or not _HUB_NAME.fullmatch(source.name)
    if named_as_file:
        raise UserError(f"there is no file {source.name}: give a local file or a hub name")
    hub = open_hub(source.name, config=source.config, split=source.split, revision=source.revision)
    return Opened(source, hub.identity, hub.count, hub)
