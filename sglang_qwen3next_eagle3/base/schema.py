"""What is read from a file: models that refuse unknown keys, and their errors as one line."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sglang_qwen3next_eagle3.base.errors import UserError, one_line
from sglang_qwen3next_eagle3.base.files import expanded

Model = TypeVar("Model", bound=BaseModel)
YAML_SUFFIXES = (".yaml", ".yml")


def kebab(name: str) -> str:
    return name.replace("_", "-")


class StrictRecord(BaseModel):
    """What this package writes and reads again: frozen, keys as in Python, no unknown ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Strict(BaseModel):
    """What people write: frozen, keys-with-dashes, no unknown ones."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=kebab,
        populate_by_name=True,
        defer_build=True,
    )


def names(folder: Path) -> tuple[str, ...]:
    """Of the presets, YAML files, in a folder of the package."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def find(kind: str, folder: Path, name_or_file: str) -> Path:
    """The file of a preset: by its name in `folder`, or the user's own.

    kind: what it is a file of, for the message: "profile", "suite", "recipe".

    Raises:
        UserError: there is no such preset or file.
    """
    path = expanded(name_or_file)
    if not name_or_file.endswith(YAML_SUFFIXES):
        known = names(folder)
        if name_or_file in known:
            return folder / f"{name_or_file}.yaml"
        if not path.is_file():
            raise UserError(
                f"no {kind} {name_or_file!r}: choose one of {', '.join(known)}, "
                "or give a .yaml file of your own"
            )
    if not path.is_file():
        raise UserError(f"no {kind} file {path}")
    return path


def read_mapping(path: Path, kind: str) -> dict[str, Any]:
    """The mapping in a YAML file, not validated.

    Raises:
        UserError: it cannot be read, is not YAML, or holds no mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # also of dates and numbers that cannot be
        raise UserError(f"{path} is not YAML: {one_line(error)}") from None
    except RecursionError:
        raise UserError(f"{path} is not YAML that can be read: it is nested too deeply") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no mapping of {kind} keys")
    return data


def load(
    model: type[Model],
    kind: str,
    folder: Path,
    name_or_file: str,
    complete: Callable[[Path, dict[str, Any]], Mapping[str, Any]] | None = None,
) -> Model:
    """A preset by its name in `folder`, or from a user's own YAML file.

    complete: makes the model's data of the file's, where they are not the same.

    Raises:
        UserError: no such preset or file, not YAML, unknown keys, impossible values.
    """
    path = find(kind, folder, name_or_file)
    data: Mapping[str, Any] = read_mapping(path, kind)
    if complete is not None:
        data = complete(path, dict(data))
    return validate(model, data, f"{kind} {name_or_file}")


def validate(
    model: type[Model], data: Any, what: str, *, hidden: Sequence[str] = (), way_out: str = ""
) -> Model:
    """The data as a model.

    hidden: fields that do not come from the user, which "known are" leaves out.
    way_out: ends the message, with its own punctuation before it.

    Raises:
        UserError: `what`, and the first thing that is wrong with it.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{what}: {first_error(error, model, hidden)}{way_out}") from None


def first_error(
    error: ValidationError, model: type[BaseModel] | None = None, hidden: Sequence[str] = ()
) -> str:
    """The first thing that is wrong, in one line, behind its place where it has one.

    model: whose keys to list where a key at its top level is unknown; hidden: those not to list.
    """
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    if first["type"] == "extra_forbidden":
        message = "unknown key"
        if model is not None and len(first["loc"]) == 1:
            known = [field.alias or name for name, field in model.model_fields.items()]
            message += f"; known are {', '.join(name for name in known if name not in hidden)}"
    return f"{where}: {message}" if where else message
