"""Ask a server for a feature of tests/support/request_features.py, and compare two answers."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.request_features import CHAT, COMPLETIONS, GENERATE, Feature
from tests.support.server import PATIENCE, Server

NEW_TOKENS = 30
_OF_GENERATE = {
    "return_logprob",
    "top_logprobs_num",
    "logprob_start_len",
    "token_ids_logprob",
    "return_hidden_states",
    "return_sampling_mask",
    "input_ids",
    "stream",
}
Answer = dict[str, Any]


def body_of(feature: Feature, prompt: str, new_tokens: int) -> dict[str, Any]:
    if feature.route == CHAT:
        messages = [{"role": "user", "content": prompt}]
        plain = {"model": "default", "messages": messages, "temperature": 0}
        return {**plain, "max_tokens": new_tokens, **feature.body}
    if feature.route == COMPLETIONS:
        plain = {"model": "default", "prompt": prompt, "temperature": 0}
        return {**plain, "max_tokens": new_tokens, **feature.body}
    outer = {name: value for name, value in feature.body.items() if name in _OF_GENERATE}
    inner = {name: value for name, value in feature.body.items() if name not in _OF_GENERATE}
    where = {} if "input_ids" in outer else {"text": prompt}
    sampling = {"temperature": 0, "max_new_tokens": new_tokens, **inner}
    return {**where, **outer, "sampling_params": sampling}


def post(server: Server, feature: Feature, prompt: str, new_tokens: int) -> httpx.Response:
    body = body_of(feature, prompt, new_tokens)
    return httpx.post(f"{server.url}{feature.route}", json=body, timeout=PATIENCE)


def ask(server: Server, feature: Feature, prompt: str, new_tokens: int = NEW_TOKENS) -> Answer:
    """What the answer says, without what differs from call to call; numbers apart."""
    reply = post(server, feature, prompt, new_tokens)
    assert reply.status_code == 200, (feature.name, reply.text)
    if feature.body.get("stream"):
        return {"said": list(streamed(reply.text)), "numbers": []}
    answer = reply.json()
    if feature.route == GENERATE:
        meta = answer["meta_info"]
        kept = [name for name in meta if isinstance(meta[name], list) and "logprobs" in name]
        said: Any = [answer["output_ids"], answer["text"], meta["finish_reason"]]
        said += [meta["prompt_tokens"], meta["completion_tokens"]]
        for name in kept:
            if name.startswith("output"):
                assert len(meta[name]) in (0, meta["completion_tokens"]), name
        found = [meta[name] for name in kept]
    else:
        said = [[choice.get("message"), choice.get("text"), choice["finish_reason"]]
                for choice in answer["choices"]]  # fmt: skip
        for choice in said:
            for call in (choice[0] or {}).get("tool_calls") or []:
                call.pop("id")
        said.append(answer["usage"])
        found = [choice["logprobs"] for choice in answer["choices"]]
    numbers, rest = apart(found)
    return {"said": [said, rest], "numbers": numbers}


def streamed(text: str) -> Iterator[str]:
    pieces, reason = "", None
    for line in text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                pieces += choice["delta"].get("content") or ""
                reason = choice["finish_reason"] or reason
    yield pieces
    yield str(reason)


def apart(value: Any) -> tuple[list[float], Any]:
    """The floats in a nest of lists and dicts in their order, and the rest with holes."""
    numbers: list[float] = []

    def walk(part: Any) -> Any:
        if isinstance(part, float):
            numbers.append(part)
            return None
        if isinstance(part, list):
            return [walk(item) for item in part]
        if isinstance(part, dict):
            return {name: walk(item) for name, item in part.items()}
        return part

    rest = walk(value)
    return numbers, rest


def differences(
    jobs: list[tuple[Feature, str]], one: list[Answer], other: list[Answer]
) -> list[Any]:
    found = []
    for (feature, prompt), with_drafts, without in zip(jobs, one, other, strict=True):
        near = len(with_drafts["numbers"]) == len(without["numbers"]) and all(
            abs(a - b) < 1e-4
            for a, b in zip(with_drafts["numbers"], without["numbers"], strict=True)
        )
        if with_drafts["said"] != without["said"] or not near:
            found.append((feature.name, prompt, with_drafts["said"], without["said"]))
    return found
