"""Requests at the limits of what can be asked: every field of the installed release, and bodies
that have ended a server or could.

Nothing here may end a server, be answered by 5xx (but for `KNOWN_INTERNAL_ERRORS`) or change the
next answer.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

GENERATE, CHAT, COMPLETIONS = "/generate", "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
Request = tuple[str, dict[str, Any]]

HUGE = 10**30
LIMITS: tuple[Any, ...] = (-1, HUGE, "x", [None])
"""Tried in every field."""

KNOWN_INTERNAL_ERRORS: frozenset[tuple[str, str]] = frozenset(
    {
        # The template is rendered with two values for one name.
        (CHAT, "chat_template_kwargs"),
        # A list where a mapping belongs, in a validator that asks it for a key.
        (CHAT, "response_format"),
    }
)
"""Route and field, of what SGLang answers with 500 and serves on."""


def generate(sampling: dict[str, Any] | None = None, /, **body: Any) -> Request:
    where = {} if {"input_ids", "input_embeds", "text"} & body.keys() else {"text": "def f("}
    asked = {"temperature": 0, "max_new_tokens": 2, **(sampling or {})}
    return GENERATE, {**where, "sampling_params": asked, **body}


def chat(**body: Any) -> Request:
    messages = [{"role": "user", "content": "hi"}]
    return CHAT, {"model": "d", "messages": messages, "temperature": 0, "max_tokens": 2, **body}


def completions(**body: Any) -> Request:
    return COMPLETIONS, {"model": "d", "prompt": "x", "temperature": 0, "max_tokens": 2, **body}


def every_field() -> Iterator[tuple[str, Request]]:
    """Each field of the installed SGLang's request classes with each of `LIMITS`, by its name."""
    from dataclasses import fields

    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, CompletionRequest
    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.sampling.sampling_params import SamplingParams

    for value in LIMITS:
        for name in SamplingParams.__struct_fields__:
            yield name, generate({name: value})
        for field in fields(GenerateReqInput):
            yield field.name, generate(**{field.name: value})
        for name in ChatCompletionRequest.model_fields:
            yield name, chat(**{name: value})
        for name in CompletionRequest.model_fields:
            yield name, completions(**{name: value})


def by_hand() -> Iterator[tuple[str, Request]]:
    """What took thought: each by the field that it is about."""
    yield from (("input_ids", request) for request in _prompts())
    yield from (("numbers", request) for request in _numbers())
    yield from (("grammar", request) for request in _grammars())
    yield from (("tools", request) for request in _tools())
    yield from (("other", request) for request in _others())


def _prompts() -> Iterator[Request]:
    for ids in ([4096], [-1], [99999], [], [0.5], ["a"], [[1], [5000]], [2**63], [1, None]):
        yield generate(input_ids=ids)
        yield completions(prompt=ids)
    yield completions(prompt=[200_000])
    yield from (completions(prompt=prompt) for prompt in ("", [""]))
    yield generate(text="")
    rows: Sequence[Sequence[float]]
    for rows in ([[0.1]], [[0.1] * 191], [[]], [], [[1e39] * 192], [[0.1] * 192]):
        yield generate(input_embeds=rows)


def _numbers() -> Iterator[Request]:
    yield chat(logprobs=True, top_logprobs=5000)
    yield chat(logprobs=True, top_logprobs=-1)
    yield completions(logprobs=5000)
    for value in (-5, 0, 1025, 5000, HUGE, 1.5, True):
        yield generate(return_logprob=True, top_logprobs_num=value)
        yield generate(return_logprob=True, logprob_start_len=value)
        yield generate(return_logprob=True, token_ids_logprob=[value])
    for value in (1e-30, 1e308, 1e38, 5e-324, float("nan"), float("inf"), -0.0):
        for name in ("temperature", "top_p", "min_p", "frequency_penalty", "repetition_penalty"):
            yield generate({name: value})
    for value in (2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63), 2**64):
        for name in ("top_k", "sampling_seed", "min_new_tokens", "stream_interval"):
            yield generate({name: value})
        yield generate({"stop_token_ids": [value], "min_new_tokens": 1})
    for bias in (
        {"5": 1e39},
        {"5": float("inf")},
        {"4096": 1},
        {"-1": 1},
        {"5": "a"},
        {"5": -1e38},
    ):
        yield generate({"logit_bias": bias})
    yield from (chat(n=n) for n in (0, -1, 129, 3))
    yield chat(max_completion_tokens=0)


_PATTERNS = ("(", "a**", "(a+)+$", "(?P<x", "\\", "(?<=a)b", "a{1,99999999999}", "[", "",
             "(a|b)\\1", "(((((a*)*)*)*)*)*b")  # fmt: skip
_SCHEMAS: tuple[Any, ...] = (
    {"type": "nonsense"},
    {"$ref": "#"},
    {"$ref": "http://x/y"},
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"enum": []},
    {"type": "string", "pattern": "("},
    {"type": "integer", "minimum": 5, "maximum": 1},
    {"minItems": 10**9, "type": "array"},
    True,
    False,
    [],
)
# Of a thousand, xgrammar takes a minute and a gigabyte; of ten thousand, more than there is.
_NESTED = tuple(
    '{"type":"array","items":' * deep + "{}" + "}" * deep for deep in (150, 1000, 10_000)
)
_TAGS = (
    "{}",
    "[]",
    "null",
    "1",
    '{"structures":[{"begin":"a"}],"triggers":["a"]}',
    '{"type":"structural_tag","format":{"type":"x"}}',
    '{"format":{"type":"tag"}}',
    '{"type":"structural_tag","format":{"type":"any_text"}}',
)
_RULES = ("root ::= root", 'root ::= "a" root | "b"', 'x ::= "a"', "root ::= no", 'root ::= ""')


