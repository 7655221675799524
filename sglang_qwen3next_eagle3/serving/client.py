"""A client for the served model, over its OpenAI API, with the figures of speculation.

client = Client("http://127.0.0.1:30000")
print(client.chat("Write a Python function to merge two sorted lists.").text)
for piece in client.chat("And a test for it.", stream=True):
    print(piece, end="")
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self, overload

from sglang_qwen3next_eagle3.base.accept_length import accept_length
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.event_stream import EventData
from sglang_qwen3next_eagle3.serving.connection import (
    API_KEY_VARIABLE,
    DEFAULT_BASE_URL,
    Connection,
    message_of,
)

__all__ = ["API_KEY_VARIABLE", "DEFAULT_BASE_URL", "Answer", "AnswerStream", "Client"]

PATH = "/v1/chat/completions"
_DONE = b"[DONE]"
_EVENTS = "text/event-stream"
_JSON = {"Content-Type": "application/json"}
Prompt = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Answer:
    """A finished answer and its figures.

    seconds: from sending the request to the last byte; first_token_seconds: to the first text, of
        a streamed answer only.
    verify_steps: forward passes of the target that verified drafts; None without speculation.
    exact: the server said so. SGLang sends no figures with a stream, so there the steps are the
        growths of the token count that were seen, and steps that arrived together count as one.
    tool_calls: as the OpenAI API gives them: id, type and function (name, arguments).
    logprobs: of the answer's tokens, where they were asked for; as the OpenAI API gives them.
    """

    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    first_token_seconds: float | None = None
    verify_steps: int | None = None
    exact: bool = True
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    logprobs: tuple[Mapping[str, Any], ...] = ()

    @property
    def accept_length(self) -> float | None:
        """As SGLang defines it (1.0: nothing accepted); see base/accept_length.py."""
        return accept_length(self.completion_tokens, self.verify_steps)

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
    """The pieces of an answer as they arrive; `answer` holds the whole once they are read.

    Reading raises UserError where the server goes away or fails in the middle.
    """

    def __init__(self, server: "Client", body: Mapping[str, Any], seconds: float) -> None:
        self.answer: Answer | None = None
        self._stack = contextlib.ExitStack()
        self._started = time.perf_counter()
        self._pieces: Iterator[str] = iter(())
        way, limits = server.connection, server.connection.limits(seconds)
        with way.explained(seconds), contextlib.ExitStack() as stack:
            request = way.http.stream(
                "POST", PATH, content=_encoded(body), headers=_JSON, timeout=limits
            )
            self._response = stack.enter_context(request)
            if self._response.status_code != 200:
                self._response.read()
                raise way.refusal(self._response)
            if not self._response.headers.get("Content-Type", "").startswith(_EVENTS):
                raise ValueError("no stream of events")
            self._stack = stack.pop_all()
        self._pieces = self._read(way, seconds)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop reading; the server drops the request."""
        self._pieces = iter(())
        self._stack.close()

    def _read(self, way: Connection, seconds: float) -> Iterator[str]:
        text: list[str] = []
        logprobs: list[Mapping[str, Any]] = []
        calls: dict[int, dict[str, Any]] = {}
        counts: list[int] = []
        prompt_tokens, finish_reason, first = 0, None, None
        with self._stack, way.explained(seconds):
            for chunk in self._chunks():
                if usage := chunk.get("usage"):
                    prompt_tokens = usage["prompt_tokens"]
                    counts.append(usage["completion_tokens"])
                for choice in chunk.get("choices") or ():
                    finish_reason = choice.get("finish_reason") or finish_reason
                    delta = choice.get("delta") or {}
                    logprobs += _logprobs(choice)
                    _add_calls(calls, delta.get("tool_calls") or ())
                    if delta.get("content"):
                        first = first or time.perf_counter() - self._started
                        text.append(delta["content"])
                        yield delta["content"]
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
            tool_calls=tuple(calls[index] for index in sorted(calls)),
            logprobs=tuple(logprobs),
        )

    def _chunks(self) -> Iterator[dict[str, Any]]:
        events = EventData()
        for received in self._response.iter_bytes():
            for data in events.feed(received):
                if data == _DONE:
                    return
                chunk = json.loads(data)
                if "error" in chunk or chunk.get("object") == "error":
                    said = message_of(chunk)
                    raise UserError(f"the server failed in the middle of the answer: {said}")
                yield chunk
        raise UserError("the answer broke off: the server or the connection to it ended")


