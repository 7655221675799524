"""What a Qwen3-Next target is: layer kinds and sizes, from its `config.json` alone."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import parse_json
from sglang_qwen3next_eagle3.model import rope
from sglang_qwen3next_eagle3.model.safetensors_header import check_present

MODEL_TYPE = "qwen3_next"
LayerKind = Literal["attention", "gdn"]


def layer_kinds(config: Mapping[str, Any]) -> tuple[LayerKind, ...]:
    """The kind of each layer: by `layer_types` where the config has it, else by the interval.

    Raises:
        UserError: neither key is there, or `layer_types` is no list of names or contradicts itself.
    """
    count = _positive(config, "num_hidden_layers")
    types = config.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
            raise UserError(
                f"the target's layer_types are {reprlib.repr(types)}: a list of names is needed"
            )
        names: dict[str, LayerKind] = {"full_attention": "attention", "linear_attention": "gdn"}
        unknown = sorted({name for name in types if name not in names})
        if unknown:
            raise UserError(f"the target's layer_types name {', '.join(unknown)}: not Qwen3-Next")
        if len(types) != count:
            raise UserError(
                f"the target's layer_types list {len(types)} layers, num_hidden_layers says {count}"
            )
        return tuple(names[name] for name in types)
    if "full_attention_interval" not in config:
        raise UserError(
            "the target's config.json has neither layer_types nor full_attention_interval: "
            "add one of them (Qwen3-Coder-Next: full_attention_interval 4)"
        )
    interval = _positive(config, "full_attention_interval")
    return tuple("attention" if (i + 1) % interval == 0 else "gdn" for i in range(count))


@dataclass(frozen=True)
class Target:
    """A Qwen3-Next model as its `config.json` describes it."""

    config: Mapping[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str = "the target") -> "Target":
        """Raises UserError for any architecture but `qwen3_next`, or an incomplete config."""
        model_type = config.get("model_type")
        if model_type != MODEL_TYPE:
            raise UserError(
                f"{where} is of model_type {model_type!r}, not {MODEL_TYPE!r}: "
                "this package serves Qwen3-Next models only (for example Qwen/Qwen3-Coder-Next)"
            )
        target = cls(config)
        _ = target.kinds
        _check_quantization(config)
        for key in _REQUIRED:
            _positive(config, key)
        return target

    @classmethod
    def from_path(cls, path: Path) -> "Target":
        """The target in a checkpoint folder.

        Raises:
            UserError: no readable `config.json`, or not a Qwen3-Next one.
        """
        return cls.from_config(read_config(path), where=f"the target {path}")

    @cached_property
    def kinds(self) -> tuple[LayerKind, ...]:
        return layer_kinds(self.config)

    @cached_property
    def attention_layers(self) -> tuple[int, ...]:
        return tuple(i for i, kind in enumerate(self.kinds) if kind == "attention")

    @cached_property
    def gdn_layers(self) -> tuple[int, ...]:
        return tuple(i for i, kind in enumerate(self.kinds) if kind == "gdn")

    @property
    def num_layers(self) -> int:
        return len(self.kinds)

    @property
    def hidden_size(self) -> int:
        return int(self.config["hidden_size"])

    @property
    def vocab_size(self) -> int:
        return int(self.config["vocab_size"])

    @property
    def context_length(self) -> int:
        """Tokens, as SGLang derives them. Raises UserError: what they are derived of is no
        number."""
        return rope.context_length(self.config)

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end an answer, as far as the config names them."""
        return end_tokens(self.config)

    @property
    def fp8_block(self) -> tuple[int, int] | None:
        """Rows and columns of a quantization block, or None if the weights are not block FP8."""
        quantization = self.config.get("quantization_config") or {}
        block = quantization.get("weight_block_size")
        if quantization.get("quant_method") != "fp8" or block is None:
            return None
        return int(block[0]), int(block[1])

    def tp_error(self, tp: int) -> str | None:
        """Why the target cannot be split over `tp` ranks, or None if it can.

        The FP8 rule: each rank's slice of the experts' intermediate width must be whole
        quantization blocks (SGLang: "output_partition_size = 64 is not divisible by weight
        quantization block_n = 128" at TP 8).
        """
        for key in ("num_attention_heads", "linear_num_key_heads", "linear_num_value_heads"):
            if int(self.config[key]) % tp:
                return f"{key} = {self.config[key]} is not divisible by TP {tp}"
        kv_heads = int(self.config["num_key_value_heads"])
        if kv_heads % tp and tp % kv_heads:
            return f"num_key_value_heads = {kv_heads} neither divides TP {tp} nor is divided by it"
        for key in ("moe_intermediate_size", "shared_expert_intermediate_size"):
            width = int(self.config[key])
            if width % tp:
                return f"{key} = {width} is not divisible by TP {tp}"
            if self.fp8_block is not None and (width // tp) % self.fp8_block[0]:
                return (
                    f"{key} {width} / TP {tp} = {width // tp} is not divisible by the FP8 "
                    f"block of {self.fp8_block[0]}"
                )
        return None


_REQUIRED = (
    "hidden_size", "vocab_size", "max_position_embeddings", "num_attention_heads",
    "num_key_value_heads", "head_dim", "linear_num_key_heads", "linear_num_value_heads",
    "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "num_experts",
    "moe_intermediate_size", "shared_expert_intermediate_size", "intermediate_size",
)  # fmt: skip


def end_tokens(*configs: Mapping[str, Any]) -> frozenset[int]:
    """All `eos_token_id` of these configs (config.json, generation_config.json): one, a list, or
    none."""
    found: set[int] = set()
    for config in configs:
        ids = config.get("eos_token_id")
        found.update(one for one in (ids if isinstance(ids, list) else [ids]) if type(one) is int)
    return frozenset(found)


def _check_quantization(config: Mapping[str, Any]) -> None:
    """Of what is read here and by SGLang's FP8 method."""
    found = config.get("quantization_config")
    if not found:
        return
    what = "the target's quantization_config"
    if not isinstance(found, Mapping):
        raise UserError(f"{what} is {reprlib.repr(found)}: an object is needed")
    block = found.get("weight_block_size")
    sizes = block if isinstance(block, list) else []
    if block is not None and (len(sizes) != 2 or not all(map(_is_positive, sizes))):
        raise UserError(
            f"{what} says weight_block_size = {reprlib.repr(block)}: rows and columns of a block, "
            "for example [128, 128]"
        )
    kept = found.get("modules_to_not_convert")
    if kept and not (isinstance(kept, list) and all(isinstance(name, str) for name in kept)):
        raise UserError(
            f"{what} says modules_to_not_convert = {reprlib.repr(kept)}: a list of names is needed"
        )


def read_config(path: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint folder.

    Raises:
        UserError: the folder or the file is not there, or it is not a JSON object.
    """
    file = path / "config.json"
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: give a checkpoint folder or a hub name")
    if not file.is_file():
        raise UserError(f"{path} has no config.json: it is not a checkpoint folder")
    content = file.read_bytes()
    check_present(str(file), content)
    try:
        config = parse_json(content)
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} holds no JSON object")
    return config


def _positive(config: Mapping[str, Any], key: str) -> int:
    value: Any = config.get(key)
    if not _is_positive(value):
        raise UserError(
            f"the target's config.json says {key} = {reprlib.repr(value)}: a positive whole number"
        )
    number: int = value
    return number


def _is_positive(value: object) -> bool:
    return type(value) is int and value > 0
