"""Training recipes: a YAML file in, a validated `Recipe` out."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sglang_qwen3next_eagle3.errors import UserError

Positive = Annotated[int, Field(ge=1)]
# SpecForge's sections that a recipe may fill; paths and run names follow from the command line.
SECTIONS = ("model", "data", "training", "tracking")


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )


class Draft(_Strict):
    """The sizes of a head that do not follow from its target."""

    vocab_size: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    head_dim: Positive
    intermediate_size: Positive


class Hardware(_Strict):
    """gpus: in all; tp: of the target's capture; dp: training processes, a batch each."""

    gpus: Positive
    tp: Positive
    dp: Positive


class Data(_Strict):
    """samples: conversations; sources: hub names, for `train prepare`."""

    samples: Positive
    sources: list[str] = Field(default_factory=list)


class Recipe(_Strict):
    """specforge: sections of SpecForge's run config, as its schema names them."""

    description: str
    target: str
    aux_layers: str
    data: Data
    hardware: Hardware
    draft: Draft
    environment: dict[str, str] = Field(default_factory=dict)
    specforge: dict[str, dict[str, Any]]


def names() -> tuple[str, ...]:
    folder = files(__package__).joinpath("recipes")
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir()))


def load(name: str) -> Recipe:
    """A recipe by its name, or from a file.

    Raises:
        UserError: there is none, or it is not a recipe.
    """
    if name in names():
        text = files(__package__).joinpath("recipes", f"{name}.yaml").read_text("utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise UserError(f"no recipe {name!r}: there are {', '.join(names())}, or give a file")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"recipe {name}: not YAML ({' '.join(str(error).split())})") from None
    return parse(content, name)


def parse(content: Mapping[str, Any], name: str) -> Recipe:
    """A recipe from a mapping; `name` is for the error message."""
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"recipe {name}: {where}: {first['msg']}") from None
    unknown = sorted(set(recipe.specforge) - set(SECTIONS))
    if unknown:
        raise UserError(f"recipe {name}: specforge.{unknown[0]} is not one of {SECTIONS}")
    return recipe
