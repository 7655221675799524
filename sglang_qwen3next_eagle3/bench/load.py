"""Requests in flight: one as a stream with the times at which its tokens came, and B at a time,
from the first prompt of a suite to the last.

SGLang's /generate and not /v1/chat/completions, because only there every chunk of a stream brings
the exact count of tokens and of verify steps.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from sglang_qwen3next_eagle3.base.errors import run_async
from sglang_qwen3next_eagle3.base.event_stream import EventData
from sglang_qwen3next_eagle3.bench.results.records import Pass, RequestSample
from sglang_qwen3next_eagle3.bench.suites.suite import Prompt
from sglang_qwen3next_eagle3.model.chat_format import ChatFormat, Message
from sglang_qwen3next_eagle3.serving.connection import message_of

CONNECT_SECONDS = 10.0


class RequestFailed(Exception):
    """A request without a whole answer. fatal: the server, not the request, is the cause."""

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


def _client(stall_seconds: float) -> httpx.AsyncClient:
    """For any number of requests at once. stall_seconds: the longest wait for the next byte."""
    timeout = httpx.Timeout(stall_seconds, connect=CONNECT_SECONDS, pool=None)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    # A proxy has nothing to do with a server that is measured.
    return httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False)


async def ask(
    http: httpx.AsyncClient,
    url: str,
    prompt: str,
    input_ids: Sequence[int],
    sampling: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> RequestSample:
    """Raises RequestFailed."""
    body = {"input_ids": list(input_ids), "sampling_params": dict(sampling), "stream": True}
    stream = _Stream(prompt)
    try:
        async with http.stream("POST", f"{url}/generate", json=body, headers=headers) as reply:
            if reply.status_code != 200:
                text = (await reply.aread()).decode(errors="replace")
                raise RequestFailed(f"HTTP {reply.status_code}: {_message(text)}")
            events = EventData()
            async for received in reply.aiter_bytes():
                for data in events.feed(received):
                    stream.read(data)
    except httpx.ReadTimeout:
        seconds = http.timeout.read
        raise RequestFailed(f"stalled: nothing came for {seconds:g} s", fatal=True) from None
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise RequestFailed(f"the connection broke: {reason}", fatal=True) from None
    return stream.sample()


class _Stream:
    """The events of one answer, read as they come."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._started = time.perf_counter()
        self._chunks: list[tuple[float, int]] = []
        self._ids: list[int] = []
        self._last: dict[str, Any] | None = None
        self._end = self._started

    def read(self, data: bytes) -> None:
        """One event. Raises RequestFailed: the server reports an error in the stream."""
        now = time.perf_counter()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
            if "error" in event:
                raise RequestFailed(_message(data.decode(errors="replace")))
            count = int(event["meta_info"]["completion_tokens"])
        except (ValueError, KeyError, TypeError):
            said = data[:200].decode(errors="replace")
            raise RequestFailed(f"an event that is not SGLang's: {said}") from None
        self._end, self._last = now, event
        ids = event.get("output_ids") or []
        # Whole so far, or (--incremental-streaming-output) what is new.
        self._ids = list(ids) if len(ids) == count else [*self._ids, *ids]
        if count > (self._chunks[-1][1] if self._chunks else 0):
            self._chunks.append((now - self._started, count))

    def sample(self) -> RequestSample:
        """Raises RequestFailed: the answer broke off."""
        if self._last is None or not self._chunks:
            raise RequestFailed("the answer is empty")
        meta = self._last["meta_info"]
        finish = meta.get("finish_reason") or {}
        if not finish:
            raise RequestFailed("the answer broke off")
        if finish.get("type") == "abort":
            raise RequestFailed(f"aborted: {finish.get('message', 'no reason given')}")
        return RequestSample(
            prompt=self._prompt,
            prompt_tokens=meta["prompt_tokens"],
            completion_tokens=meta["completion_tokens"],
            seconds=self._end - self._started,
            first_token_seconds=self._chunks[0][0],
            chunks=tuple(self._chunks),
            finish_reason=finish.get("type"),
            output_ids=tuple(self._ids),
            verify_steps=meta.get("spec_verify_ct"),
            accepted_drafts=meta.get("spec_num_correct_drafts"),
            proposed_drafts=meta.get("spec_num_proposed_drafts"),
            histogram=tuple(meta.get("spec_correct_drafts_histogram") or ()),
        )


