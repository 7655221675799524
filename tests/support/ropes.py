"""Configs of positions, and what SGLang makes of them."""

import json
from dataclasses import dataclass, field
from typing import Any

ORIGINAL = {"original_max_position_embeddings": 4096}
YARN = {"rope_type": "yarn", "factor": 4.0}
LINEAR = {"rope_type": "linear", "factor": 2.0}
PLAIN = {"rope_type": "default", "rope_theta": 5e6}
LLAMA3 = {**ORIGINAL, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1,
          "high_freq_factor": 4}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """context: what SGLang derives; None: it ends, or serves other positions."""

    context: int | None
    change: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """Of a target of 4096 tokens with a rope base of 5,000,000, as published ones say it."""
        return {"max_position_embeddings": 4096, "rope_theta": 5e6, **self.change}

    def __str__(self) -> str:
        return f"{json.dumps(self.change)} with {json.dumps(self.overrides)}"


OF_TARGETS = (
    Case(4096),
    Case(4096, {"rope_scaling": None}),
    Case(4096, {"rope_scaling": {}}),
    Case(16384, {"rope_scaling": YARN}),
    Case(4096, {"rope_scaling": {**YARN, **ORIGINAL}}),
    Case(16384, {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
    Case(8192, {"rope_scaling": LINEAR}),
    Case(4096, {"rope_scaling": LLAMA3}),
    Case(10240, {"rope_scaling": {"factor": 2.5}}),
    Case(4096, {"rope_parameters": PLAIN}),
    Case(8192, {"rope_scaling": LINEAR, "rope_parameters": PLAIN}),
    Case(16384, {}, {"rope_scaling": YARN}),
    Case(4096, {}, {"rope_scaling": {**YARN, **ORIGINAL}}),
    Case(16384, {}, {"rope_parameters": YARN}),
    Case(4096, {}, {"rope_scaling": LINEAR, "rope_parameters": None}),
    Case(8192, {}, {"rope_parameters": None, "rope_scaling": LINEAR}),
    Case(4096, {"rope_scaling": YARN}, {"rope_scaling": None}),
    Case(20000, {}, {"rope_scaling": YARN, "max_position_embeddings": 5000}),
    Case(9999, {}, {"max_position_embeddings": 9999}),
    Case(77, {"max_seq_len": 99}, {"seq_length": 77}),
    Case(88, {"seq_length": 88}),
    Case(8192, {"rope_parameters": {**LINEAR, "rope_theta": 5e6}}, {"rope_scaling": LINEAR}),
    Case(4096, {"rope_parameters": {**PLAIN, "rope_theta": 1e7}}, {"rope_theta": 1e7}),
)
OTHERWISE = (
    Case(None, {"rope_parameters": {**YARN, "rope_theta": 5e6}}),
    Case(None, {"rope_parameters": {**YARN, **ORIGINAL, "rope_theta": 5e6}}),
    Case(None, {"rope_parameters": {**YARN, **ORIGINAL}}, {"rope_scaling": YARN}),
    Case(None, {"rope_parameters": {"type": "yarn", "factor": 4.0, **ORIGINAL}}),
    Case(None, {"rope_parameters": LLAMA3}),
    Case(None, {"rope_parameters": {**LINEAR, "rope_theta": 5e6}}),
    Case(None, {"rope_parameters": {**PLAIN, "rope_theta": 1e7}}),
    Case(None, {"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}),
)
OF_HEADS = (
    Case(4096),
    Case(4096, {"rope_scaling": YARN}),
    Case(4096, {"rope_scaling": {**YARN, **ORIGINAL}}),
    Case(8192, {"rope_scaling": LINEAR}),
    Case(8192, {"rope_parameters": {**LINEAR, "rope_theta": 1e7}}),
    Case(4096, {"rope_parameters": PLAIN}),
    Case(9, {"seq_length": 9}),
)
