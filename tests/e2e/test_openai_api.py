"""What people call: the card's snippet, the OpenAI SDK, our client and `chat`."""

import contextlib
import io
import json
import subprocess
import sys

import openai
import pytest
from openai.types.chat import ChatCompletion

from sglang_qwen3next_eagle3.serving.client import Client
from tests.support.server import PATIENCE, Server

CARD_SNIPPET = """\
import requests
response = requests.post(
"http://localhost:30000/v1/chat/completions",
json={
"model": "default",
"messages": [{"role": "user", "content": "Write a Python function to merge two sorted lists."}],
"max_tokens": 512,
"temperature": 0,
}
)
print(response.json()["choices"][0]["message"]["content"])
"""
CARD_QUESTION = "Write a Python function to merge two sorted lists."
QUESTION = "Write a class for a shopping cart."  # the demo target answers at length
NEW_TOKENS = 96


@pytest.fixture(scope="module")
def sdk(tree_server: Server) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{tree_server.url}/v1", api_key="none", timeout=PATIENCE, max_retries=0
    )


@pytest.fixture(scope="module")
def client(tree_server: Server) -> Client:
    return Client(tree_server.url, timeout=PATIENCE)


def chat(
    sdk: openai.OpenAI,
    *,
    max_tokens: int = NEW_TOKENS,
    stop: str | list[str] | None = None,
    n: int = 1,
    question: str = QUESTION,
) -> ChatCompletion:
    return sdk.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": question}],
        max_tokens=max_tokens,
        temperature=0,
        stop=stop,
        n=n,
    )


def ask(*words: str) -> "subprocess.CompletedProcess[str]":
    """The `chat` verb, run to its end."""
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3", "chat", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.fixture(scope="module")
def greedy(sdk: openai.OpenAI) -> ChatCompletion:
    """The greedy answer of NEW_TOKENS tokens, not streamed."""
    return chat(sdk)


@pytest.fixture(scope="module")
def text(greedy: ChatCompletion) -> str:
    content = greedy.choices[0].message.content
    assert content
    return content


def test_the_card_s_snippet_prints_the_answer(tree_server: Server, sdk: openai.OpenAI) -> None:
    port = tree_server.url.rpartition(":")[2]
    assert CARD_SNIPPET.count("30000") == 1
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(CARD_SNIPPET.replace("30000", port), {})
    reply = chat(sdk, max_tokens=512, question=CARD_QUESTION)
    assert printed.getvalue() == f"{reply.choices[0].message.content}\n"
    assert "def merge(" in printed.getvalue()
    assert reply.choices[0].finish_reason == "stop"


def test_usage_counts_the_prompt_and_every_new_token(greedy: ChatCompletion) -> None:
    usage = greedy.usage
    assert usage is not None
    assert usage.prompt_tokens > len(QUESTION.split())
    assert usage.completion_tokens == NEW_TOKENS
    assert usage.total_tokens == usage.prompt_tokens + NEW_TOKENS
    assert greedy.choices[0].finish_reason == "length"


