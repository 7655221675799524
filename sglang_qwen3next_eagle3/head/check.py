"""What an EAGLE3 head must be for SGLang 0.5.17 to draft with it, as findings with a remedy each.

SGLang loads nearly anything as a head (models/llama_eagle3.py): it skips tensors whose names it
does not know, keeps random weights for those that are missing, and fills absent config keys with
those of Llama 7B. An error here is what would keep the server from starting, or make it serve and
accept nothing.
"""

from collections.abc import Iterator, Sequence

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.findings import Finding, error, note, warning
from sglang_qwen3next_eagle3.head import formats
from sglang_qwen3next_eagle3.head.head import Head, is_eagle1
from sglang_qwen3next_eagle3.model.target import Target

REQUIRED = (
    "hidden_size", "vocab_size", "num_attention_heads", "intermediate_size", "num_hidden_layers",
)  # fmt: skip
OTHER_TARGET = "it belongs to another target", "give the head that was trained for this target"
MODEL_TYPES = ("llama", "qwen2", "qwen3", "mistral")
"""That transformers reads the same keys of; what a head leaves out is each one's own default."""
FLOATS = {"F32", "F16", "BF16"}
UNUSED = {"t2d", "embed_tokens.weight"}
"""Of the published names, those that SGLang does not read."""
EXPORT_AGAIN = "export it again (`specforge export --to sglang`)"


def findings(head: Head, target: Target) -> list[Finding]:
    """All findings about a head's config and tensors; its auxiliary layers have their own."""
    found = list(_config(head))
    if found:
        return found
    found += _target(head, target)
    found += _architecture(head)
    of_tensors = list(_tensors(head))
    found += of_tensors
    if not any(finding.level == "error" for finding in of_tensors):
        found += _states(head)
    found += _vocabulary(head, target)
    found += _traps(head, target)
    return found


def check(head: Head, target: Target) -> None:
    """Refuse a head that SGLang would load wrongly, or that belongs to another target.

    Raises:
        UserError: the first error among the findings, and the way out.
    """
    for finding in findings(head, target):
        if finding.level == "error":
            raise UserError(f"the head {head.path}: {finding}")


def check_config(head: Head, target: Target) -> None:
    """The same of its config alone, while its weights are not there.

    Raises:
        UserError: as `check`.
    """
    for finding in [*_config(head), *_target(head, target), *_architecture(head)]:
        if finding.level == "error":
            raise UserError(f"the head {head.path}: {finding}")


def check_alone(head: Head) -> None:
    """The same without a target.

    Raises:
        UserError: as `check`.
    """
    found = list(_config(head))
    if not found:
        found += [*_architecture(head), *_tensors(head)]
    if not any(finding.level == "error" for finding in found):
        found += _states(head)
    for finding in found:
        if finding.level == "error":
            raise UserError(f"the head {head.path}: {finding}")


def _config(head: Head) -> Iterator[Finding]:
    kind = head.config.get("model_type")
    if kind not in MODEL_TYPES:
        told = "has no model_type" if kind is None else f"says model_type {kind!r}"
        yield error(
            "model-type",
            f"its config.json {told}, and SGLang's server would end on it or read it by the "
            "defaults of another model",
            'set "model_type": "llama", the network that SGLang builds for it',
        )
    for key in REQUIRED:
        if not isinstance(head.config.get(key), int):
            yield error(
                "config-key",
                f"its config.json has no {key}, and SGLang would take Llama 7B's",
                f"add {key}",
            )
    if "draft_vocab_size" not in head.config and not head.config.get("tie_word_embeddings"):
        rows = head.tensors.get("lm_head.weight")
        yield error(
            "config-key",
            "its config.json has no draft_vocab_size, without which SGLang cannot build it",
            f"add draft_vocab_size{f' {rows.shape[0]}' if rows else ''}",
        )


def _target(head: Head, target: Target) -> Iterator[Finding]:
    other, remedy = OTHER_TARGET
    if head.target_hidden_size != target.hidden_size:
        yield error(
            "target",
            f"it reads states of width {head.target_hidden_size}, the target's are "
            f"{target.hidden_size} wide: {other}",
            remedy,
        )
    if head.config["vocab_size"] != target.vocab_size:
        yield error(
            "target",
            f"it has a vocabulary of {head.config['vocab_size']}, the target one of "
            f"{target.vocab_size}: {other}",
            remedy,
        )


def _architecture(head: Head) -> Iterator[Finding]:
    config = head.config
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        yield error(
            "architecture",
            f"hidden_act is {activation!r}, SGLang's head knows silu only",
            "train it with silu",
        )
    if config.get("tie_word_embeddings") and (
        head.draft_vocab_size != config["vocab_size"] or "lm_head.weight" in head.tensors
    ):
        yield error(
            "tie-word-embeddings",
            "tie_word_embeddings is true: SGLang would draft with the target's embedding in place "
            "of the head's own lm_head",
            "set it to false in its config.json",
        )
    missing = formats.unservable(config, head.tensors)
    if missing is not None:
        yield error(
            "architecture",
            f"{missing}: SGLang would draft with another network than was trained",
            "train it for SGLang's network, or serve it where it was made for",
        )
    if config.get("model_type") != "llama" and not config.get("head_dim"):
        yield error("config-key", "its config.json has no head_dim", "add head_dim")
    if head.eagle_config.get("use_aux_hidden_state") is False:
        yield error(
            "use-aux-hidden-state",
            "eagle_config.use_aux_hidden_state is false, so SGLang would capture nothing",
            "set it to true in its config.json",
        )
    if "norm_output" in config:
        yield warning(
            "norm-output",
            "norm_output is set, which SGLang reads as 'feed the next draft the normed state' and "
            "SpecForge as 'apply the final norm before lm_head'",
            "remove the key unless the trainer meant it as SGLang does",
        )


