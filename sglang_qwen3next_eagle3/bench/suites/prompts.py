"""The prompts of a suite: its records (of a file below --data-dir, of a hub data set, or of the
suite itself) through its rule, all or a sample."""

import hashlib
import random
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sglang_qwen3next_eagle3.base.errors import UserError, one_line
from sglang_qwen3next_eagle3.base.files import expanded, sha256
from sglang_qwen3next_eagle3.base.records import open_hub, read_file
from sglang_qwen3next_eagle3.bench.suites.suite import (
    PLACEHOLDER,
    HubData,
    LocalFile,
    Prompt,
    PromptRule,
    Suite,
    parts,
)

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class SuiteRecord:
    """place: the file with the line, or the like, for messages."""

    place: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class SuiteData:
    """origin: what tells this data from another, without paths of this machine."""

    records: tuple[SuiteRecord, ...]
    origin: dict[str, Any]


def read_records(suite: Suite, folder: Path | None) -> SuiteData:
    """All records of a suite, in their own order. folder: --data-dir.

    Raises:
        UserError: they are not there, and neither is the hub; or they are not what they should be.
    """
    source = suite.source
    if source.records:
        own = [
            SuiteRecord(f"suite {suite.name}, record {number}", fields)
            for number, fields in enumerate(source.records, 1)
        ]
        return SuiteData(
            tuple(own), {"suite": suite.name, "sha256": _digest_of(repr(source.records))}
        )
    if folder is not None:
        folder = expanded(folder)
        if not folder.is_dir():
            raise UserError(f"--data-dir {folder} is no folder{_how_to_get(suite, folder)}")
        for file in source.files:
            paths = _paths(folder, file)
            if paths:
                return _local(suite, file, folder, paths)
    if source.hub is not None:
        return _hub(suite, source.hub, folder)
    names = " or ".join(file.path for file in source.files)
    if folder is None:
        raise UserError(
            f"suite {suite.name} reads {names}: say where with --data-dir{_how_to_get(suite, None)}"
        )
    raise UserError(f"suite {suite.name}: {folder} has no {names}{_how_to_get(suite, folder)}")


def _paths(folder: Path, file: LocalFile) -> list[Path]:
    if file.is_pattern:
        return sorted(path for path in folder.glob(file.path) if path.is_file())
    path = folder / file.path
    return [path] if path.is_file() else []


def _how_to_get(suite: Suite, folder: Path | None) -> str:
    """The end of a message: the line that gets the data, if the suite knows one."""
    line = next((file.get for file in suite.source.files if file.get), None)
    if line is None:
        return ""
    place = "DIR" if folder is None else shlex.quote(str(folder))
    return f"; to get it: {line.replace(PLACEHOLDER, place)} (then --data-dir {place})"


