"""B requests in flight, from the first prompt of a suite to the last."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_qwen3next_eagle3.bench.load import stream
from sglang_qwen3next_eagle3.bench.load.stream import RequestFailed
from sglang_qwen3next_eagle3.bench.results.records import Pass, RequestSample
from sglang_qwen3next_eagle3.bench.suites.suite import Prompt
from sglang_qwen3next_eagle3.model.chat_format import ChatFormat, Message

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
    return asyncio.run(asking.run(dialogues, batch, stall_seconds))


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
        async with stream.client(stall_seconds) as http:

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
                sample = await stream.ask(http, self._url, name, ids, self._sampling, self._headers)
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
