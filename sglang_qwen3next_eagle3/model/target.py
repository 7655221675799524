"""What a Qwen3-Next target is: layer kinds, sizes and bytes, from its `config.json` alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import weights
from sglang_qwen3next_eagle3.model.weights import LayerKind

MODEL_TYPE = "qwen3_next"
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1}


def layer_kinds(config: Mapping[str, Any]) -> tuple[LayerKind, ...]:
    """The kind of each layer: by `layer_types` where the config has it, else by the interval.

    Raises:
        UserError: neither key is there, or `layer_types` contradicts itself.
    """
    count = _positive(config, "num_hidden_layers")
    types = config.get("layer_types")
    if types is not None:
        names: dict[str, LayerKind] = {"full_attention": "attention", "linear_attention": "gdn"}
        unknown = sorted({str(name) for name in types if name not in names})
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
        return int(self.config["max_position_embeddings"])

    @property
    def fp8_block(self) -> tuple[int, int] | None:
        """Rows and columns of a quantization block, or None if the weights are not block FP8."""
        quantization = self.config.get("quantization_config") or {}
        block = quantization.get("weight_block_size")
        if quantization.get("quant_method") != "fp8" or block is None:
            return None
        return int(block[0]), int(block[1])

    @property
    def dtype(self) -> str:
        """The dtype that the checkpoint's weights are stored in: a key of `DTYPE_BYTES`."""
        if self.fp8_block is not None:
            return "fp8"
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "bfloat16")

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

    def weights(self, tp: int = 1) -> tuple[weights.Weights, ...]:
        """All weights that SGLang loads (the checkpoint's MTP layer is not among them)."""
        return tuple(weights.of(self.config, self.kinds, tp))

    @property
    def parameters(self) -> int:
        """Parameters of the whole model, embedding and lm_head included."""
        return sum(group.elements for group in self.weights())

    def weight_bytes(self, dtype: str | None = None, tp: int = 1) -> int:
        """Bytes of the weights on one rank, in `dtype` (default: the checkpoint's).

        "fp8" means blocks with one fp32 scale each where the checkpoint quantizes, else bf16.
        """
        dtype = dtype or self.dtype
        if dtype not in DTYPE_BYTES:
            raise UserError(f"unknown dtype {dtype!r}: one of {', '.join(DTYPE_BYTES)}")
        total = 0
        for group in self.weights(tp):
            if dtype != "fp8":
                total += group.per_rank * DTYPE_BYTES[dtype]
            elif not group.quantized:
                total += group.per_rank * DTYPE_BYTES["bfloat16"]
            else:
                rows, columns = self.fp8_block or (128, 128)
                total += group.per_rank + group.per_rank // (rows * columns) * 4
        return total

    def gdn_state_bytes(
        self,
        tp: int = 1,
        draft_tokens: int = 0,
        state_dtype: str = "float32",
        conv_dtype: str = "bfloat16",
    ) -> int:
        """Bytes of Gated DeltaNet state that one running request holds on one rank.

        Per GDN layer a recurrent state (value heads, key dim, value dim) and a convolution window
        (channels, kernel - 1); speculation keeps one more of each for every draft token
        (SGLang 0.5.17, mem_cache/memory_pool.py, MambaPool).
        """
        heads = int(self.config["linear_num_value_heads"]) // tp
        recurrent = heads * self._key_head_dim * self._value_head_dim * DTYPE_BYTES[state_dtype]
        window = self._conv_channels // tp * (int(self.config["linear_conv_kernel_dim"]) - 1)
        per_layer = recurrent + window * DTYPE_BYTES[conv_dtype]
        return len(self.gdn_layers) * per_layer * (1 + draft_tokens)

    def kv_bytes_per_token(self, tp: int = 1, dtype: str = "bfloat16") -> int:
        """Bytes of keys and values that one token holds on one rank, over all attention layers."""
        heads = max(1, int(self.config["num_key_value_heads"]) // tp)
        width = heads * int(self.config["head_dim"])
        return len(self.attention_layers) * 2 * width * DTYPE_BYTES[dtype]

    @property
    def _key_head_dim(self) -> int:
        return int(self.config["linear_key_head_dim"])

    @property
    def _value_head_dim(self) -> int:
        return int(self.config["linear_value_head_dim"])

    @property
    def _key_dim(self) -> int:
        return int(self.config["linear_num_key_heads"]) * self._key_head_dim

    @property
    def _value_dim(self) -> int:
        return int(self.config["linear_num_value_heads"]) * self._value_head_dim

    @property
    def _conv_channels(self) -> int:
        return 2 * self._key_dim + self._value_dim


_REQUIRED = (
    "hidden_size", "vocab_size", "max_position_embeddings", "num_attention_heads",
    "num_key_value_heads", "head_dim", "linear_num_key_heads", "linear_num_value_heads",
    "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "num_experts",
    "moe_intermediate_size", "shared_expert_intermediate_size", "intermediate_size",
)  # fmt: skip


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
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} holds no JSON object")
    return config


def _positive(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UserError(f"the target's config.json says {key} = {value!r}: a positive whole number")
    return value
