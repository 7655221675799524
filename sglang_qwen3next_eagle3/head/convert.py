"""`head convert`: a head in another form, as SGLang reads it, where only names differ.

Weights are copied byte by byte under other names (a fused projection in its parts), the config is
written as SGLang reads it, with sizes from the tensors themselves. A head whose network SGLang has
no code for is refused: no renaming makes it draft as it was trained (head/formats.py).
"""

import re
import tempfile
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base import files as base_files
from sglang_qwen3next_eagle3.base import provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.redact import without_paths
from sglang_qwen3next_eagle3.head import check, formats
from sglang_qwen3next_eagle3.head.files import Folder, content_hash, normalise
from sglang_qwen3next_eagle3.head.formats import HeadFormat, Tap
from sglang_qwen3next_eagle3.head.head import AUX_LAYERS_KEY, DraftVocabulary, Head, TensorInfo
from sglang_qwen3next_eagle3.head.parts import (
    TOKEN_MAPS,
    Part,
    integers,
    listed,
    made_of,
    split_fused,
    stored_parts,
    token_map,
    write_weights,
)

if TYPE_CHECKING:
    from rich.console import Console

WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"
# What speculators leaves out of `transformer_layer_config` where it is as in transformers'
# LlamaConfig: it writes differences only.
_LLAMA: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip
_OF_OTHERS = {
    "architectures", "auto_map", "model_type", "_name_or_path", "_attn_implementation",
    "attn_implementation", "speculators_model_type", "speculators_config", "speculators_version",
    "transformer_layer_config", "norm_before_residual", "norm_before_fc", "embed_requires_grad",
    "truncated_vocab_size", "has_no_defaults_at_init", "layer_types", "quantization_config",
    formats.IDS,
}  # fmt: skip
_UNUSED = ("verifier_norm.", "verifier_lm_head.", "rotary_emb.")
_LATER_LAYER = re.compile(r"layers\.([1-9]\d*)\.input_layernorm\.weight")


@dataclass(frozen=True)
class Conversion:
    """What becomes of a head. dropped: tensors, with the reason; notes: for people."""

    source: str
    weights: str | None
    format: HeadFormat
    config: Mapping[str, Any]
    before: Mapping[str, Any]
    parts: tuple[Part, ...]
    dropped: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def renamed(self) -> dict[str, str]:
        """By its new name: what a tensor is called in the source, where the two differ."""
        return {part.name: part.origin for part in self.parts if part.name != part.origin}

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """By key of the config: the value that it had and has; None where it is absent."""
        keys = sorted({*self.before, *self.config})
        pairs = {key: (self.before.get(key), self.config.get(key)) for key in keys}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def summary(self) -> dict[str, Any]:
        """For scripts, and for the provenance of what is written."""
        return {
            "source": self.source,
            "format": self.format.name,
            "renamed": self.renamed,
            "dropped": dict(self.dropped),
            "config": {key: {"was": was, "is": now} for key, (was, now) in self.changed.items()},
            "notes": list(self.notes),
        }


def plan(folder: Path, name: str, layers: Tap | None = None) -> Conversion:
    """What is to be written for the head in `folder`.

    name: of the source, for people. layers: what its layer ids count, where its form does not say.

    Raises:
        UserError: no EAGLE3 head, one of another network, or one that SGLang reads as it is.
    """
    files = Folder(folder)
    config = files.config()
    formats.check_types(config, name)
    safetensors = any(file.endswith(".safetensors") for file in files.sizes)
    stored = stored_parts(files)
    tensors = {part.origin: part for part in stored}
    kind = formats.recognise(config, tensors)
    missing = formats.unservable(config, tensors)
    if kind is None:
        why = missing or f"its config.json names {config.get('architectures') or 'no architecture'}"
        raise UserError(f"{name} is no EAGLE3 head that can be converted: {why}")
    if missing is not None:
        raise UserError(
            f"{name} ({kind.name}) cannot be converted: {missing}; train one for SGLang, or serve "
            "it where it was made for"
        )
    notes: list[str] = []
    flat = _flat(config, kind)
    kept, dropped = _renamed(stored, flat, name)
    parts = _vocabulary(files, kept, flat, notes, name)
    written = _config(flat, parts, name)
    _name_layers(written, config, kind, layers, notes, name)
    made = Conversion(
        source=name,
        weights=content_hash(files) if safetensors else None,
        format=kind,
        config=written,
        before=config,
        parts=tuple(parts.values()),
        dropped=dropped,
        notes=tuple(notes),
    )
    mapped = parts.get("d2t") is kept.get("d2t")
    if kind is formats.SGLANG and mapped and not _differs(made):
        raise UserError(f"{name} is in SGLang's form already: serve it as it is")
    check.check_alone(_as_head(made))
    return made


