"""Benchmark suites: a name or a YAML file in, a validated `Suite` and its prompts out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.resources import data_dir
from sglang_qwen3next_eagle3.bench.suites.prompts import Selection, prompts, select
from sglang_qwen3next_eagle3.bench.suites.suite import Prompt, Suite, kebab

__all__ = ["Prompt", "Selection", "Suite", "load", "prompts", "select", "suite_names"]


def suite_names() -> tuple[str, ...]:
    """The names of the suites that come with the package."""
    return tuple(sorted(path.stem for path in data_dir("suites").glob("*.yaml")))


def load(name_or_file: str) -> Suite:
    """A suite by its name or from a user's own `.yaml` file, whose name is then the suite's.

    Raises:
        UserError: no such suite or file, not YAML, unknown keys, impossible values.
    """
    if name_or_file.endswith((".yaml", ".yml")):
        path = Path(name_or_file).expanduser()
        if not path.is_file():
            raise UserError(f"no suite file {path}")
    elif name_or_file in suite_names():
        path = data_dir("suites") / f"{name_or_file}.yaml"
    else:
        raise UserError(
            f"no suite {name_or_file!r}: choose one of {', '.join(suite_names())}, "
            "or give a .yaml file of your own"
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no mapping of suite keys")
    if "name" in data:
        raise UserError(f"suite {name_or_file}: name: unknown key; the file's name is the suite's")
    return _validate({"name": path.stem, **data}, f"suite {name_or_file}")


def _validate(data: Mapping[str, Any], what: str) -> Suite:
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = ", ".join(kebab(name) for name in Suite.model_fields if name != "name")
            message = f"unknown key; known are {known}" if "." not in where else "unknown key"
        raise UserError(f"{what}: {where}: {message}") from None
