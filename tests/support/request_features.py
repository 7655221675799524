"""What clients can ask for, and how the answer with speculation stands to that without.

`FEATURES` is what tests/e2e/test_exactness_requests.py asks both kinds of servers, and what
docs/exactness-requests.md says. Write that page anew with

    python -m tests.support.request_features > docs/exactness-requests.md
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.odd_requests import OWN_ERRORS

Verdict = Literal["equal", "refused"]
GENERATE, CHAT, COMPLETIONS = "/generate", "/v1/chat/completions", "/v1/completions"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["stack", "queue"]}, "size": {"type": "integer"}},
    "required": ["name", "size"],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["metre", "inch"]}},
            "required": ["unit"],
        },
    },
}
TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<add>", "schema": SCHEMA, "end": "</add>"}],
    "triggers": ["<add>"],
}


@dataclass(frozen=True)
class Feature:
    """One row of the page.

    body: added to the route's plain body; of /generate, keys of `sampling_params` may stand there.
    verdict: of chain and tree. says: of a refusal, what the message contains.
    needs: a flag that the server has to be started with, else SGLang itself refuses.
    """

    name: str
    route: str = GENERATE
    body: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict = "equal"
    says: str = ""
    needs: str = ""
    note: str = ""


FEATURES: tuple[Feature, ...] = (
    Feature("greedy text", note="temperature 0, ending by itself or by `max_tokens`"),
    Feature("`ignore_eos`", body={"ignore_eos": True}),
    Feature("stop strings", body={"stop": ["self", " =", "(n"]}, note="also inside a step"),
    Feature("stop strings, kept", body={"stop": ["self", "retu"], "no_stop_trim": True}),
    Feature("`stop_token_ids`", body={"stop_token_ids": [262, 372, 258, 195]}),
    Feature("`stop_regex`", body={"stop_regex": ["[a-z]+\\("]}),
    Feature("`min_tokens`", body={"min_new_tokens": 25, "stop": ["return"]}),
    Feature("`presence_penalty`", body={"presence_penalty": 1.5}),
    Feature("`frequency_penalty`", body={"frequency_penalty": 1.2}),
    Feature("`repetition_penalty`", body={"repetition_penalty": 1.3}),
    Feature(
        "all penalties at once",
        body={
            "presence_penalty": 0.7,
            "frequency_penalty": -0.4,
            "repetition_penalty": 1.15,
            "min_new_tokens": 9,
        },
    ),
    Feature("`logit_bias`", body={"logit_bias": {"262": -3.0, "372": 2.0, "258": -1.0}}),
    Feature("`skip_special_tokens` false", body={"skip_special_tokens": False}),
    Feature("`regex`", body={"regex": "[a-z ]{10,30}\\."}),
    Feature("`ebnf`", body={"ebnf": 'root ::= "yes" | "no" | [a-c]+ "!"'}),
    Feature(
        "`regex` with penalties and `ignore_eos`",
        body={"regex": "[a-z]{5,9}", "presence_penalty": 1.0, "ignore_eos": True},
    ),
    Feature(
        "logprobs and top logprobs",
        body={"return_logprob": True, "top_logprobs_num": 3},
        note="values within 1e-4, as many as tokens",
    ),
    Feature(
        "logprobs of the prompt",
        body={"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2},
    ),
    Feature(
        "logprobs of given tokens",
        body={"return_logprob": True, "token_ids_logprob": [5, 262], "presence_penalty": 0.8},
    ),
    Feature("chat", CHAT),
    Feature("`response_format` json_object", CHAT, {"response_format": {"type": "json_object"}}),
    Feature(
        "`response_format` json_schema",
        CHAT,
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "thing", "schema": SCHEMA},
            }
        },
    ),
    Feature("`response_format` structural_tag", CHAT, {"response_format": TAG}),
    Feature('`tool_choice` "required"', CHAT, {"tools": [TOOL], "tool_choice": "required"}),
    Feature(
        "a named tool",
        CHAT,
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}},
    ),
    Feature("`n` 3", CHAT, {"n": 3, "presence_penalty": 0.5}),
    Feature("chat `logprobs`", CHAT, {"logprobs": True, "top_logprobs": 4}),
    Feature(
        "`continue_final_message`",
        CHAT,
        {
            "continue_final_message": True,
            "messages": [
                {"role": "user", "content": "Write a stack."},
                {"role": "assistant", "content": "class Stack:\n    def"},
            ],
        },
    ),
    Feature("streamed chat", CHAT, {"stream": True, "stop": ["self.", "return x"]}),
    Feature("`echo` with `logprobs`", COMPLETIONS, {"echo": True, "logprobs": 2}),
    Feature("a list of prompts", COMPLETIONS, {"prompt": ["def add(", "class A:"]}),
    Feature("token ids as the prompt", COMPLETIONS, {"prompt": [300, 400, 500, 262]}),
    Feature(
        "`return_sampling_mask`",
        body={"return_sampling_mask": True, "top_k": 4},
        verdict="refused",
        says="return_sampling_mask is not supported with speculative decoding",
    ),
    Feature(
        "`return_hidden_states`",
        body={"return_hidden_states": True},
        verdict="refused",
        says="return_hidden_states does not work with EAGLE3",
        needs="--enable-return-hidden-states",
        note="with `--enable-return-hidden-states`",
    ),
    Feature(
        "the last tokens of the context",
        body={"input_ids": [300] * 4088, "max_new_tokens": 6},
        verdict="refused",
        says="of the context of 4096 tokens, speculation keeps",
        note="speculation keeps max(steps x topk, draft tokens) of the context for drafts: of the "
        "demo's 4096 tokens the tree 12, the chain 4; an answer without `max_tokens` ends that "
        "much earlier",
    ),
)

_UNDER_PRESSURE = "tests/e2e/test_exactness_under_pressure.py"
_REQUESTS = "tests/e2e/test_exactness_requests.py"
CIRCUMSTANCES: tuple[tuple[str, str, str, str], ...] = (
    ("one request at a time", "chain, tree", _REQUESTS, "test_alone"),
    (
        "eight at once, of different features",
        "chain, tree",
        _REQUESTS,
        "test_eight_at_once_and_mixed",
    ),
    (
        "an answer that ends by itself within 8 tokens of `max_tokens`",
        "chain, tree",
        _REQUESTS,
        "test_an_answer_ends_by_itself_at_every_distance_from_max_tokens",
    ),
    (
        "a stop string whose tokens are of two steps",
        "chain, tree",
        _REQUESTS,
        "test_a_stop_string_wherever_a_step_ends",
    ),
    *(
        (
            name,
            "chain, tree",
            _UNDER_PRESSURE,
            "test_answers_are_the_same_where_everything_is_scarce",
        )
        for name in (
            "a prompt prefilled in pieces of an odd size (`--chunked-prefill-size 61`)",
            "a prompt from the prefix cache (`--mamba-radix-cache-strategy no_buffer`)",
            "a request that loses its place in the KV pool and comes back",
            "a queue, since the GDN slots are taken",
        )
    ),
    (
        "neighbours that hang up or are aborted",
        "chain, tree",
        _UNDER_PRESSURE,
        "test_answers_are_the_same_beside_neighbours_that_go_away",
    ),
)
"""What goes on around a request, at which servers, and by which test of which file that is held."""

DOCUMENTED: tuple[tuple[str, str], ...] = (
    (
        "temperature above 0",
        "Another text than without speculation, of the same distribution: drafts are accepted by "
        "rejection sampling (held by a chi-square test). The same request gives the same text "
        "again if it has a seed.",
    ),
    (
        "`seed`",
        "On the CPU engine every request may have one, and choice i of `n` has the i-th behind it. "
        "On a GPU SGLang honours it with `--enable-deterministic-inference` only.",
    ),
    (
        "a KV pool smaller than an answer",
        'The answer ends with "length" where the pool ends. Speculation keeps twice the drafts\' '
        "slots free (24 on the demo's tree), so it ends that much earlier than without.",
    ),
    (
        "`--enable-mixed-chunk`",
        "Penalties of decoding requests that share a pass with a prefill are a token late, as in "
        "stock SGLang without speculation.",
    ),
)


def render() -> Iterator[str]:
    """The page, line by line."""
    yield "# Requests with and without speculation"
    yield ""
    yield (
        "The answer to a greedy request (temperature 0) is the same with EAGLE3 as without, token "
        "for token in fp32, for each feature below: alone and eight at once, mixed. The table is "
        "what `tests/e2e/test_exactness_requests.py` asks the demo's servers, a chain (3,1,4) and "
        "a tree (3,4,8), and compares with the same server without speculation. *refused* is a 400 "
        "that says why."
    )
    yield ""
    yield "| feature | route | chain | tree | |"
    yield "|---|---|---|---|---|"
    for feature in FEATURES:
        verdict, route = feature.verdict, feature.route
        yield f"| {feature.name} | `{route}` | {verdict} | {verdict} | {feature.note} |"
    yield ""
    yield "The same holds, greedy token for greedy token, in these circumstances:"
    yield ""
    yield "| circumstance | equal for | held by |"
    yield "|---|---|---|"
    for name, servers, file, test in CIRCUMSTANCES:
        yield f"| {name} | {servers} | `{file}::{test}` |"
    yield ""
    yield "## Documented"
    yield ""
    yield "| feature | what happens |"
    yield "|---|---|"
    for name, effect in DOCUMENTED:
        yield f"| {name} | {effect} |"
    yield ""
    yield "## SGLang's own"
    yield ""
    yield (
        "`tests/e2e/test_fuzz.py` asks for whatever the server's OpenAPI document allows: nothing "
        "ends the server, and nothing changes the answer beside it. These are answered with 500, "
        "or with a stream that breaks off, as in stock SGLang 0.5.17; the server serves on."
    )
    yield ""
    yield "| request | route | body |"
    yield "|---|---|---|"
    for name, (route, body) in OWN_ERRORS.items():
        yield f"| {name} | `{route}` | `{json.dumps(body)}` |"
    yield ""
    yield "Written by `python -m tests.support.request_features`; do not edit."


if __name__ == "__main__":
    print("\n".join(render()))