def _states(head: Head) -> Iterator[Finding]:
    if head.declared_aux_count != head.aux_count:
        yield error(
            "aux-count",
            f"its fc takes {head.aux_count} states, its config.json says {head.declared_aux_count}",
            f"set num_aux_hidden_states to {head.aux_count}",
        )


def _traps(head: Head, target: Target) -> Iterator[Finding]:
    if head.context_length < target.context_length:
        yield warning(
            "context",
            f"it declares a context of {head.context_length}, the target has "
            f"{target.context_length}: plain SGLang refuses to start with it",
            "`launch` sets SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 (positions are rotary); "
            f"or set max_position_embeddings to {target.context_length} in its config.json",
        )
    rope = head.config.get("rope_parameters") or head.config
    if rope.get("rope_theta") is None:
        yield warning(
            "rope",
            "its config.json has no rope_theta, SGLang takes 10000",
            "add the one that it was trained with",
        )
    if head.config.get("quantization_config"):
        yield warning(
            "quantization",
            "its config.json has a quantization_config, its tensors are not quantized",
            "remove the key",
        )
        return
    yield note(
        "quantization",
        "an explicit --quantization for the target would quantize the head too",
        "`launch` then adds --speculative-draft-model-quantization unquant",
    )


def _tensors(head: Head) -> Iterator[Finding]:
    """Names, shapes and dtypes. The config must have been found complete."""
    if is_eagle1(head.tensors):
        yield error(
            "eagle1",
            "its config.json says EAGLE3, its tensors are an EAGLE-1 head's (fc takes the "
            "embedding and one state)",
            "serve it with SGLang's --speculative-algorithm EAGLE, or give an EAGLE3 head",
        )
        return
    expected = head.expected_tensors()
    missing = [name for name in expected if name not in head.tensors]
    if missing:
        yield error(
            "tensor-missing",
            f"it lacks {_count(missing)}, and SGLang would draft with random ones",
            EXPORT_AGAIN,
        )
    for name, shape in expected.items():
        info = head.tensors.get(name)
        if info is None:
            continue
        if info.shape != shape:
            yield _shape(head, name, info.shape, shape)
        if name != "d2t" and info.dtype not in FLOATS:
            yield error(
                "tensor-dtype",
                f"{name} is stored as {info.dtype}, SGLang takes a head's numbers as they stand",
                "export it in BF16",
            )
    unknown = [name for name in head.tensors if name not in expected and name not in UNUSED]
    if unknown:
        yield warning(
            "tensor-unknown",
            f"SGLang does not know and skips {_count(unknown)}",
            "a head that was trained with them will not draft as trained",
        )
    embedding = head.tensors.get("embed_tokens.weight")
    if embedding is not None and "embed_tokens.weight" not in expected:
        yield note(
            "embedding",
            f"its own embedding ({embedding.bytes / 2**20:.1f} MiB) is not used, the target's is "
            "shared",
        )


def _vocabulary(head: Head, target: Target) -> Iterator[Finding]:
    """d2t, t2d, and what of the target's vocabulary cannot be drafted."""
    stored, vocab = head.tensors.get("d2t"), int(head.config["vocab_size"])
    if stored is None:
        return
    if head.vocabulary is None:
        yield error(
            "d2t", f"d2t is stored as {stored.dtype}, not as whole numbers", "store it as int64"
        )
        return
    offsets, ids = head.vocabulary.offsets, head.vocabulary.target_ids
    known = head.vocabulary.known
    listed = None if known is None else [token for token, has in enumerate(known) if has]
    if listed is not None and list(offsets) == listed != list(ids):
        yield error(
            "d2t",
            "d2t holds the target's token ids, SGLang expects offsets (id minus index)",
            "subtract torch.arange(len(d2t)) from it",
        )
        return
    outside = [i for i, token in enumerate(ids) if not 0 <= token < vocab]
    if outside:
        yield error(
            "d2t",
            f"d2t maps {len(outside)} draft tokens out of the vocabulary of {vocab}, first draft "
            f"token {outside[0]} to {ids[outside[0]]}",
            EXPORT_AGAIN,
        )
        return
    if len(set(ids)) < len(ids):
        yield warning(
            "d2t",
            f"d2t maps {len(ids) - len(set(ids))} draft tokens to a token that another one has",
            EXPORT_AGAIN,
        )
    if listed is not None and set(listed) != set(ids):
        yield warning(
            "t2d",
            f"d2t and t2d disagree about {len(set(listed) ^ set(ids))} tokens; SGLang reads d2t",
            "make sure that both are of one training run",
        )
    absent = sorted(target.end_tokens - set(ids))
    if absent:
        yield warning(
            "end-of-text",
            f"its draft vocabulary lacks the target's end of text ({', '.join(map(str, absent))}), "
            "so that the end of an answer is never drafted",
            "build the draft vocabulary with the special tokens in it",
        )


def _shape(head: Head, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> Finding:
    text = f"{name} is {_dims(found)}, its config.json and the target ask for {_dims(wanted)}"
    if name in {"lm_head.weight", "d2t"} and found[1:] == wanted[1:]:
        return error(
            "draft-vocab-size",
            f"{text}: its config.json says draft_vocab_size {head.draft_vocab_size}",
            f"set draft_vocab_size to {found[0]}",
        )
    if len(found) == 2 and found == wanted[::-1]:
        return error("tensor-transposed", f"{text}: it is transposed", "store its transpose")
    return error("tensor-shape", text, EXPORT_AGAIN)


def _count(names: Sequence[str]) -> str:
    noun = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {noun}, {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"


def _dims(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
