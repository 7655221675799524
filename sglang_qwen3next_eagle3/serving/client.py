"""A client for the served model, over the `openai` SDK, with the figures of speculation.

client = Client("http://127.0.0.1:30000")
print(client.chat("Write a Python function to merge two sorted lists.").text)
for piece in client.chat("And a test for it.", stream=True):
    print(piece, end="")
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

from sglang_qwen3next_eagle3.base.errors import UserError

if TYPE_CHECKING:
    import openai

DEFAULT_BASE_URL = "http://127.0.0.1:30000"
Prompt = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Answer:
    """A finished answer and its figures.

    seconds: from sending the request to the last byte; first_token_seconds: to the first text, of
        a streamed answer only.
    verify_steps: forward passes of the target that verified drafts; None without speculation.
    exact: the server said so. SGLang sends no figures with a stream, so there the steps are the
        growths of the token count that were seen, and steps that arrived together count as one.
    """

    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    first_token_seconds: float | None = None
    verify_steps: int | None = None
    exact: bool = True

    @property
    def accept_length(self) -> float | None:
        """Completion tokens for each verify step, as SGLang defines it (1.0: nothing accepted)."""
        return self.completion_tokens / self.verify_steps if self.verify_steps else None

    @property
    def tokens_per_second(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds else 0.0

    def figures(self) -> str:
        """One line for people."""
        line = f"{self.completion_tokens} tokens, {self.tokens_per_second:.1f} tok/s"
        if self.accept_length is not None:
            about = "" if self.exact else "about "
            line += f", accept length {about}{self.accept_length:.2f}"
        if self.first_token_seconds is not None:
            line += f", first token after {self.first_token_seconds:.2f} s"
        return f"{line}, finished: {self.finish_reason}"


class AnswerStream(Iterator[str]):
    """The pieces of an answer as they arrive; `answer` holds the whole once they are read."""

    def __init__(self, chunks: "openai.Stream[Any]", started: float) -> None:
        self._chunks = chunks
        self._started = started
        self._pieces = self._read()
        self.answer: Answer | None = None

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop reading; the server drops the request."""
        self._chunks.close()

    def _read(self) -> Iterator[str]:
        text: list[str] = []
        counts: list[int] = []
        prompt_tokens, finish_reason, first = 0, None, None
        for chunk in self._chunks:
            if chunk.usage is not None:
                prompt_tokens = chunk.usage.prompt_tokens
                counts.append(chunk.usage.completion_tokens)
            for choice in chunk.choices:
                finish_reason = choice.finish_reason or finish_reason
                if choice.delta.content:
                    first = first or time.perf_counter() - self._started
                    text.append(choice.delta.content)
                    yield choice.delta.content
        tokens = max(counts, default=0)
        # The first token comes from the prefill, not from a verify step.
        steps = len({count for count in counts if count > 0}) - 1
        self.answer = Answer(
            text="".join(text),
            finish_reason=finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=tokens,
            seconds=time.perf_counter() - self._started,
            first_token_seconds=first,
            # Without speculation every token is a step of its own.
            verify_steps=steps if 0 < steps < tokens - 1 else None,
            exact=False,
        )


class Client:
    """Talks to one server. base_url: with or without `/v1`; model: any name, SGLang serves one."""

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        *,
        api_key: str | None = None,
        model: str = "default",
        timeout: float = 600.0,
    ) -> None:
        import openai

        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.openai = openai.OpenAI(
            base_url=f"{self.base_url}/v1", api_key=api_key or "none", timeout=timeout
        )

    @overload
    def chat(self, prompt: Prompt, *, stream: Literal[False] = False, **options: Any) -> Answer: ...

    @overload
    def chat(self, prompt: Prompt, *, stream: Literal[True], **options: Any) -> AnswerStream: ...

    def chat(
        self, prompt: Prompt, *, stream: bool = False, **options: Any
    ) -> Answer | AnswerStream:
        """One answer to a prompt or to a list of messages.

        options: those of the OpenAI API (max_tokens, stop, tools, ...); temperature is 0 unless
            given, which is where speculation pays most.

        Raises:
            UserError: no server there, or it refused the request.
        """
        import openai

        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        options = {"temperature": 0, "model": self.model, "messages": messages, **options}
        create: Any = self.openai.chat.completions.create
        started = time.perf_counter()
        try:
            if stream:
                usage = {"include_usage": True, "continuous_usage_stats": True}
                chunks = create(stream=True, stream_options=usage, **options)
                return AnswerStream(chunks, started)
            body = {"return_meta_info": True, **options.pop("extra_body", {})}
            reply = create(extra_body=body, **options)
        except openai.APIConnectionError:
            raise UserError(
                f"no server answers at {self.base_url}: start one with "
                "`sglang-qwen3next-eagle3 launch --profile demo`, or name it with --base-url"
            ) from None
        except openai.APIStatusError as error:
            raise UserError(f"the server refused ({error.status_code}): {_reason(error)}") from None
        answer = _answer(reply)
        return replace(answer, seconds=time.perf_counter() - started)


def _answer(reply: Any) -> Answer:
    choice = reply.choices[0]
    meta = getattr(choice, "meta_info", None) or {}
    return Answer(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason,
        prompt_tokens=reply.usage.prompt_tokens,
        completion_tokens=reply.usage.completion_tokens,
        seconds=0.0,
        verify_steps=meta.get("spec_verify_ct"),
    )


def _reason(error: "openai.APIStatusError") -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(message or error.message).split())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="the question; - reads it from standard input")
    parser.add_argument("--base-url", default=DEFAULT_BASE_URL, help="default: %(default)s")
    parser.add_argument("--api-key")
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
    client = Client(arguments.base_url, api_key=arguments.api_key)
    options = {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature}
    if arguments.json:
        answer = client.chat(messages, **options)
        extra = {
            "accept_length": answer.accept_length,
            "tokens_per_second": answer.tokens_per_second,
        }
        print(json.dumps({**asdict(answer), **extra}, indent=2, ensure_ascii=False))
        return 0
    stream = client.chat(messages, stream=True, **options)
    try:
        for piece in stream:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        stream.close()
        print("\ninterrupted: the server drops the request", file=sys.stderr)
        return 130
    print()
    if stream.answer is not None:
        print(f"[{stream.answer.figures()}]", file=sys.stderr)
    return 0
