"""Training recipes: a YAML file in, a validated `Recipe` out."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sglang_qwen3next_eagle3.base.errors import UserError

Positive = Annotated[int, Field(ge=1)]
SECTIONS = ("model", "data", "training", "tracking")
"""SpecForge's sections that a recipe may fill."""
OWN_FIELDS = {
    "model": (
        "target_model_path", "draft_model_config", "aux_hidden_state_layer_ids",
        "vocab_mapping_path", "draft_checkpoint_path",
    ),
    "data": (
        "train_data_path", "prompts_path", "hidden_states_path", "eval_data_path",
        "eval_hidden_states_path", "cache_dir",
    ),
    "training": ("strategy", "resume_from", "role"),
}  # fmt: skip
"""What `train run` fills in itself, from its options and the run folder."""


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

    @model_validator(mode="after")
    def _heads_share_keys_evenly(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num-attention-heads is no multiple of num-key-value-heads")
        return self


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
    if name not in names() and not Path(name).is_file():
        raise UserError(f"no recipe {name!r}: there are {', '.join(names())}, or give a file")
    try:
        if name in names():
            text = files(__package__).joinpath("recipes", f"{name}.yaml").read_text("utf-8")
        else:
            text = Path(name).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {name}: not YAML ({' '.join(str(error).split())})") from None
    except OSError as error:
        raise UserError(f"recipe {name} cannot be read: {error.strerror}") from None
    return parse(content, name)


def parse(content: Mapping[str, Any], name: str) -> Recipe:
    """A recipe from a mapping; `name` is for the error message."""
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in (".".join(map(str, first["loc"])),) if part)
        raise UserError(f"recipe {name}: {where}{first['msg']}") from None
    for section, fields in recipe.specforge.items():
        if section not in SECTIONS:
            raise UserError(
                f"recipe {name}: specforge.{section}: its sections are {', '.join(SECTIONS)}"
            )
        own = sorted(set(OWN_FIELDS.get(section, ())) & set(fields))
        if own:
            raise UserError(
                f"recipe {name}: specforge.{section}.{own[0]} is filled in by `train run`: "
                "leave it out"
            )
    return recipe