def write(made: Conversion, out: Path) -> None:
    """The head in the new folder `out`, whole or not at all.

    Raises:
        UserError: something is there already, or it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: name another, nothing is overwritten")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert-") as scratch:
            head = Path(scratch) / "head"
            head.mkdir()
            write_weights(head / WEIGHTS, made.parts)
            base_files.write_json(head / CONFIG, made.config)
            origin = {
                "converted": {
                    provenance.DISTRIBUTION: __version__,
                    "date": provenance.now(),
                    **made.summary(),
                    "source_sha256": made.weights,
                }
            }
            base_files.write_json(head / PROVENANCE, without_paths(origin))
            # Onto an empty folder too.
            head.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error})") from None


def show(made: Conversion, console: "Console") -> None:
    """For people: what a tensor and a key are called and what they become."""
    from rich.markup import escape
    from rich.table import Table

    def table(*titles: str) -> Table:
        made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for title in titles:
            made.add_column(title, overflow="fold")
        return made

    tensors = table("tensor in the source", "becomes")
    for name, origin in sorted(made.renamed.items()):
        tensors.add_row(escape(origin), escape(name))
    for origin, reason in sorted(made.dropped.items()):
        tensors.add_row(escape(origin), f"left out: {escape(reason)}")
    config = table("key of the config", "in the source", "becomes")
    for key, (was, now) in made.changed.items():
        told = formats.shown(now) if key in made.config else "left out"
        config.add_row(
            escape(key), escape(formats.shown(was)) if key in made.before else "", escape(told)
        )
    for one in (tensors, config):
        if one.row_count:
            console.print(one)
    for note in made.notes:
        console.print(f"[cyan]note[/] {escape(note)}", soft_wrap=True)


def _flat(config: Mapping[str, Any], kind: HeadFormat) -> dict[str, Any]:
    """The config's keys on one level, without those that only its own form has."""
    flat = dict(config)
    if kind is formats.SPECULATORS:
        layer = config.get("transformer_layer_config") or {}
        flat = {**_LLAMA, **layer, **{key: v for key, v in config.items() if v is not None}}
        if "rope_theta" not in layer and not layer.get("rope_parameters"):
            flat["rope_theta"] = 10000.0
    kept = {key: value for key, value in flat.items() if key not in _OF_OTHERS}
    eagle = dict(config.get("eagle_config") or {})
    if config.get("norm_before_fc"):
        eagle["norm_before_fc"] = True
    return {**kept, "eagle_config": {**eagle, "use_aux_hidden_state": True}}


def _renamed(
    stored: list[Part], config: Mapping[str, Any], where: str
) -> tuple[dict[str, Part], dict[str, str]]:
    """The parts by the published names, and what is left out."""
    found: dict[str, Part] = {}
    dropped: dict[str, str] = {}
    for part in stored:
        plain = normalise(part.origin.removeprefix("model."))
        if plain.startswith(_UNUSED) or ".rotary_emb." in plain:
            dropped[part.origin] = "not of the head"
            continue
        later = _LATER_LAYER.fullmatch(plain)
        if later:  # SGLang's later layers norm what they read by this name.
            plain = f"layers.{later[1]}.hidden_norm.weight"
        plain = {"draft_id_to_target_id": "d2t"}.get(plain, plain)
        for made in split_fused(part, plain, config, where):
            if made.name in found:
                raise UserError(f"{where} has {made.name} twice: as {found[made.name].origin} too")
            found[made.name] = made
    fc = found.get("fc.weight")
    if fc is None or len(fc.shape) != 2:
        raise UserError(f"{where} has no fc.weight: it is no EAGLE3 head")
    own = found.get("embed_tokens.weight")
    if own is not None and (config.get("target_hidden_size") or fc.shape[0]) == fc.shape[0]:
        dropped[own.origin] = "SGLang drafts with the target's embedding"
        del found["embed_tokens.weight"]
    return found, dropped


def _vocabulary(
    files: Folder, parts: dict[str, Part], config: Mapping[str, Any], notes: list[str], where: str
) -> dict[str, Part]:
    """With d2t as SGLang reads it: the offset of each draft token from its own index."""
    head, vocab = parts.get("lm_head.weight"), config.get("vocab_size")
    if not isinstance(vocab, int):
        raise UserError(f"{where} names no vocab_size in its config.json")
    if head is None:
        if "d2t" in parts or config.get("draft_vocab_size") not in (None, vocab):
            raise UserError(f"{where} has a draft vocabulary and no lm_head.weight for it")
        notes.append("it has no lm_head: SGLang drafts with the target's")
        return parts
    rows = head.shape[0]
    known = listed(parts.get("t2d"))
    stored = parts.get("d2t")
    ids: list[int] | None = None
    if stored is not None:
        offsets = integers(stored, where)
        targets = [i + offset for i, offset in enumerate(offsets)]
        beyond = any(not 0 <= token < vocab for token in targets)
        as_ids = all(0 <= token < vocab for token in offsets)
        if as_ids and (offsets == known != targets or (known is None and beyond)):
            ids = offsets
            notes.append("d2t held the target's token ids, SGLang reads offsets")
        elif stored.dtype != "I64":
            ids = targets
    elif rows != vocab:
        ids = known if known and len(known) == rows else token_map(files)
        if ids is None or len(ids) != rows:
            raise UserError(
                f"{where} drafts {rows} of {vocab} tokens and does not say which: it has no d2t, "
                f"no t2d and no {' or '.join(TOKEN_MAPS)}"
            )
        notes.append("d2t is made of the draft tokens that were listed beside it")
    if ids is None:
        return parts
    content = array("q", [token - i for i, token in enumerate(ids)]).tobytes()
    origin = stored.origin if stored is not None else "t2d" if known else "token map"
    return {**parts, "d2t": made_of("d2t", (len(ids),), "I64", content, origin)}


