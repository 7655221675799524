"""What a soak asks, and what came of it: greedy chats of every kind, by their number."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from sglang_qwen3next_eagle3.base import files, provenance

Kind = Literal["plain", "regex", "schema", "tool"]
PATIENCE = 600.0
_SUBJECTS = ("a stack", "a heap", "a queue", "a trie", "a graph", "a matrix", "a date", "a socket")
_TASKS = ("Write a class for {}.", "Explain {}.", "Sort {} by its values.", "Write a test for {}.")
_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "count": {"type": "integer"}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
_TOOL = {
    "type": "function",
    "function": {"name": "store", "description": "Keep a record.", "parameters": _SCHEMA},
}


@dataclass(frozen=True)
class Asked:
    """One request. body: of /v1/chat/completions without `stream`; cancelled: after 3 events."""

    number: int
    kind: Kind
    body: dict[str, Any]
    streamed: bool = False
    cancelled: bool = False


@dataclass(frozen=True)
class Came:
    """What came of it. said: its text or the arguments of its tool; broken: why it is not whole."""

    said: str = ""
    status: int = 0
    whole: bool = False
    broken: str = field(default="", compare=False)


def requests(count: int, distinct: int) -> list[Asked]:
    """`count` requests of `distinct` bodies: half streamed, a tenth cancelled, a tenth with a
    grammar or a tool."""
    bodies = [_body(number) for number in range(distinct)]
    made = []
    for number in range(count):
        # Each body comes streamed and not, cancelled and not.
        kind, body = bodies[(number + number // distinct) % distinct]
        cancelled = number % 10 == 4
        made.append(Asked(number, kind, body, number % 2 == 0, cancelled))
    return made


def alone(distinct: int) -> list[Asked]:
    return [Asked(number, *_body(number)) for number in range(distinct)]


def key_of(asked: Asked) -> str:
    return json.dumps(asked.body, sort_keys=True)


def _body(number: int) -> tuple[Kind, dict[str, Any]]:
    task = _TASKS[number % len(_TASKS)].format(_SUBJECTS[number // len(_TASKS) % len(_SUBJECTS)])
    # From one line to some hundred tokens.
    context = "\n".join(f"line {i}: value = {i * (number + 3)}" for i in range(number * 7 % 40))
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": f"{task} Case {number}.\n{context}".strip()}],
        "temperature": 0,
        "max_tokens": 8 + number * 5 % 57,
    }
    if number % 10 != 7:
        return "plain", body
    kind: Kind = ("regex", "schema", "tool")[number // 10 % 3]
    if kind == "regex":
        body["regex"] = "(yes|no), because [a-z ]{1,40}"
    elif kind == "schema":
        schema = {"name": "record", "schema": _SCHEMA, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    else:
        body |= {
            "tools": [_TOOL],
            "tool_choice": {"type": "function", "function": {"name": "store"}},
        }
    body["max_tokens"] = 64
    return kind, body


def ask(client: httpx.Client, url: str, asked: Asked, headers: dict[str, str]) -> Came:
    """Ask it; an answer that breaks off or an error is told in `Came.broken`."""
    target = f"{url}/v1/chat/completions"
    try:
        if not asked.streamed:
            reply = client.post(target, json=asked.body, headers=headers)
            if reply.status_code != 200:
                return Came(status=reply.status_code, broken=reply.text[:300])
            return Came(_said(reply.json()["choices"][0]["message"]), 200, whole=True)
        return _streamed(client, target, asked, headers)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return Came(broken=f"{type(error).__name__}: {error}"[:300])


def _streamed(client: httpx.Client, target: str, asked: Asked, headers: dict[str, str]) -> Came:
    said, events = "", 0
    body = {**asked.body, "stream": True}
    with client.stream("POST", target, json=body, headers=headers) as reply:
        if reply.status_code != 200:
            reply.read()
            return Came(status=reply.status_code, broken=reply.text[:300])
        try:
            for data in _events(reply):
                if data == "[DONE]":
                    return Came(said, 200, whole=True)
                chunk = json.loads(data)
                if "error" in chunk:
                    return Came(said, 200, broken=data[:300])
                for choice in chunk["choices"]:
                    said += _said(choice["delta"])
                events += 1
                if asked.cancelled and events == 3:
                    return Came(said, 200)
        except httpx.HTTPError as error:
            return Came(said, 200, broken=f"{type(error).__name__}: {error}"[:300])
    return Came(said, 200, broken="the stream ended without [DONE]")


def _events(reply: httpx.Response) -> Iterator[str]:
    for line in reply.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def _said(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls") or []
    arguments = "".join(call["function"].get("arguments") or "" for call in calls)
    return (message.get("content") or "") + arguments


def new_client() -> httpx.Client:
    return httpx.Client(timeout=PATIENCE, trust_env=False)


def made_with(command: list[str]) -> dict[str, Any]:
    """What a soak is made with, asked for when it begins. command: behind `python -m`."""
    described = provenance.describe([])
    described["command"] = f"python -m {' '.join(provenance.without_paths(command))}"
    described["versions"] |= provenance.versions(["sglang-router"])
    return described


def write(out: Path, name: str, made: dict[str, Any], figures: dict[str, Any]) -> None:
    """A result, with what it was made with."""
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / name, {"made": made, **figures})
