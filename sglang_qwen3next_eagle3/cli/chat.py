"""`chat`: ask a running server, with the figures of the answer."""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict

from sglang_qwen3next_eagle3.base.errors import INTERRUPTED
from sglang_qwen3next_eagle3.serving.client import (
    API_KEY_VARIABLE,
    DEFAULT_BASE_URL,
    AnswerStream,
    Client,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="the question; - reads it from standard input")
    parser.add_argument("--base-url", default=DEFAULT_BASE_URL, help="default: %(default)s")
    parser.add_argument("--api-key", help=f"default: ${API_KEY_VARIABLE}")
    parser.add_argument("--system", help="a system message before the question")
    parser.add_argument("--max-tokens", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.0, help="default: %(default)s")
    parser.add_argument(
        "--json", action="store_true", help="print the whole answer and its exact figures as JSON"
    )


def run(arguments: argparse.Namespace) -> int:
    """Stream the answer to the terminal, or print it as JSON. Raises UserError."""
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    messages = [{"role": "user", "content": prompt}]
    if arguments.system:
        messages.insert(0, {"role": "system", "content": arguments.system})
    key = arguments.api_key or os.environ.get(API_KEY_VARIABLE)
    client = Client(arguments.base_url, api_key=key)
    options = {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature}
    if not arguments.json:
        return _stream(client, messages, options)
    answer = client.chat(messages, **options)
    figures = {
        "accept_length": answer.accept_length,
        "tokens_per_second": answer.tokens_per_second,
    }
    print(json.dumps({**asdict(answer), **figures}, indent=2, ensure_ascii=False))
    return 0


def _stream(client: Client, messages: list[dict[str, str]], options: dict[str, float]) -> int:
    stream: AnswerStream | None = None
    try:
        stream = client.chat(messages, stream=True, **options)
        _print(stream)
    except KeyboardInterrupt:
        if stream is not None:
            stream.close()
        print("\ninterrupted: the server drops the request", file=sys.stderr)
        return INTERRUPTED
    print()
    if stream.answer is not None:
        print(f"[{stream.answer.figures()}]", file=sys.stderr)
    return 0


def _print(pieces: Iterable[str]) -> None:
    for piece in pieces:
        print(piece, end="", flush=True)