def _message(text: str) -> str:
    """What an error body says, in one line."""
    try:
        said = message_of(json.loads(text))
    except ValueError:
        said = " ".join(text.split())
    return said[:300] or "no reason given"


Turns = Callable[[Sequence[tuple[int, ...]]], Sequence[int] | None]
"""Given the answers so far (token ids), the next turn's input ids; None after the last turn."""


@dataclass(frozen=True)
class Dialogue:
    """One prompt of a suite. id: of its first turn; later ones have `#2`, `#3`, ... behind it."""

    id: str
    turns: Turns

    @classmethod
    def of(cls, prompt: Prompt, chat: ChatFormat) -> "Dialogue":
        """A prompt's turns in the target's chat format, with the answers between them."""
        # Before any clock runs.
        first = _turn(prompt, chat, ())
        return cls(prompt.id, lambda answers: _turn(prompt, chat, answers) if answers else first)


def _turn(prompt: Prompt, chat: ChatFormat, answers: Sequence[tuple[int, ...]]) -> list[int] | None:
    if len(answers) == len(prompt.turns):
        return None
    messages: list[Message] = []
    if prompt.system:
        messages.append({"role": "system", "content": prompt.system})
    for place, turn in enumerate(prompt.turns[: len(answers) + 1]):
        messages.append({"role": "user", "content": turn})
        if place < len(answers):
            messages.append({"role": "assistant", "content": chat.decode(answers[place])})
    return chat.ids(messages, answer=True)


def run(
    url: str,
    dialogues: Sequence[Dialogue],
    batch: int,
    sampling: Mapping[str, Any],
    *,
    stall_seconds: float,
    headers: Mapping[str, str] | None = None,
    done: Callable[[], None] = lambda: None,
) -> Pass:
    """All dialogues, `batch` of them at a time; a stalled or lost server ends the pass."""
    asking = _Asking(url, dict(sampling), dict(headers or {}), done)
    return run_async(asking.run(dialogues, batch, stall_seconds))


class _Asking:
    def __init__(
        self,
        url: str,
        sampling: dict[str, Any],
        headers: dict[str, str],
        done: Callable[[], None],
    ) -> None:
        self._url, self._sampling, self._headers, self._done = url, sampling, headers, done
        self._result = Pass()
        self._samples: dict[tuple[int, int], RequestSample] = {}

    async def run(self, dialogues: Sequence[Dialogue], batch: int, stall_seconds: float) -> Pass:
        waiting = list(enumerate(dialogues))[::-1]
        async with _client(stall_seconds) as http:

            async def slot() -> None:
                while waiting:
                    place, dialogue = waiting.pop()
                    await self._converse(http, place, dialogue)

            started = time.perf_counter()
            slots = [asyncio.create_task(slot()) for _ in range(min(batch, len(waiting)))]
            try:
                await asyncio.gather(*slots)
            except RequestFailed as error:
                self._result.broken = str(error)
            finally:
                for task in slots:
                    task.cancel()
                await asyncio.gather(*slots, return_exceptions=True)
            self._result.seconds = time.perf_counter() - started
        self._result.samples = [self._samples[key] for key in sorted(self._samples)]
        return self._result

    async def _converse(self, http: Any, place: int, dialogue: Dialogue) -> None:
        answers: list[tuple[int, ...]] = []
        while (ids := dialogue.turns(answers)) is not None:
            turn = len(answers) + 1
            name = dialogue.id if turn == 1 else f"{dialogue.id}#{turn}"
            try:
                sample = await ask(http, self._url, name, ids, self._sampling, self._headers)
            except RequestFailed as error:
                self._result.failures.append((name, str(error)))
                if error.fatal:
                    raise
                return
            self._samples[place, turn] = sample.model_copy(
                update={"conversation": dialogue.id, "turn": turn}
            )
            answers.append(sample.output_ids)
            self._done()
