"""What an EAGLE3 head is: its config and its tensors, read without reading the weights."""

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import files as head_files
from sglang_qwen3next_eagle3.head import formats
from sglang_qwen3next_eagle3.head.files import Files, Folder, normalise
from sglang_qwen3next_eagle3.model import rope, shards
from sglang_qwen3next_eagle3.model.safetensors_header import ITEM_BYTES, Stored

CONVERT = "sglang-qwen3next-eagle3 head convert"
AUX_LAYERS_KEY = "qwen3next_eagle3_aux_layers"
"""Where a head's config spells a selection that output ids cannot express."""
_INTEGERS = {"I64": "q", "I32": "i"}


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype (as safetensors spells it: BF16, F32, I64, ...) of a stored tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * ITEM_BYTES.get(self.dtype, 1)


@dataclass(frozen=True)
class DraftVocabulary:
    """The two small tensors that map draft tokens to the target's.

    offsets: `d2t`, [draft_vocab]: token i of the draft is token i + offsets[i] of the target.
    known: `t2d`, [vocab]: whether the draft has a token; None where the file has no t2d, which
        SGLang does not read.
    """

    offsets: tuple[int, ...]
    known: tuple[bool, ...] | None

    @cached_property
    def target_ids(self) -> tuple[int, ...]:
        return tuple(i + offset for i, offset in enumerate(self.offsets))


@dataclass(frozen=True)
class Head:
    """An EAGLE3 head: its config, and the names, shapes and dtypes of its tensors.

    path: the checkpoint's folder, or its name on the hub.
    tensors: by their published names, whatever the file calls them.
    vocabulary: None where the file has no d2t (or one that is not made of integers).
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    vocabulary: DraftVocabulary | None = None

    @classmethod
    def from_path(cls, path: Path) -> "Head":
        """Read `config.json`, the safetensors headers, d2t and t2d of a folder.

        Raises:
            UserError: not an EAGLE3 head, or no readable safetensors file.
        """
        return cls.from_files(Folder(path))

    @classmethod
    def from_files(cls, files: Files, *, whole: bool = True) -> "Head":
        """As `from_path`, from wherever the files are.

        whole: False also takes a config whose weights are not there yet, as a head without tensors.
        """
        config = files.config()
        formats.check_types(config, files.name)
        if formats.recognise(config) is not formats.SGLANG:
            raise _not_eagle3(files, config)
        if not whole and not head_files.has_weights(files):
            return cls(Path(files.name), config, {})
        found = shards.headers(files)
        tensors = {
            normalise(name): TensorInfo(place.shape, place.dtype)
            for name, (_, place) in found.items()
        }
        return cls(Path(files.name), config, tensors, _vocabulary(files, found))

    @property
    def layer_ids(self) -> list[Any] | None:
        """`eagle_aux_hidden_state_layer_ids` of its eagle_config, or None."""
        ids = self.eagle_config.get("eagle_aux_hidden_state_layer_ids")
        return list(ids) if ids else None

    @property
    def unread_layer_ids(self) -> list[Any] | None:
        """The same at the top level of its config, where SGLang does not read them; None where it
        reads others."""
        ids = None if self.layer_ids else self.config.get(formats.IDS)
        return list(ids) if ids else None

    @property
    def spelled_layers(self) -> str | None:
        """The selection under our own key, as `aux_layers.parse` reads it, or None."""
        spelled = self.config.get(AUX_LAYERS_KEY)
        return None if spelled is None else str(spelled)

    @property
    def context_length(self) -> int:
        return rope.head_context_length(self.config)

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
        return self.tensors["fc.weight"].shape[-1] // self.target_hidden_size

    @property
    def draft_vocab_size(self) -> int:
        return int(self.config.get("draft_vocab_size") or self.config["vocab_size"])

    @property
    def eagle_config(self) -> Mapping[str, Any]:
        return self.config.get("eagle_config") or {}

    @property
    def declared_aux_count(self) -> int:
        """How many states SGLang will build fc for: `num_aux_hidden_states`, else ids, else 3."""
        declared = self.config.get("num_aux_hidden_states")
        return int(declared) if declared else len(self.layer_ids or ()) or 3

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
        if c.get("bias"):
            shapes["fc.bias"] = (hidden,)
        if self.eagle_config.get("norm_before_fc", c.get("norm_before_fc")):
            shapes["input_norm.weight"] = (states * target_hidden,)
        if c.get("fc_norm") or c.get("use_aux_norm"):
            shapes |= {f"fc_norm.{i}.weight": (target_hidden,) for i in range(states)}
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
            if c.get("attention_bias") or c.get("bias"):
                shapes[f"{prefix}.self_attn.o_proj.bias"] = (hidden,)
            if layer == 0:
                shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes["norm.weight"] = (hidden,)
        if target_hidden != hidden:
            # SGLang shares the target's embedding only where the widths agree.
            shapes["embed_tokens.weight"] = (int(c["vocab_size"]), hidden)
        if c.get("draft_vocab_size") and not c.get("tie_word_embeddings"):
            shapes["lm_head.weight"] = (vocab, hidden)
        if vocab != c["vocab_size"]:
            shapes["d2t"] = (vocab,)
        return shapes


def is_eagle1(tensors: Mapping[str, TensorInfo]) -> bool:
    """An EAGLE-1 or EAGLE-2 head: fc takes the embedding and one state, attention fc's result."""
    fc, query = tensors.get("fc.weight"), tensors.get("midlayer.self_attn.q_proj.weight")
    if fc is None or query is None or not len(fc.shape) == len(query.shape) == 2:
        return False
    hidden = fc.shape[0]
    return fc.shape[1] == 2 * hidden and query.shape[1] == hidden


def _not_eagle3(files: Files, config: Mapping[str, Any]) -> UserError:
    architectures = config.get("architectures") or []
    try:
        found = shards.headers(files)
    except UserError:
        found = {}
    tensors = {normalise(n): TensorInfo(p.shape, p.dtype) for n, (_, p) in found.items()}
    if "LlamaForCausalLMEagle" in architectures or is_eagle1(tensors):
        return UserError(
            f"{files.name} is an EAGLE-1 head, it reads one hidden state: serve it with SGLang's "
            "--speculative-algorithm EAGLE, or give an EAGLE3 head"
        )
    kind, missing = formats.recognise(config, found), formats.unservable(config, found)
    if missing is not None:
        known = f" ({kind.name})" if kind else ""
        return UserError(f"{files.name}{known} is a head that SGLang cannot serve: {missing}")
    if kind is not None:
        return UserError(
            f"{files.name}: the form of this head is {kind.name}, which SGLang does not read: "
            f"convert it with `{CONVERT} {files.name} OUT`"
        )
    return UserError(
        f"{files.name} is not an EAGLE3 head: its config.json names {architectures}, "
        f"expected {formats.ARCHITECTURE}"
    )


def _vocabulary(files: Files, found: Mapping[str, tuple[str, Stored]]) -> DraftVocabulary | None:
    if "d2t" not in found or found["d2t"][1].dtype not in _INTEGERS:
        return None
    file, place = found["d2t"]
    offsets = array(_INTEGERS[place.dtype], files.read(file, place.start, place.stop))
    known = None
    if "t2d" in found and found["t2d"][1].dtype in {"BOOL", "U8"}:
        file, place = found["t2d"]
        known = tuple(map(bool, files.read(file, place.start, place.stop)))
    return DraftVocabulary(tuple(offsets), known)
