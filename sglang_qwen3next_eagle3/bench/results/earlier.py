"""Speeds that were measured by hand, which `benchmarks/h200-by-hand.yaml` holds."""

from functools import cache
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from sglang_qwen3next_eagle3.base.resources import data_file


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=_kebab)


class EarlierRow(_Strict):
    """tok_s: output tokens per second of the server, prefill included, by batch size."""

    algorithm: Literal["eagle3", "nextn", "none"]
    tree: tuple[int, int, int] | None = None
    tok_s: dict[int, float]


class Earlier(_Strict):
    """accept_length: what was simulated for all rows with a tree."""

    source: str
    conditions: str
    accept_length: float
    rows: tuple[EarlierRow, ...]


@cache
def read_earlier() -> Earlier:
    """The figures of this installation.

    Raises:
        FileNotFoundError: the installation is broken.
    """
    text = data_file("h200-by-hand.yaml").read_text(encoding="utf-8")
    return Earlier.model_validate(yaml.safe_load(text))
