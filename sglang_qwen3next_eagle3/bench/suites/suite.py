"""What a benchmark suite is, and the prompts that it gives."""

import re
import string
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from sglang_qwen3next_eagle3.base import schema
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.base.schema import Strict

PLACEHOLDER = "{data-dir}"
"""In a `get` line: where the user keeps the data."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Prompt:
    """turns: what the user says, one after the other; the answers come between them."""

    id: str
    turns: tuple[str, ...]
    system: str | None = None


class LocalFile(Strict):
    """Data below `--data-dir`.

    path: JSONL or a JSON array (either may be gzipped), Parquet, or YAML files, one record each;
        with `*` in it all files that match, in the order of their paths. A YAML record also has
        the field `folder`, the name of the folder it lies in.
    sha256: of the file's bytes; any content will do without it.
    fields: the record's own names for fields that the prompt calls otherwise.
    get: the command line that makes it.
    """

    path: str
    sha256: str | None = None
    fields: dict[str, str] = Field(default_factory=dict)
    get: str | None = None

    @property
    def is_pattern(self) -> bool:
        return "*" in self.path

    @model_validator(mode="after")
    def _hash_is_of_one_file(self) -> "LocalFile":
        if self.sha256 is None:
            return self
        if self.is_pattern:
            raise ValueError("sha256 goes with one file, not with a pattern")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError("sha256 has 64 hexadecimal digits, in lower case")
        return self


class HubData(Strict):
    """A data set of the hub. fields: as of a local file."""

    dataset: str
    split: str
    config: str | None = None
    revision: str = "main"
    fields: dict[str, str] = Field(default_factory=dict)


class DataSource(Strict):
    """Where records come from: the first of `files` that is there, else `hub`; or `records`."""

    files: tuple[LocalFile, ...] = ()
    hub: HubData | None = None
    records: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _names_one_place(self) -> "DataSource":
        elsewhere = bool(self.files) or self.hub is not None
        if bool(self.records) == elsewhere:
            raise ValueError("give either `records`, or `files` and `hub` or one of them")
        return self


class PromptRule(Strict):
    """How a record becomes a prompt.

    id: the field that names the record. system: the system message, as it is.
    template: the user's one turn, with the record's fields in braces ({{ and }} are braces).
    turns: the field that lists the user's turns. One of these two.
    """

    id: str
    system: str | None = None
    template: str | None = None
    turns: str | None = None

    @field_validator("template")
    @classmethod
    def _braces_hold_names(cls, template: str | None) -> str | None:
        if template is not None and not any(name for _, name in parts(template)):
            raise ValueError("names no field of the record, so that all prompts were the same")
        return template

    @model_validator(mode="after")
    def _is_one_rule(self) -> "PromptRule":
        if (self.template is None) == (self.turns is None):
            raise ValueError("give either `template` or `turns`")
        return self


class Suite(Strict):
    """Prompts of one kind, and how they are answered.

    max_tokens: of an answer. sample_count: how many of the records, drawn by `seed`; None for all.
    """

    name: str
    description: str
    licence: str
    source: DataSource
    prompt: PromptRule
    temperature: Annotated[float, Field(ge=0)]
    max_tokens: Annotated[int, Field(ge=1)]
    sample_count: Annotated[int, Field(ge=1)] | None
    seed: int


def suite_names() -> tuple[str, ...]:
    """The names of the suites that come with the package."""
    return schema.names(data_dir("suites"))


def load_suite(name_or_file: str) -> Suite:
    """A suite by its name or from a user's own `.yaml` file, whose name is then the suite's.

    Raises:
        UserError: no such suite or file, not YAML, unknown keys, impossible values.
    """
    path = schema.find("suite", data_dir("suites"), name_or_file)
    what = f"suite {name_or_file}"
    data = schema.read_mapping(path, "suite")
    if "name" in data:
        raise UserError(f"{what}: name: unknown key; the file's name is the suite's")
    return schema.validate(Suite, {"name": path.stem, **data}, what, hidden=["name"])


def parts(template: str) -> list[tuple[str, str | None]]:
    """Text and the name of the field that follows it; None after the last.

    Raises:
        ValueError: braces that do not match, or hold more than a name.
    """
    found: list[tuple[str, str | None]] = []
    for text, name, form, conversion in string.Formatter().parse(template):
        if name is not None and (not name.isidentifier() or form or conversion):
            raise ValueError(f"in braces stands the name of a field, not {name!r}")
        found.append((text, name))
    return found
