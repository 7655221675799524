"""What a request may ask for, checked before it can reach a batch.

SGLang's scheduler takes the fields of a request as they come. A token id that the target does not
have, a `top_k` that does not fit an int32 or a field of another type raises in the middle of a
batch, and with the scheduler the whole server ends. The checks here are made where a request is
tokenized, which answers with 400, and once more where the scheduler takes it over, because the
plugin is not loaded in additional tokenizer processes.
"""

import importlib
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy

from sglang_qwen3next_eagle3.overlay.requests import grammars
from sglang_qwen3next_eagle3.overlay.requests.bounds import Bounds

MOST_TOP_LOGPROBS = 1024
"""The largest number of alternatives per token; beyond it the answer is too large to handle."""

_UNCHECKED = {"input_ids", "input_embeds", "mm_inputs", "mm_data_mooncake", "time_stats"}
_INT64 = range(-(2**63), 2**63)
_PARSER: Any = importlib.import_module("re._parser")
"""Of regular expressions; none of `re`'s public names."""


@dataclass(frozen=True)
class Limits:
    """What this server can take.

    vocab_size: of the target's embedding.
    speculative: whether drafts are verified.
    eagle3: whether the target's captured streams stand where its hidden states would.
    multi_item_scoring: `--enable-mis`; grammar_backend: `--grammar-backend`.
    bounds: what one request may ask for.
    """

    vocab_size: int
    speculative: bool = False
    eagle3: bool = False
    multi_item_scoring: bool = False
    grammar_backend: str = "xgrammar"
    bounds: Bounds = field(default_factory=Bounds)


def refusal(request: Any, limits: Limits) -> str | None:
    """Why a tokenized request cannot be served, in one sentence, or None if it can.

    request: SGLang's `TokenizedGenerateReqInput`; nothing of it is changed.
    """
    for check in (_types, _prompt, _logprobs, _sampling, _combinations):
        for reason in check(request, limits):
            return reason
    return None


def adjust(request: Any, limits: Limits) -> None:
    """Put values that mean the same into the range that SGLang's tensors hold, in place.

    A `top_k` of at least the vocabulary takes every token, which SGLang spells 2**30. An answer
    without a limit of its own gets the server's.
    """
    sampling = request.sampling_params
    if sampling.max_new_tokens is None:
        sampling.max_new_tokens = most = limits.bounds.answer
        if most is not None:
            sampling.min_new_tokens = min(sampling.min_new_tokens, most)
    if sampling.top_k >= limits.vocab_size:
        sampling.top_k = 1 << 30


def too_many_choices(n: Any, most: int) -> str | None:
    """The same for `n`, which has to be known before the choices are made of it."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= most:
        return f"n must be a whole number from 1 to {most}, got {n!r:.40}."
    return None


_OF_EACH = (
    "sampling_params", "return_logprob", "logprob_start_len", "top_logprobs_num",
    "token_ids_logprob", "return_sampling_mask", "return_hidden_states", "image_data", "video_data",
    "audio_data", "modalities", "lora_path", "lora_id", "custom_logit_processor", "extra_key",
    "bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key", "decode_tp_size",
)  # fmt: skip
"""What may be a list with a value for each of several prompts (GenerateReqInput.__getitem__)."""


def missing_values(request: Any) -> str | None:
    """Which field has a list that is too short for the prompts, of a normalized request."""
    if request.is_single:
        return None
    for name in _OF_EACH:
        values = getattr(request, name, None)
        # No modalities are an empty list.
        if isinstance(values, list) and len(values) < request.batch_size and values:
            return f"{name} has {len(values)} values for {request.batch_size} prompts."
    return None


def _types(request: Any, limits: Limits) -> Iterator[str]:
    """Every field has the type that the scheduler will decode it as."""
    import msgspec

    for name, kind, value in _fields(request):
        try:
            if isinstance(value, msgspec.Struct):
                # A struct made by its constructor is taken as it is, whatever is in it.
                for inner_name, inner_kind, inner in _fields(value):
                    name = inner_name
                    _convert(msgspec, inner, inner_kind)
            else:
                _convert(msgspec, value, kind)
        except (msgspec.ValidationError, TypeError, OverflowError, ValueError) as error:
            yield f"{name} has a wrong type: {' '.join(str(error).split())[:200]}."


def _convert(msgspec: Any, value: Any, kind: Any) -> None:
    msgspec.convert(value, kind)
    if isinstance(value, int) and value not in _INT64:
        raise ValueError("an integer of at most 64 bits is expected")


def _fields(request: Any) -> list[tuple[str, Any, Any]]:
    found = _kinds(type(request))
    return [(name, kind, getattr(request, name)) for name, kind in found]


_KINDS: dict[type, list[tuple[str, Any]]] = {}


def _kinds(struct_type: Any) -> list[tuple[str, Any]]:
    """Names and types of a struct's fields, without those that carry tensors."""
    if struct_type not in _KINDS:
        import msgspec

        fields = msgspec.structs.fields(struct_type)
        _KINDS[struct_type] = [(f.name, f.type) for f in fields if f.name not in _UNCHECKED]
    return _KINDS[struct_type]


