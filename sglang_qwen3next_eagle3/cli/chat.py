"""`chat`: ask a running server, with the figures of the answer, or talk with it."""

import argparse
import io
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sglang_qwen3next_eagle3.base.errors import INTERRUPTED, Terminated, UserError
from sglang_qwen3next_eagle3.cli.arguments import add_key_options, key_of, positive
from sglang_qwen3next_eagle3.serving.client import (
    DEFAULT_BASE_URL,
    AnswerStream,
    Client,
)
from sglang_qwen3next_eagle3.serving.conversation import Conversation, converse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompt",
        nargs="?",
        help="the question; - reads it from standard input, as no question does where that is no "
        "terminal; without a question on a terminal, a conversation",
    )
    parser.add_argument("--base-url", default=DEFAULT_BASE_URL, help="default: %(default)s")
    add_key_options(parser)
    parser.add_argument("--system", help="a system message before the question")
    parser.add_argument("--max-tokens", type=positive, default=512, help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.0, help="default: %(default)s")
    parser.add_argument("--top-p", type=float, metavar="P", help="default: the server's")
    parser.add_argument("--top-k", type=int, metavar="K", help="default: the server's")
    parser.add_argument("--seed", type=int, help="of the sampling, above temperature 0")
    parser.add_argument(
        "--timeout",
        type=positive,
        default=600,
        metavar="SECONDS",
        help="without a byte of the answer (default: %(default)s)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the whole answer and its exact figures as JSON"
    )


def run(arguments: argparse.Namespace) -> int:
    """Stream the answer to the terminal, or print it as JSON; or converse. Raises UserError."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Answers know no limits of a terminal's.
    client = Client(arguments.base_url, api_key=key_of(arguments), timeout=arguments.timeout)
    names = ("max_tokens", "temperature", "top_p", "top_k", "seed")
    given = {name: getattr(arguments, name) for name in names}
    options = {name: value for name, value in given.items() if value is not None}
    if arguments.prompt is None and sys.stdin is not None and sys.stdin.isatty():
        if arguments.json:
            raise UserError("--json prints one answer: give the question, too")
        converse(Conversation(client, options, arguments.system))
        return 0
    prompt = _standard_input() if arguments.prompt in (None, "-") else arguments.prompt
    if not prompt.strip():
        raise UserError("nothing to ask: the question is empty")
    messages = [{"role": "user", "content": prompt}]
    if arguments.system:
        messages.insert(0, {"role": "system", "content": arguments.system})
    if not arguments.json:
        return _stream(client, messages, options)
    answer = client.chat(messages, **options)
    figures = {
        "accept_length": answer.accept_length,
        "tokens_per_second": answer.tokens_per_second,
    }
    print(json.dumps({**asdict(answer), **figures}, indent=2, ensure_ascii=False))
    return 0


def _standard_input() -> str:
    try:
        text = sys.stdin.read() if sys.stdin is not None else ""
    except UnicodeDecodeError:
        raise UserError("standard input is no UTF-8 text: mend it") from None
    if not text.strip():
        raise UserError("nothing to ask: standard input is empty, and no question is given")
    return text


def _stream(client: Client, messages: list[dict[str, str]], options: dict[str, Any]) -> int:
    stream: AnswerStream | None = None
    try:
        stream = client.chat(messages, stream=True, **options)
        _print(stream)
    except Terminated:
        raise
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
