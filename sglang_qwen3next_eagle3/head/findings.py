"""What is wrong with an EAGLE3 head, or worth knowing: one finding each, with its remedy.

SGLang 0.5.17 loads nearly anything as a head: it skips tensors whose names it does not know, keeps
random weights for those that are missing, and fills absent config keys with those of Llama 7B. An
error here is what would keep the server from starting, or make it serve and accept nothing.
"""

from collections.abc import Iterator

from sglang_qwen3next_eagle3.base.findings import Finding, error, note, warning
from sglang_qwen3next_eagle3.head import contract
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model.target import Target

REQUIRED = (
    "hidden_size", "vocab_size", "num_attention_heads", "intermediate_size", "num_hidden_layers",
)  # fmt: skip
OTHER_TARGET = "it belongs to another target", "give the head that was trained for this target"


def of(head: Head, target: Target) -> list[Finding]:
    """All findings about a head's config and tensors; its auxiliary layers have their own."""
    found = list(_config(head))
    if found:
        return found
    found += _target(head, target)
    found += _architecture(head)
    tensors = list(contract.tensors(head))
    found += tensors
    if not any(finding.level == "error" for finding in tensors):
        found += _states(head)
    found += contract.vocabulary(head, target)
    found += _traps(head, target)
    return found


def _config(head: Head) -> Iterator[Finding]:
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
    if "rope_theta" not in (head.config.get("rope_parameters") or head.config):
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
