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
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the {kind}'s .yaml file in it")
    if not path.is_file():
        raise UserError(
            f"no {kind} file {path}: write one, or choose one of {', '.join(names(folder))}"
        )
    return path


def read_mapping(path: Path, kind: str) -> dict[str, Any]:
    """The mapping in a YAML file, not validated.

    Raises:
        UserError: it cannot be read, is not YAML, holds no mapping, a key twice, or a text that no
            command line and no environment can hold.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is not None:
            _check(node, path)
        data = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # also of dates and numbers that cannot be
        raise UserError(f"{path} is not YAML: {one_line(error)}") from None
    except RecursionError:
        raise UserError(f"{path} is not YAML that can be read: it is nested too deeply") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no mapping of {kind} keys")
    return data


def _check(root: yaml.Node, path: Path) -> None:
    """Of two values of a key YAML takes the last, without a word; of a NUL a process cannot be told
    (execve(2) ends a text there)."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                inside += [key, value]
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise UserError(
                        f"{path}: {key.value!r} is there twice, in lines {lines[name]} and {line}: "
                        "leave one of them"
                    )
                lines[name] = line
        elif isinstance(node, yaml.SequenceNode):
            inside += node.value
        elif "\0" in node.value:
            line = node.start_mark.line + 1
            raise UserError(f"{path}: line {line} holds a NUL character: take it out")
        # An alias is the node that it names, which may hold it.
        waiting += [one for one in inside if id(one) not in seen]
        seen |= {id(one) for one in inside}


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
    if first["type"] in ("dict_type", "model_type"):
        message = "keys with values are needed, as in {key: value}"
    if first["type"] == "extra_forbidden":
        message = "unknown key"
        if model is not None and len(first["loc"]) == 1:
            known = [field.alias or name for name, field in model.model_fields.items()]
            message += f"; known are {', '.join(name for name in known if name not in hidden)}"
    return f"{where}: {message}" if where else message
