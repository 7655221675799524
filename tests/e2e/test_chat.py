"""`chat` as a conversation, and what the OpenAI SDK asks beyond one answer, on a real server."""

import sys
import time
from typing import Any

import httpx
import openai
import pytest

from tests.support.server import Server
from tests.support.terminal import CTRL_C, CTRL_D, PATIENCE, terminal

QUESTION = "Write a class for a shopping cart."  # the demo target answers at length
TOOLS: Any = [
    {
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
]


@pytest.fixture(scope="module")
def sdk(tree_server: Server) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{tree_server.url}/v1", api_key="none", timeout=PATIENCE, max_retries=0
    )


def test_a_conversation_stops_at_the_server_and_goes_on(tree_server: Server) -> None:
    words = ["-m", "sglang_qwen3next_eagle3", "chat", "--base-url", tree_server.url]
    with terminal([sys.executable, *words, "--max-tokens", "3000"], {}) as shell:
        shell.wait_for("> ")
        shell.type(f"{QUESTION}\r")
        shell.wait_for("def ")
        shell.type(CTRL_C)
        shell.wait_for("[stopped: what was said stays")
        begun = time.monotonic()
        # It empties its cache only when no request is running.
        while httpx.post(f"{tree_server.url}/flush_cache", timeout=PATIENCE).status_code != 200:
            assert time.monotonic() < begun + PATIENCE
            time.sleep(0.2)
        shell.wait_for("> ")
        shell.type("/reset\r")
        shell.wait_for("> ")
        shell.type("Write a binary search.\r")
        figures = shell.wait_for("finished: stop]")
        shell.wait_for("> ")
        shell.type(CTRL_D)
        assert shell.ended() == 0
    assert "29 tokens, " in figures
    assert "accept length about " in figures


def create(sdk: openai.OpenAI, messages: Any = None, **options: Any) -> Any:
    messages = messages or [{"role": "user", "content": QUESTION}]
    options = {"max_tokens": 16, "temperature": 0, **options}
    return sdk.chat.completions.create(model="demo", messages=messages, **options)


def test_embeddings_are_refused(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="does not appear to be an embedding model"):
        sdk.embeddings.create(model="demo", input="a")


def test_a_seed_gives_the_same_sample_again(sdk: openai.OpenAI) -> None:
    first, again, other = (
        create(sdk, temperature=0.9, seed=seed).choices[0].message.content for seed in (5, 5, 6)
    )
    assert first == again != other


def test_choices_of_one_stream_are_told_apart_and_counted_together(sdk: openai.OpenAI) -> None:
    greedy = create(sdk).choices[0].message.content
    usage = {"include_usage": True}
    chunks = list(create(sdk, n=2, stream=True, stream_options=usage))
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [greedy, greedy]
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [32]


def test_a_stream_without_usage_brings_none(sdk: openai.OpenAI) -> None:
    assert all(chunk.usage is None for chunk in create(sdk, stream=True))


def test_a_tool_is_called_and_its_result_is_answered(sdk: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": "Add, in metres."}]
    plain = create(sdk, asked)
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "add", "arguments": '{"unit": "metre"}'},
            }
        ],
    }
    result = {"role": "tool", "tool_call_id": "call_1", "content": "3"}
    whole = create(sdk, [*asked, called, result], tools=TOOLS)
    assert whole.choices[0].message.content
    # The template shows the call's result to the model.
    assert whole.usage.prompt_tokens > plain.usage.prompt_tokens
    streamed = create(sdk, [*asked, called, result], tools=TOOLS, stream=True)
    pieces = [choice.delta.content or "" for chunk in streamed for choice in chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