def _config(flat: Mapping[str, Any], parts: Mapping[str, Part], where: str) -> dict[str, Any]:
    """As SGLang reads it; the sizes are the tensors' own."""
    heads = flat.get("num_attention_heads")
    if not isinstance(heads, int) or heads < 1:
        raise UserError(f"{where} names no num_attention_heads in its config.json")

    def shape(name: str) -> tuple[int, ...]:
        part = parts.get(name)
        if part is None or len(part.shape) != 2:
            raise UserError(f"{where} has no {name}: it is not whole")
        return part.shape

    attention = "midlayer.self_attn"
    hidden, into = shape("fc.weight")
    width = shape(f"{attention}.q_proj.weight")[0] // heads
    target_hidden = flat.get("target_hidden_size") or hidden
    layers = {match[1] for name in parts if (match := re.match(r"layers\.(\d+)\.", name))}
    lm_head = parts.get("lm_head.weight")
    sizes = {
        "architectures": [formats.ARCHITECTURE],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": 1 + len(layers),
        "num_attention_heads": heads,
        "num_key_value_heads": shape(f"{attention}.k_proj.weight")[0] // max(1, width),
        "head_dim": width,
        "intermediate_size": shape("midlayer.mlp.gate_proj.weight")[0],
        "draft_vocab_size": None if lm_head is None else lm_head.shape[0],
        "tie_word_embeddings": False,
        "target_hidden_size": target_hidden,
        "num_aux_hidden_states": into // target_hidden,
    }
    return {**flat, **sizes}


def _name_layers(
    written: dict[str, Any],
    config: Mapping[str, Any],
    kind: HeadFormat,
    layers: Tap | None,
    notes: list[str],
    where: str,
) -> None:
    """Which states it was trained with, as SGLang's ids say it: outputs of layers."""
    nested = (config.get("eagle_config") or {}).get(formats.IDS)
    ids = nested or config.get(formats.IDS)
    eagle = {key: v for key, v in written["eagle_config"].items() if key != formats.IDS}
    written["eagle_config"] = eagle
    if AUX_LAYERS_KEY in config:
        return
    if not ids:
        if kind.default is not None:
            written[AUX_LAYERS_KEY] = kind.default
            notes.append(
                f"it names no layers: what {kind.name} trains with by default is assumed (inputs "
                "of layers 2, half, last but two); `head calibrate` measures it"
            )
        return
    if not all(type(one) is int and one >= 0 for one in ids):
        raise UserError(f"{where}: its {formats.IDS} are {ids!r}, layer numbers are expected")
    # Those of eagle_config are SGLang's own, whoever writes them there.
    read = layers or ("outputs" if nested else None if kind is formats.SGLANG else kind.ids)
    if read is None:
        raise UserError(
            f"{where} names layers {list(ids)} at the top level of its config, where they are "
            "outputs of layers to some and inputs to others: say which with --layers outputs or "
            "--layers inputs"
        )
    if read == "outputs":
        eagle[formats.IDS] = list(ids)
    elif 0 in ids:
        written[AUX_LAYERS_KEY] = f"input:{','.join(map(str, ids))}"
    else:
        eagle[formats.IDS] = [one - 1 for one in ids]
        notes.append(f"its ids {list(ids)} are inputs of layers, SGLang's are outputs: one less")


def _differs(made: Conversion) -> bool:
    """Whether SGLang would read the source as another head than what is written."""
    sglang_reads = {part.name: normalise(part.origin) for part in made.parts}
    keys = set(made.changed) - {"target_hidden_size", "num_aux_hidden_states", "head_dim"}
    same = all(name == origin for name, origin in sglang_reads.items())
    was, now = made.changed.get("eagle_config", (None, None))
    if now is not None and {"use_aux_hidden_state": True, **(was or {})} == now:
        keys -= {"eagle_config"}
    return not same or bool(keys)


def _as_head(made: Conversion) -> Head:
    tensors = {part.name: TensorInfo(part.shape, part.dtype) for part in made.parts}
    d2t = next((part for part in made.parts if part.name == "d2t"), None)
    vocabulary = None
    if d2t is not None:
        vocabulary = DraftVocabulary(tuple(integers(d2t, made.source)), None)
    return Head(Path(made.source), made.config, tensors, vocabulary)