def _prompt(request: Any, limits: Limits) -> Iterator[str]:
    if request.input_embeds is not None:
        # SGLang hands them over as `input_embeds`, which its Qwen3-Next, whose argument is
        # `inputs_embeds`, does not read: the answer would be one to ids that stand in for them.
        # In a batch with other requests, the draft head's input has their rows alone, and the
        # scheduler ends.
        yield (
            "input_embeds does not work with this model: SGLang would answer to other tokens in "
            "their place. Send input_ids or text."
        )
        return
    ids = request.input_ids
    if ids is None or len(ids) == 0:
        yield "The prompt is empty: it needs at least one token."
        return
    # A prompt has up to 262,144 tokens, and the scheduler waits for this.
    view = numpy.frombuffer(ids, dtype=numpy.int64)
    if limits.bounds.prompt is not None and len(view) > limits.bounds.prompt:
        yield (
            f"The prompt has {len(view)} tokens; this server takes at most {limits.bounds.prompt}."
        )
    for token in (int(view.min()), int(view.max())):
        if not 0 <= token < limits.vocab_size:
            yield (
                f"The prompt contains the token id {token}; the vocabulary has the ids 0 to "
                f"{limits.vocab_size - 1}."
            )


def _logprobs(request: Any, limits: Limits) -> Iterator[str]:
    most = min(limits.vocab_size, MOST_TOP_LOGPROBS)
    if not 0 <= request.top_logprobs_num <= most:
        yield (
            f"The number of top logprobs must be from 0 to {most}, got {request.top_logprobs_num}."
        )
    if request.logprob_start_len < -1:
        yield f"logprob_start_len must be at least -1, got {request.logprob_start_len}."


def _sampling(request: Any, limits: Limits) -> Iterator[str]:
    sampling = request.sampling_params
    for token, bias in (sampling.logit_bias or {}).items():
        if not _is_float32(bias):
            yield f"The logit_bias of token {token} must be a finite float32, got {bias}."
    seed = sampling.sampling_seed
    if seed is not None and seed not in _INT64:
        yield f"The seed must fit 64 bits, got {seed}."
    for token in sampling.stop_token_ids or ():
        # Tokens that the target cannot say are harmless but for min_new_tokens, which looks
        # every one of them up in a tensor of the vocabulary.
        if not 0 <= token < limits.vocab_size:
            yield (
                f"stop_token_ids contains {token}; the vocabulary has the ids 0 to "
                f"{limits.vocab_size - 1}."
            )
    most = limits.bounds.answer
    if most is not None and (sampling.max_new_tokens or 0) > most:
        yield (
            f"{sampling.max_new_tokens} tokens are asked for (max_tokens); this server answers "
            f"with at most {most}."
        )
    yield from grammars.too_large(sampling, limits.bounds.depth)
    for pattern in sampling.stop_regex_strs or ():
        if _repeats_without_end(pattern):
            yield (
                f"stop_regex {pattern!r:.80} repeats a repetition without an upper bound: such a "
                "search can take longer than any answer. Write the bounds, for example {1,64}."
            )


def _combinations(request: Any, limits: Limits) -> Iterator[str]:
    if limits.speculative and request.custom_logit_processor:
        yield (
            "custom_logit_processor does not work with speculative decoding: SGLang applies it to "
            "the first token only. Use a server without speculation."
        )
    if limits.eagle3 and request.return_hidden_states:
        yield (
            "return_hidden_states does not work with EAGLE3: SGLang would return the streams that "
            "the draft head reads instead of the hidden states. Use a server without speculation."
        )
    sampling = request.sampling_params
    grammar = sampling.json_schema or sampling.regex or sampling.ebnf or sampling.structural_tag
    if limits.speculative and grammar and limits.grammar_backend == "outlines":
        yield (
            "Structured output of --grammar-backend outlines does not work with speculative "
            "decoding: it cannot take tokens back. Start the server with xgrammar."
        )
    if request.multi_item_delimiter_indices and not limits.multi_item_scoring:
        yield "multi_item_delimiter_indices needs a server with --enable-mis."
    if request.positional_embed_overrides is not None:
        yield "positional_embed_overrides cannot be sent over HTTP."


def _is_float32(value: Any) -> bool:
    try:
        return math.isfinite(struct.unpack("f", struct.pack("f", value))[0])
    except (OverflowError, struct.error, TypeError):
        return False


def _repeats_without_end(pattern: str) -> bool:
    """Whether an unbounded repetition contains another: the usual cause of a search that takes
    exponential time."""
    try:
        parsed = _PARSER.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        return False  # SGLang has said so before
    return _nests(parsed, inside=False)


def _nests(part: Any, inside: bool) -> bool:
    if isinstance(part, _PARSER.SubPattern):
        return any(_nests(item, inside) for item in part)
    if isinstance(part, tuple) and len(part) == 2 and "REPEAT" in str(part[0]):
        _, most, repeated = part[1]
        unbounded = not isinstance(most, int) or most > 1000 or "MAXREPEAT" in repr(most)
        if inside and unbounded:
            return True
        return _nests(repeated, inside or unbounded)
    if isinstance(part, list | tuple):
        return any(_nests(item, inside) for item in part)
    return False