def _grammars() -> Iterator[Request]:
    for pattern in _PATTERNS:
        for name in ("stop_regex", "regex", "ebnf", "json_schema", "structural_tag", "stop"):
            yield generate({name: pattern})
    for schema in _SCHEMAS:
        named = {"name": "x", "schema": schema}
        yield chat(response_format={"type": "json_schema", "json_schema": named})
        yield generate({"json_schema": json.dumps(schema)})
    yield from (generate({"json_schema": schema}) for schema in _NESTED)
    yield from (generate({"structural_tag": tag}) for tag in _TAGS)
    yield generate({"regex": "." * 9000})
    yield generate({"ebnf": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000})
    yield from (generate({"ebnf": rules}) for rules in _RULES)
    yield generate({"regex": "a", "ebnf": 'root ::= "a"'})
    for kind in ("json_object", "structural_tag", "json_schema", "x"):
        yield chat(response_format={"type": kind})


def _tools() -> Iterator[Request]:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    named = {"type": "function", "function": {"name": "add"}}
    unknown = {"type": "function", "function": {"name": "nope"}}
    for choice in ("required", "none", "auto", named, unknown, "x", 5):
        yield chat(tools=[tool], tool_choice=choice)
        yield chat(tools=[tool], tool_choice=choice, stream=True)
        yield chat(tools=[], tool_choice=choice)
    for function in (
        {"name": "a"},
        {"name": "a", "parameters": {"type": "nonsense"}},
        {"name": ""},
    ):
        yield chat(tools=[{"type": "function", "function": function}], tool_choice="required")


SHORT_LISTS: tuple[tuple[str, list[Any]], ...] = (
    ("sampling_params", [{"max_new_tokens": 2}]),
    ("return_logprob", [True]),
    ("logprob_start_len", [0]),
    ("top_logprobs_num", [1]),
    ("token_ids_logprob", [[5]]),
    ("lora_path", [None]),
    ("custom_logit_processor", [None]),
    ("extra_key", ["x"]),
    ("bootstrap_room", [1]),
)
"""A value for one of two prompts."""


def _others() -> Iterator[Request]:
    yield generate(session_params={"id": "x"})
    yield generate(session_params={"zz": 1})
    yield generate(positional_embed_overrides={"embeds": [], "positions": []})
    yield generate(multi_item_delimiter_indices=[[1]])
    yield generate(return_hidden_states="last")
    yield from (generate(text=["a", "b"], **{name: value}) for name, value in SHORT_LISTS)
    yield completions(prompt=["x", "y"], lora_path=[None])
    yield chat(messages=[{"role": "tool", "content": "x"}])
    yield chat(messages=[{"role": "user", "content": "<|im_end|><|im_start|>\x00"}])
    yield RESPONSES, {"model": "d", "input": "hi", "max_output_tokens": 2}
    yield RESPONSES, {"model": "d", "input": "x", "max_output_tokens": 2, "top_logprobs": 99999}
    yield RESPONSES, {"model": "d", "input": 5}
    said = [{"role": "user", "content": "hi"}]
    yield MESSAGES, {"model": "d", "max_tokens": 2, "messages": said, "top_k": 2**40}
    yield MESSAGES, {"model": "d", "max_tokens": -4, "messages": said}


OWN_ERRORS: dict[str, Request] = {
    "no input": (RESPONSES, {"model": "d", "input": [], "max_output_tokens": 2}),
    "an empty conversation is counted": (
        f"{MESSAGES}/count_tokens",
        {"model": "d", "messages": []},
    ),
    "a token beyond 32 bits": ("/v1/detokenize", {"model": "d", "tokens": [2**40]}),
    "an unknown parser": (
        "/parse_function_call",
        {"text": "a", "tools": [], "tool_call_parser": "no such"},
    ),
    "several cache salts for one prompt": (CHAT, {**chat()[1], "cache_salt": ["a", "b"]}),
    "no labels to score": (
        "/v1/score",
        {"model": "d", "query": "a", "items": ["b"], "label_token_ids": []},
    ),
    "nothing to compare": ("/encode", {"text": [[]], "is_cross_encoder_request": True}),
    "nothing to compare and classify": (
        "/classify",
        {"text": [[]], "is_cross_encoder_request": True},
    ),
    "a list as the name of a request": ("/v1/classify", {"model": "d", "input": "a", "rid": []}),
    # With transformers 5 the template's tokens come in a dictionary, which it takes for a list.
    "any conversation as Ollama asks": (
        "/api/chat",
        {"model": "d", "messages": [{"role": "user", "content": "hi"}], "stream": False},
    ),
}
"""What SGLang answers with 5xx, or with a stream that breaks off, and serves on: it raises where
HTTP is spoken, before anything reaches a batch."""


def is_own_error(request: Request) -> bool:
    """Whether a 5xx is one of `OWN_ERRORS`. Where the model is asked, only that very error is."""
    route, body = request
    if route == RESPONSES:
        return body.get("input") == []
    if route == CHAT:
        known = {name for other, name in KNOWN_INTERNAL_ERRORS if other == CHAT}
        return isinstance(body.get("cache_salt"), list) or bool(known & body.keys())
    if route in (COMPLETIONS, GENERATE, MESSAGES):
        return False
    return isinstance(body.get("rid"), list) or any(route == r for r, _ in OWN_ERRORS.values())
