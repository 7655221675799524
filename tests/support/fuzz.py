"""Bodies made from the server's own OpenAPI document, some whole, some a good one with a few fields
replaced."""

import random
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.odd_requests import CHAT, COMPLETIONS, GENERATE, MESSAGES, RESPONSES, Request

_SAID = [{"role": "user", "content": "hi"}]
GOOD: dict[str, dict[str, Any]] = {
    GENERATE: {"text": "def f(", "sampling_params": {"max_new_tokens": 2}},
    CHAT: {"model": "d", "messages": _SAID, "max_tokens": 2},
    COMPLETIONS: {"model": "d", "prompt": "x", "max_tokens": 2},
    RESPONSES: {"model": "d", "input": "hi", "max_output_tokens": 2},
    MESSAGES: {"model": "d", "messages": _SAID, "max_tokens": 2},
    "/v1/messages/count_tokens": {"model": "d", "messages": _SAID},
    "/v1/tokenize": {"model": "d", "prompt": "x"},
    "/v1/detokenize": {"model": "d", "tokens": [5, 6]},
    "/v1/score": {"model": "d", "query": "a", "items": ["b"], "label_token_ids": [5]},
    "/v1/embeddings": {"model": "d", "input": "a"},
    "/v1/classify": {"model": "d", "input": "a"},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/encode": {"text": "a"},
    "/classify": {"text": "a"},
    "/api/chat": {"model": "d", "messages": _SAID, "options": {"num_predict": 2}},
    "/api/generate": {"model": "d", "prompt": "x", "options": {"num_predict": 2}},
    "/parse_function_call": {"text": "a", "tools": [], "tool_call_parser": "qwen3_coder"},
}
"""The routes that clients ask, each with a body that is answered."""

_MOST = {
    CHAT: ("max_tokens", "max_completion_tokens"),
    COMPLETIONS: ("max_tokens",),
    RESPONSES: ("max_output_tokens",),
    MESSAGES: ("max_tokens",),
}
"""The fields that bound an answer, the one that always does first."""

_SAMPLING_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.lists(st.one_of(st.integers(), st.text(max_size=4)), max_size=3),
    st.dictionaries(st.text(max_size=4), st.floats(), max_size=2),
)  # fmt: skip


def requests(document: dict[str, Any], examples: int, number: int) -> list[Request]:
    """`examples` for each route of `GOOD`, mixed; the same ones again for the same number.

    document: of /openapi.json.
    """
    schema = schemathesis.openapi.from_dict(document)
    made = [request for route in GOOD for request in _of_route(schema, route, examples, number)]
    random.Random(number).shuffle(made)
    return made


def short(route: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body with an answer of few tokens, unless it asks for what is no number of tokens.

    Answers as long as the context are asked for elsewhere; a hundred of them take hours.
    """
    body = dict(body)
    if route == "/api/generate":
        body["options"] = {"num_predict": 2}
    if route == GENERATE:
        sampling = body.get("sampling_params") or {}
        if isinstance(sampling, dict):
            body["sampling_params"] = _few(dict(sampling), ("max_new_tokens",))
        else:
            body["sampling_params"] = [_few(dict(one), ("max_new_tokens",)) for one in sampling]
    return _few(body, _MOST.get(route, ()))


def _few(body: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    for at, name in enumerate(names):
        value = body.get(name)
        if value is None and at > 0:
            continue
        if value is None or (isinstance(value, int | float) and value > 16):
            body[name] = 2
    return body


def _of_route(schema: Any, route: str, examples: int, number: int) -> list[Request]:
    from sglang.srt.sampling.sampling_params import SamplingParams

    names = sorted(SamplingParams.__struct_fields__)
    found: list[Request] = []
    sampling = st.dictionaries(st.sampled_from(names), _SAMPLING_VALUES, max_size=3)

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=schema[route]["POST"].as_strategy(),
        whole=st.integers(0, 3),
        kept=st.randoms(use_true_random=False),
        sampled=sampling,
    )
    def collect(case: Any, whole: int, kept: Any, sampled: dict[str, Any]) -> None:
        body = case.body if isinstance(case.body, dict) else {}
        if whole:
            few = kept.sample(sorted(body), min(len(body), whole))
            body = {**GOOD[route], **{name: body[name] for name in few}}
            if route == GENERATE and "sampling_params" not in few:
                body["sampling_params"] = {**GOOD[route]["sampling_params"], **sampled}
        found.append((route, short(route, body)))

    collect()
    return found