class Client:
    """Talks to one server, without retries: its seconds are those of one request.

    base_url: with or without `/v1`; model: any name, SGLang serves one; timeout: seconds without a
    byte of the answer. Proxies of the environment are asked for other machines only, and
    SSL_CERT_FILE names a certificate authority of one's own.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        *,
        api_key: str | None = None,
        model: str = "default",
        timeout: float = 600.0,
    ) -> None:
        self.connection = Connection(base_url, api_key)
        self.connection.limits(timeout)
        self.model = model
        self.timeout = timeout

    def close(self) -> None:
        """Give up its connections."""
        self.connection.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    @overload
    def chat(self, prompt: Prompt, *, stream: Literal[False] = False, **options: Any) -> Answer: ...

    @overload
    def chat(self, prompt: Prompt, *, stream: Literal[True], **options: Any) -> AnswerStream: ...

    @overload
    def chat(self, prompt: Prompt, *, stream: bool, **options: Any) -> Answer | AnswerStream: ...

    def chat(
        self, prompt: Prompt, *, stream: bool = False, **options: Any
    ) -> Answer | AnswerStream:
        """One answer to a prompt or to a list of messages.

        options: those of the OpenAI API (max_tokens, stop, tools, ...), and SGLang's own;
            temperature is 0 unless given, which is where speculation pays most. `extra_body` adds
            to them, `timeout` is for this request.

        Raises:
            UserError: no server there, it refused the request, or it did not answer in time.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        seconds = float(options.pop("timeout", self.timeout))
        body = {"temperature": 0, "model": self.model, "messages": messages}
        body |= {**options.pop("extra_body", {}), **options}
        if body.get("n") not in (None, 1):
            raise UserError(f"n={body['n']}: one answer is given at a time; ask again for another")
        if stream:
            usage = {"include_usage": True, "continuous_usage_stats": True}
            body |= {"stream": True, "stream_options": usage}
            return AnswerStream(self, body, seconds)
        body = {"return_meta_info": True, **body, "stream": False}
        way, limits, content = self.connection, self.connection.limits(seconds), _encoded(body)
        started = time.perf_counter()
        with way.explained(seconds):
            reply = way.http.post(PATH, content=content, headers=_JSON, timeout=limits)
            if reply.status_code != 200:
                raise way.refusal(reply)
            answer = _answer(reply.json())
        return replace(answer, seconds=time.perf_counter() - started)


def _encoded(body: Mapping[str, Any]) -> bytes:
    """Raises UserError: no server could read it."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise UserError("the question holds bytes that are no UTF-8 text: mend them") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"the request cannot be written as JSON ({error}): mend it") from None


def _answer(reply: Mapping[str, Any]) -> Answer:
    if "choices" not in reply and ("error" in reply or reply.get("object") == "error"):
        raise UserError(f"the server failed: {message_of(reply)}")
    choice = reply["choices"][0]
    return Answer(
        text=choice["message"].get("content") or "",
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=reply["usage"]["prompt_tokens"],
        completion_tokens=reply["usage"]["completion_tokens"],
        seconds=0.0,
        verify_steps=(choice.get("meta_info") or {}).get("spec_verify_ct"),
        tool_calls=tuple(choice["message"].get("tool_calls") or ()),
        logprobs=tuple(_logprobs(choice)),
    )


def _logprobs(choice: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (choice.get("logprobs") or {}).get("content") or ()


def _add_calls(calls: dict[int, dict[str, Any]], deltas: Sequence[Mapping[str, Any]]) -> None:
    """A call comes in pieces: its name first, then its arguments bit by bit."""
    for delta in deltas:
        call = calls.setdefault(
            int(delta.get("index") or 0),
            {"id": None, "type": "function", "function": {"name": "", "arguments": ""}},
        )
        call["id"] = delta.get("id") or call["id"]
        for key, value in (delta.get("function") or {}).items():
            if key in call["function"]:
                call["function"][key] += value or ""