def _local(suite: Suite, file: LocalFile, folder: Path, paths: list[Path]) -> SuiteData:
    records: list[SuiteRecord] = []
    digests = []
    for path in paths:
        try:
            digest = sha256(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        if file.sha256 not in (None, digest):
            raise UserError(
                f"{path} has sha256 {digest}, suite {suite.name} is made for {file.sha256}: fetch "
                f"it again, or describe yours in a suite of your own{_how_to_get(suite, folder)}"
            )
        digests.append(digest)
        is_yaml = path.suffix in (".yaml", ".yml")
        records += _renamed(_yaml(path) if is_yaml else _rows(path), file.fields)
    if not records:
        raise UserError(f"{paths[0]} holds no records{_how_to_get(suite, folder)}")
    whole = digests[0] if not file.is_pattern else _digest_of("".join(digests))
    return SuiteData(tuple(records), {"file": file.path, "sha256": whole})


def _rows(path: Path) -> Iterator[SuiteRecord]:
    with path.open("rb") as stream:
        start = stream.read(2)
    if path.suffix == ".gz" and start not in (_GZIP, b""):
        raise UserError(f"{path} is not gzip, whatever its name says: fetch it again")
    for row in read_file(path):
        place = f"{path}, row {row.number}" if row.line is None else f"{path}:{row.line}"
        if row.problem is not None:
            raise UserError(f"{place}: not JSON: {row.problem[1]}")
        yield SuiteRecord(place, _mapping(place, row.value))


def _yaml(path: Path) -> Iterator[SuiteRecord]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as YAML: {one_line(error)}") from None
    yield SuiteRecord(str(path), {"folder": path.parent.name, **_mapping(str(path), value)})


def _hub(suite: Suite, hub: HubData, folder: Path | None) -> SuiteData:
    try:
        opened = open_hub(hub.dataset, config=hub.config, split=hub.split, revision=hub.revision)
        rows = [
            SuiteRecord(f"{hub.dataset}, row {row.number}", _mapping(hub.dataset, row.value))
            for row in opened.records()
        ]
    except UserError as error:
        names = " or ".join(file.path for file in suite.source.files)
        lacking = f"{folder} has no {names}, and " if folder is not None and names else ""
        raise UserError(
            f"suite {suite.name}: {lacking}{error}{_how_to_get(suite, folder)}"
        ) from None
    if not rows:
        raise UserError(f"suite {suite.name}: data set {hub.dataset} holds no records")
    return SuiteData(tuple(_renamed(rows, hub.fields)), dict(opened.identity))


def _renamed(records: Iterable[SuiteRecord], names: Mapping[str, str]) -> Iterator[SuiteRecord]:
    for record in records:
        own = {name: field(record, theirs) for name, theirs in names.items()}
        yield SuiteRecord(record.place, {**record.fields, **own})


def field(record: SuiteRecord, name: str) -> Any:
    """Raises UserError: the record has no such field."""
    if name not in record.fields:
        raise UserError(
            f"{record.place} has no field {name!r}; it has {', '.join(map(str, record.fields))}"
        )
    return record.fields[name]


def _mapping(place: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: a mapping of fields was expected, not {type(value).__name__}")
    return value


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Selection:
    """The prompts that are asked. settings: for the result file, how they came about."""

    prompts: tuple[Prompt, ...]
    settings: dict[str, Any]


def select(
    suite: Suite, data_dir: Path | None = None, limit: int | None = None, seed: int | None = None
) -> Selection:
    """The suite's prompts in the order of its data.

    limit, seed: in place of the suite's own sample count and seed. A smaller sample of the same
    seed is part of a larger one.

    Raises:
        UserError: limit below 1, or the data is not there or not what it should be.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: ask at least 1 prompt of a suite")
    data = read_records(suite, data_dir)
    everything = [_prompt(record, suite.prompt) for record in data.records]
    _require_different_ids(suite, everything)
    count = min(limit or suite.sample_count or len(everything), len(everything))
    seed = suite.seed if seed is None else seed
    chosen = [everything[index] for index in _sample(len(everything), count, seed)]
    settings = {
        "data": data.origin,
        "available": len(everything),
        "count": count,
        "seed": seed,
        "temperature": suite.temperature,
        "max-tokens": suite.max_tokens,
        "prompt": suite.prompt.model_dump(by_alias=True, exclude_none=True),
    }
    return Selection(tuple(chosen), settings)


def _sample(available: int, count: int, seed: int) -> list[int]:
    # Of the generator's methods only random() gives the same under every Python version.
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(available)]
    return sorted(sorted(range(available), key=keys.__getitem__)[:count])


def _prompt(record: SuiteRecord, rule: PromptRule) -> Prompt:
    if rule.template is not None:
        turns = ["".join(t + _text(record, name) for t, name in parts(rule.template))]
    else:
        turns = _turns(record, rule.turns or "")
    return Prompt(_text(record, rule.id), tuple(turns), rule.system)


def _turns(record: SuiteRecord, name: str) -> list[str]:
    turns = field(record, name)
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{record.place}: {name!r} lists no turns")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, str) or not turn.strip():
            raise UserError(f"{record.place}: turn {number} in {name!r} is no text")
    return turns


def _text(record: SuiteRecord, name: str | None) -> str:
    if name is None:
        return ""
    value = field(record, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{record.place}: field {name!r} is no text, or an empty one")
    return value


def _require_different_ids(suite: Suite, found: list[Prompt]) -> None:
    seen: set[str] = set()
    for prompt in found:
        if prompt.id in seen:
            raise UserError(
                f"suite {suite.name}: two records have the {suite.prompt.id} {prompt.id!r}: "
                "answers could not be told apart"
            )
        seen.add(prompt.id)
