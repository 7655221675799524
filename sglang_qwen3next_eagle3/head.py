"""What an EAGLE3 head is: its config and its tensors, checked without reading the weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.errors import UserError
from sglang_qwen3next_eagle3.target import Target, read_config

ARCHITECTURE = "LlamaForCausalLMEagle3"


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype (as safetensors spells it: BF16, F32, I64, ...) of a stored tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Head:
    """An EAGLE3 head in a checkpoint folder: its config and the names, shapes and dtypes in it."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def from_path(cls, path: Path) -> "Head":
        """Read `config.json` and the safetensors headers of a folder.

        Raises:
            UserError: not an EAGLE3 head, or no readable safetensors file.
        """
        config = read_config(path)
        architectures = config.get("architectures") or []
        if ARCHITECTURE not in architectures:
            raise UserError(
                f"{path} is not an EAGLE3 head: its config.json names {architectures}, "
                f"expected {ARCHITECTURE}"
            )
        return cls(path, config, read_headers(path))

    @property
    def layer_ids(self) -> list[Any] | None:
        """`eagle_aux_hidden_state_layer_ids` of its eagle_config, or None."""
        ids = self._eagle_config.get("eagle_aux_hidden_state_layer_ids")
        return list(ids) if ids else None

    @property
    def context_length(self) -> int:
        return int(self.config.get("max_position_embeddings") or 2048)

    @property
    def hidden_size(self) -> int:
        return int(self.config["hidden_size"])

    @property
    def num_layers(self) -> int:
        return int(self.config.get("num_hidden_layers") or 1)

    @property
    def head_dim(self) -> int:
        return int(
            self.config.get("head_dim") or self.hidden_size // self.config["num_attention_heads"]
        )

    @property
    def target_hidden_size(self) -> int:
        return int(self.config.get("target_hidden_size") or self.hidden_size)

    @cached_property
    def aux_count(self) -> int:
        """How many auxiliary states fc takes: its input width over the target's hidden size."""
        return self.tensors["fc.weight"].shape[1] // self.target_hidden_size

    @property
    def draft_vocab_size(self) -> int:
        return int(self.config.get("draft_vocab_size") or self.config["vocab_size"])

    @property
    def _eagle_config(self) -> Mapping[str, Any]:
        return self.config.get("eagle_config") or {}

    @property
    def declared_aux_count(self) -> int:
        """How many states SGLang will build fc for: `num_aux_hidden_states`, else ids, else 3."""
        declared = self.config.get("num_aux_hidden_states")
        return int(declared) if declared else len(self.layer_ids or ()) or 3

    def check(self, target: Target) -> None:
        """Refuse a head that SGLang would load wrongly, or that belongs to another target.

        SGLang skips tensors whose names it does not know and keeps random weights for those that
        are missing, so nothing but this check tells.

        Raises:
            UserError: the first thing that does not fit, and the way out.
        """
        for key in ("hidden_size", "vocab_size", "num_attention_heads", "intermediate_size"):
            if not isinstance(self.config.get(key), int):
                raise UserError(f"the head {self.path}: its config.json has no {key}")
        if self.target_hidden_size != target.hidden_size:
            raise UserError(
                f"the head {self.path} reads states of width {self.target_hidden_size}, "
                f"the target's are {target.hidden_size} wide: it belongs to another target"
            )
        if self.config["vocab_size"] != target.vocab_size:
            raise UserError(
                f"the head {self.path} has a vocabulary of {self.config['vocab_size']}, "
                f"the target one of {target.vocab_size}: it belongs to another target"
            )
        if self.config.get("tie_word_embeddings") and self.draft_vocab_size != target.vocab_size:
            raise UserError(
                f"the head {self.path}: tie_word_embeddings is true, but its draft vocabulary is "
                "smaller than the target's: set it to false in its config.json"
            )
        if self._eagle_config.get("use_aux_hidden_state") is False:
            raise UserError(
                f"the head {self.path}: eagle_config.use_aux_hidden_state is false, so SGLang "
                "would capture nothing: set it to true in its config.json"
            )
        self._check_tensors()
        if self.declared_aux_count != self.aux_count:
            raise UserError(
                f"the head {self.path}: its fc takes {self.aux_count} states, its config.json says "
                f"{self.declared_aux_count}: set num_aux_hidden_states to {self.aux_count}"
            )

    def _check_tensors(self) -> None:
        expected = self.expected_tensors()
        missing = [name for name in expected if name not in self.tensors]
        if missing:
            raise UserError(
                f"the head {self.path} lacks {len(missing)} tensors, first {missing[0]}: "
                "export it again (`specforge export --to sglang`)"
            )
        for name, shape in expected.items():
            found = self.tensors[name].shape
            if found != shape:
                raise UserError(
                    f"the head {self.path}: {name} is {_dims(found)}, its config.json and the "
                    f"target ask for {_dims(shape)}"
                )

    def expected_tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes that a head of this config must have (norms, d2t and lm_head included).

        The count of states is fc's own, so that a wrong count is reported as such.
        """
        c = self.config
        hidden, target_hidden = self.hidden_size, self.target_hidden_size
        heads = int(c["num_attention_heads"])
        kv_heads = int(c.get("num_key_value_heads") or heads)
        width = self.head_dim
        intermediate, vocab = int(c["intermediate_size"]), self.draft_vocab_size
        fc = self.tensors.get("fc.weight", TensorInfo((0, 0), ""))
        states = max(1, round(fc.shape[1] / target_hidden)) if len(fc.shape) == 2 else 3
        shapes: dict[str, tuple[int, ...]] = {"fc.weight": (hidden, states * target_hidden)}
        for layer in range(self.num_layers):
            prefix = "midlayer" if layer == 0 else f"layers.{layer}"
            # The first layer reads the token's embedding and the state side by side.
            into = 2 * hidden if layer == 0 else hidden
            shapes |= {
                f"{prefix}.self_attn.q_proj.weight": (heads * width, into),
                f"{prefix}.self_attn.k_proj.weight": (kv_heads * width, into),
                f"{prefix}.self_attn.v_proj.weight": (kv_heads * width, into),
                f"{prefix}.self_attn.o_proj.weight": (hidden, heads * width),
                f"{prefix}.mlp.gate_proj.weight": (intermediate, hidden),
                f"{prefix}.mlp.up_proj.weight": (intermediate, hidden),
                f"{prefix}.mlp.down_proj.weight": (hidden, intermediate),
                f"{prefix}.hidden_norm.weight": (hidden,),
                f"{prefix}.post_attention_layernorm.weight": (hidden,),
            }
            if layer == 0:
                shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes["norm.weight"] = (hidden,)
        if c.get("draft_vocab_size") and not c.get("tie_word_embeddings"):
            shapes["lm_head.weight"] = (vocab, hidden)
        if vocab != c["vocab_size"]:
            shapes["d2t"] = (vocab,)
        return shapes


def read_headers(path: Path) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of all tensors in the folder's safetensors files.

    Names are normalised to the published ones: without `model.`, the first layer as `midlayer`.

    Raises:
        UserError: no safetensors file, or one that is damaged.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(path.glob("*.safetensors"))
    if not files:
        other = [f.name for f in sorted(path.iterdir()) if f.suffix in {".bin", ".pt", ".pth"}]
        found = f" (it has {other[0]}: convert it to safetensors)" if other else ""
        raise UserError(f"{path} has no .safetensors file{found}")
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        try:
            with safe_open(file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118
                    part = opened.get_slice(name)
                    info = TensorInfo(tuple(part.get_shape()), str(part.get_dtype()))
                    tensors[normalise(name)] = info
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file} is not a whole safetensors file ({error}): download or export it again"
            ) from None
    return tensors


_LEGACY = {"aux_norm_low": "fc_norm.0", "aux_norm_mid": "fc_norm.1", "aux_norm_high": "fc_norm.2"}


def normalise(name: str) -> str:
    """The published name of a tensor under any of the names that SGLang takes it by.

    Without `model.`, the first layer as `midlayer`; `model.lm_head` is not a name SGLang knows.
    """
    if not name.startswith("model.lm_head"):
        name = name.removeprefix("model.")
    for legacy, current in _LEGACY.items():
        name = name.replace(legacy, current)
    return f"midlayer{name.removeprefix('layers.0')}" if name.startswith("layers.0.") else name


def _dims(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
