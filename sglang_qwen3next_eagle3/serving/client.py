"""A client for the served model, over its OpenAI API, with the figures of speculation.

client = Client("http://127.0.0.1:30000")
print(client.chat("Write a Python function to merge two sorted lists.").text)
for piece in client.chat("And a test for it.", stream=True):
    print(piece, end="")
"""

import contextlib
import ipaddress
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

from sglang_qwen3next_eagle3.base.accept_length import accept_length
from sglang_qwen3next_eagle3.base.errors import UserError

if TYPE_CHECKING:
    import httpx

DEFAULT_BASE_URL = "http://127.0.0.1:30000"
API_KEY_VARIABLE = "SGLANG_API_KEY"
"""Where the verbs that ask a server find its key, unless they are given one."""
PATH = "/v1/chat/completions"
CONNECT_SECONDS = 10.0
"""A server that is there takes a connection at once, whatever its answer takes."""
_DONE = "[DONE]"
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
        with server.explained(seconds):
            request = server.http.stream("POST", PATH, json=body, timeout=server.limits(seconds))
            self._response = self._stack.enter_context(request)
            if self._response.status_code != 200:
                self._response.read()
                self.close()
                raise _refusal(self._response)
        self._pieces = self._read(server, seconds)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop reading; the server drops the request."""
        self._pieces = iter(())
        self._stack.close()

    def _read(self, server: "Client", seconds: float) -> Iterator[str]:
        text: list[str] = []
        calls: dict[int, dict[str, Any]] = {}
        counts: list[int] = []
        prompt_tokens, finish_reason, first = 0, None, None
        with self._stack, server.explained(seconds):
            for chunk in self._chunks():
                if usage := chunk.get("usage"):
                    prompt_tokens = usage["prompt_tokens"]
                    counts.append(usage["completion_tokens"])
                for choice in chunk.get("choices") or ():
                    finish_reason = choice.get("finish_reason") or finish_reason
                    delta = choice.get("delta") or {}
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
        )

    def _chunks(self) -> Iterator[dict[str, Any]]:
        for line in self._response.iter_lines():
            data = line.removeprefix("data:").strip()
            if not line.startswith("data:"):
                continue
            if data == _DONE:
                return
            chunk = json.loads(data)
            if "error" in chunk or chunk.get("object") == "error":
                raise UserError(f"the server failed in the middle of the answer: {_message(chunk)}")
            yield chunk
        raise UserError("the answer broke off: the server or the connection to it ended")


class Client:
    """Talks to one server, without retries: its seconds are those of one request.

    base_url: with or without `/v1`; model: any name, SGLang serves one; timeout: seconds without a
    byte of the answer. Proxies of the environment are asked for other machines only.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        *,
        api_key: str | None = None,
        model: str = "default",
        timeout: float = 600.0,
    ) -> None:
        import httpx

        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.timeout = timeout
        with self.explained(timeout):
            url = httpx.URL(self.base_url)
            self.http = httpx.Client(
                base_url=url, headers=authorization(api_key), trust_env=not is_loopback(url.host)
            )

    @overload
    def chat(self, prompt: Prompt, *, stream: Literal[False] = False, **options: Any) -> Answer: ...

    @overload
    def chat(self, prompt: Prompt, *, stream: Literal[True], **options: Any) -> AnswerStream: ...

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
        if body.get("n", 1) != 1:
            raise UserError(f"n={body['n']}: one answer is given at a time; ask again for another")
        if stream:
            usage = {"include_usage": True, "continuous_usage_stats": True}
            body |= {"stream": True, "stream_options": usage}
            return AnswerStream(self, body, seconds)
        body = {"return_meta_info": True, **body}
        started = time.perf_counter()
        with self.explained(seconds):
            reply = self.http.post(PATH, json=body, timeout=self.limits(seconds))
        if reply.status_code != 200:
            raise _refusal(reply)
        with self.explained(seconds):
            answer = _answer(reply.json())
        return replace(answer, seconds=time.perf_counter() - started)

    def limits(self, seconds: float) -> "httpx.Timeout":
        import httpx

        return httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))

    @contextlib.contextmanager
    def explained(self, seconds: float) -> Iterator[None]:
        """What goes wrong between here and the server, as one line with the way out."""
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError):
            raise UserError(
                f"no server answers at {self.base_url}: start one with "
                "`sglang-qwen3next-eagle3 launch --profile demo`, or name it with --base-url"
            ) from None
        except httpx.TimeoutException:
            raise UserError(
                f"{self.base_url} timed out: no byte of the answer came for {seconds:g} s; ask for "
                "fewer tokens, or wait longer (Client(timeout=...))"
            ) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise UserError(
                f"{self.base_url!r} is no address of a server ({error}): write it as "
                f"{DEFAULT_BASE_URL}"
            ) from None
        except httpx.TransportError as error:
            raise UserError(
                f"the connection to {self.base_url} broke ({error or type(error).__name__}): see "
                "whether the server still runs"
            ) from None
        except (ValueError, LookupError, TypeError):
            raise UserError(
                f"{self.base_url} does not answer as the OpenAI API does: is it an SGLang server?"
            ) from None


def authorization(api_key: str | None) -> dict[str, str]:
    """The header that carries the key. Raises UserError: no header can hold it."""
    if not api_key:
        return {}
    if not api_key.isascii():
        raise UserError("the API key has letters that no HTTP header can hold")
    return {"Authorization": f"Bearer {api_key}"}


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _answer(reply: Mapping[str, Any]) -> Answer:
    choice = reply["choices"][0]
    return Answer(
        text=choice["message"].get("content") or "",
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=reply["usage"]["prompt_tokens"],
        completion_tokens=reply["usage"]["completion_tokens"],
        seconds=0.0,
        verify_steps=(choice.get("meta_info") or {}).get("spec_verify_ct"),
        tool_calls=tuple(choice["message"].get("tool_calls") or ()),
    )


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


def _refusal(response: "httpx.Response") -> UserError:
    try:
        message = _message(response.json())
    except ValueError:
        message = " ".join(response.text[:200].split())
    return UserError(f"the server refused ({response.status_code}): {message}")


def _message(body: Any) -> str:
    inner = body.get("error", body) if isinstance(body, dict) else body
    message = inner.get("message") if isinstance(inner, dict) else None
    return " ".join(str(message or inner).split())
