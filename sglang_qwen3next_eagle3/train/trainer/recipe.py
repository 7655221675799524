"""Training recipes: a YAML file in, a validated `Recipe` out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from sglang_qwen3next_eagle3.base import schema
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.schema import Strict

FOLDER = Path(__file__).parent / "recipes"
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


class Draft(Strict):
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


class Hardware(Strict):
    """gpus: in all; tp: of the target's capture; dp: training processes, a batch each."""

    gpus: Positive
    tp: Positive
    dp: Positive


class Data(Strict):
    """samples: conversations; sources: hub names, for `train prepare`."""

    samples: Positive
    sources: list[str] = Field(default_factory=list)


class Recipe(Strict):
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
    return schema.names(FOLDER)


def load(name_or_file: str) -> Recipe:
    """A recipe by its name, or from a file.

    Raises:
        UserError: there is none, or it is not a recipe.
    """
    path = schema.find("recipe", FOLDER, name_or_file)
    return parse(schema.read_mapping(path, "recipe"), name_or_file)


def parse(content: Mapping[str, Any], name: str) -> Recipe:
    """A recipe from a mapping; `name` is for the error message."""
    recipe = schema.validate(Recipe, content, f"recipe {name}")
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