def test_streamed_deltas_add_up_to_the_greedy_text(
    sdk: openai.OpenAI, greedy: ChatCompletion, text: str
) -> None:
    chunks = list(
        sdk.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=NEW_TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    choices = [choice for chunk in chunks for choice in chunk.choices]
    pieces = [choice.delta.content for choice in choices if choice.delta.content]
    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert choices[0].delta.role == "assistant"
    assert [c.finish_reason for c in choices if c.finish_reason] == ["length"]
    assert [chunk.usage for chunk in chunks if chunk.usage] == [greedy.usage]
    assert chunks[-1].choices == []


@pytest.mark.parametrize("listed", [False, True], ids=["single", "list"])
def test_the_text_ends_before_a_stop_string(sdk: openai.OpenAI, text: str, listed: bool) -> None:
    middle = len(text) // 2
    stop = text[middle : middle + 8]
    expected = text[: text.find(stop)]
    reply = chat(sdk, stop=["no such words", stop] if listed else stop)
    assert reply.choices[0].message.content == expected
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert 0 < reply.usage.completion_tokens < NEW_TOKENS


# A step of the tree accepts 1 to 4 tokens, so these ends fall inside steps.
@pytest.mark.parametrize("max_tokens", [1, 2, 3, 5, 30])
def test_max_tokens_is_exact_even_inside_a_step(
    sdk: openai.OpenAI, text: str, max_tokens: int
) -> None:
    reply = chat(sdk, max_tokens=max_tokens)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == max_tokens
    assert reply.choices[0].finish_reason == "length"
    content = reply.choices[0].message.content
    assert content
    assert text.startswith(content)


def test_zero_new_tokens_are_an_empty_answer(sdk: openai.OpenAI) -> None:
    reply = chat(sdk, max_tokens=0)
    assert reply.choices[0].message.content == ""
    assert reply.choices[0].finish_reason == "length"


def test_two_choices_carry_the_greedy_text_twice_and_the_prompt_counts_once(
    sdk: openai.OpenAI, greedy: ChatCompletion, text: str
) -> None:
    reply = chat(sdk, n=2)
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert [choice.message.content for choice in reply.choices] == [text, text]
    assert reply.usage is not None
    assert greedy.usage is not None
    assert reply.usage.prompt_tokens == greedy.usage.prompt_tokens
    assert reply.usage.completion_tokens == 2 * NEW_TOKENS


def test_the_models_endpoint_names_the_one_model_and_refuses_others(sdk: openai.OpenAI) -> None:
    (model,) = sdk.models.list().data
    assert model.id == "demo"
    assert model.to_dict()["max_model_len"] == 4096
    assert sdk.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        sdk.models.retrieve("another")


def test_any_model_name_is_answered_by_the_one_model(sdk: openai.OpenAI, text: str) -> None:
    reply = sdk.chat.completions.create(
        model="gpt-9",
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=8,
        temperature=0,
    )
    assert reply.model == "gpt-9"
    assert text.startswith(reply.choices[0].message.content or "nothing")


def test_plain_completions_stream_what_they_answer(sdk: openai.OpenAI) -> None:
    prompt = "class Stack:\n    def __init__(self):\n"
    whole = sdk.completions.create(model="default", prompt=prompt, max_tokens=48, temperature=0)
    chunks = sdk.completions.create(
        model="default", prompt=prompt, max_tokens=48, temperature=0, stream=True
    )
    assert whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 48
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 48
    streamed = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert streamed == whole.choices[0].text


def test_our_client_s_stream_has_the_text_and_nearly_the_steps_of_the_exact_answer(
    client: Client, text: str
) -> None:
    exact = client.chat(QUESTION, max_tokens=NEW_TOKENS)
    assert exact.exact
    assert exact.text == text
    assert exact.completion_tokens == NEW_TOKENS
    assert exact.verify_steps is not None
    assert exact.accept_length is not None
    assert exact.accept_length > 1

    stream = client.chat(QUESTION, max_tokens=NEW_TOKENS, stream=True)
    assert "".join(stream) == text
    answer = stream.answer
    assert answer is not None
    assert not answer.exact
    assert answer.completion_tokens == exact.completion_tokens
    assert answer.prompt_tokens == exact.prompt_tokens
    assert answer.finish_reason == exact.finish_reason == "length"
    assert answer.first_token_seconds is not None
    assert answer.verify_steps is not None
    # Steps whose tokens leave the server together are seen as one, so a stream never counts more
    # than there were. Alone on an idle machine it counts all; half leaves room for a busy one.
    assert exact.verify_steps / 2 <= answer.verify_steps <= exact.verify_steps


def test_chat_streams_the_text_and_ends_with_one_line_of_figures(
    tree_server: Server, text: str
) -> None:
    words = [QUESTION, "--max-tokens", str(NEW_TOKENS), "--base-url", tree_server.url]
    ended = ask(*words)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{text}\n"
    (figures,) = ended.stderr.splitlines()
    assert figures.startswith(f"[{NEW_TOKENS} tokens, ")
    assert ", accept length about " in figures
    assert figures.endswith(", finished: length]")


def test_chat_prints_exact_figures_as_json(tree_server: Server, text: str) -> None:
    words = [QUESTION, "--json", "--max-tokens", str(NEW_TOKENS), "--base-url", tree_server.url]
    printed = json.loads(ask(*words).stdout)
    assert printed["text"] == text
    assert printed["exact"] is True
    assert printed["accept_length"] == NEW_TOKENS / printed["verify_steps"] > 1


def test_chat_says_in_one_line_that_the_server_refused(tree_server: Server) -> None:
    ended = ask(QUESTION, "--temperature", "-1", "--base-url", tree_server.url)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the server refused (400): temperature must be ")
    assert ended.stderr.count("\n") == 1
