"""The target's own answers in place of those of a data set, asked for over the OpenAI API.

A head drafts what its target says, so it learns most from that (SpecForge and EAGLE-3 do the same).
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sglang_qwen3next_eagle3.base.errors import UserError, run_async
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.base.redact import text_without_secrets
from sglang_qwen3next_eagle3.model.chat_format import BadRecord, Conversation, Message
from sglang_qwen3next_eagle3.serving.connection import is_this_machine, message_of
from sglang_qwen3next_eagle3.train.data.formats import message

if TYPE_CHECKING:
    import openai

# As many in a row that fail after all retries mean that the server does, not the conversations.
_STRIKES = 8
_Http = TypeVar("_Http")


@dataclass(frozen=True)
class Settings:
    """model: empty for the one that is served. max_tokens: of each answer. retries: of each
    request, on 408, 409, 429, 5xx, a broken connection or `timeout` seconds, 0.5 s to 8 s apart or
    as Retry-After says."""

    base_url: str
    model: str = ""
    concurrency: int = 32
    max_tokens: int = 2048
    temperature: float = 0.0
    api_key: str | None = field(default=None, repr=False)
    retries: int = 6
    timeout: float = 600.0

    @property
    def server(self) -> str:
        return self.base_url.rstrip("/").removesuffix("/v1")

    @property
    def shown(self) -> str:
        """The server for messages, without a password."""
        return text_without_secrets(self.server)

    def client_options(self) -> dict[str, Any]:
        return {
            "base_url": f"{self.server}/v1",
            "api_key": self.api_key or "none",
            "max_retries": self.retries,
            "timeout": self.timeout,
        }


@dataclass(frozen=True)
class Failure:
    """A conversation that got no answer. reason: a name to count by."""

    id: str
    reason: str
    detail: str


class AnswerJournal:
    """Finished work that outlives a killed process: JSONL, synced line by line, keyed by id.

    with AnswerJournal(path, header) as journal: every entry is on disk once `append` returns.

    header: what all entries have in common; a journal with another one is refused.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Open it, and cut off a last line that a kill or a full disk left unfinished.

        Raises:
            UserError: another header, or broken before its last line.
        """
        self._path, self._places = path, dict[str, int]()
        self._stream = path.open("r+b" if path.exists() else "w+b")
        end = 0
        for number, line in enumerate(self._stream, 1):
            if not line.endswith(b"\n"):
                break
            entry = self._parse(number, line)
            if number == 1 and entry != header:
                raise UserError(f"{path} was begun with {entry}, now it is {header}: undo that")
            if number > 1:
                self._places[entry["id"]] = end
            end += len(line)
        self._stream.truncate(end)
        self._end = end
        if not end:
            self._write(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> dict[str, Any]:
        self._stream.seek(self._places[name])
        entry: dict[str, Any] = json.loads(self._stream.readline())
        return entry

    def append(self, entry: dict[str, Any]) -> None:
        """entry: with an `id` that is not in here yet."""
        place = self._end
        self._write(entry)
        self._places[entry["id"]] = place

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        self._stream.seek(self._end)
        self._stream.write(line)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._end += len(line)

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or (number > 1 and not isinstance(entry.get("id"), str)):
            raise UserError(f"{self._path}:{number} is broken: remove that line and start again")
        return entry


def served_model(settings: Settings) -> str:
    """The model to ask for, which the server has.

    Raises:
        UserError: no server there, it refuses us, or it serves another.
    """
    import openai

    with openai.OpenAI(
        **{**settings.client_options(), "timeout": 30.0, "max_retries": 2},
        http_client=_without_proxy(settings, openai.DefaultHttpxClient),
    ) as client:
        try:
            names = [model.id for model in client.models.list().data]
        except openai.NotFoundError:
            names = []
        except openai.OpenAIError as error:
            raise _fatal(settings, error) from None
    model = settings.model or (names[0] if names else "")
    if not model:
        raise UserError(f"{settings.shown} does not say what it serves: name it with --model")
    if names and model not in names:
        raise UserError(f"{settings.shown} serves {', '.join(names)}, not {model}: see --model")
    return model


def _without_proxy(settings: Settings, client: Callable[..., _Http]) -> _Http | None:
    """Of a server on this machine no proxy of the environment knows anything; None: the usual."""
    import httpx

    try:
        url = httpx.URL(settings.server)
    except httpx.InvalidURL:
        return None
    if not is_this_machine(url.host):
        return None
    # The environment's certificates, all the same.
    verify = httpx.create_ssl_context() if url.scheme == "https" else True
    return client(trust_env=False, verify=verify)


def regenerate(
    samples: Iterable[dict[str, Any]], total: int, settings: Settings, journal: AnswerJournal
) -> list[Failure]:
    """Ask for every answer of every sample that is not in the journal; put them there.

    samples: `{"id", "conversations"}`; total: how many. An entry of the journal adds `cut`, the
    number of answers that max_tokens ended, and `tokens`, of all its answers. Failures are not
    entered: the next start tries them again.

    Raises:
        UserError: the server went away or fails throughout; what is in the journal stays.
    """
    pending = (sample for sample in samples if sample["id"] not in journal)
    with Progress("regenerating", total, done=len(journal)) as progress:
        try:
            return run_async(_Run(settings, journal, progress).all(pending))
        except BaseExceptionGroup as group:
            raise _first(group) from None


class _Run:
    def __init__(self, settings: Settings, journal: AnswerJournal, progress: Progress) -> None:
        self._settings, self._journal, self._progress = settings, journal, progress
        self._failures: list[Failure] = []
        self._strikes = 0

    async def all(self, pending: Iterator[dict[str, Any]]) -> list[Failure]:
        import openai

        asyncio.get_running_loop().set_exception_handler(_unless_interrupted)
        async with (
            openai.AsyncOpenAI(
                **self._settings.client_options(),
                http_client=_without_proxy(self._settings, openai.DefaultAsyncHttpxClient),
            ) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(self._settings.concurrency):
                tasks.create_task(self._work(client, pending))
        return self._failures

    async def _work(self, client: "openai.AsyncOpenAI", pending: Iterator[dict[str, Any]]) -> None:
        for sample in pending:
            try:
                entry = await self._answer(client, sample)
            except BadRecord as bad:
                self._failures.append(Failure(sample["id"], bad.reason, bad.detail))
            else:
                self._journal.append(entry)
            self._progress.advance()

    async def _answer(self, client: "openai.AsyncOpenAI", sample: dict[str, Any]) -> dict[str, Any]:
        asked: Conversation = sample["conversations"]
        if any(one["role"] == "tool" for one in asked):
            raise BadRecord("tool_turns", "tool results belong to calls that the target never made")
        said: Conversation = []
        cut = tokens = 0
        for one in asked:
            if one["role"] != "assistant":
                said.append(one)
                continue
            reply = await self._ask(client, said)
            choice = reply.choices[0]
            said.append(message("assistant", choice.message.content or ""))
            cut += choice.finish_reason == "length"
            tokens += reply.usage.completion_tokens if reply.usage else 0
        return {"id": sample["id"], "conversations": said, "cut": cut, "tokens": tokens}

    async def _ask(self, client: "openai.AsyncOpenAI", messages: list[Message]) -> Any:
        import openai

        settings, create = self._settings, client.chat.completions.create
        sent: Any = messages
        try:
            reply: Any = await create(
                model=settings.model,
                messages=sent,
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
            )
        except openai.APITimeoutError:
            raise self._strike("timeout", f"no answer in {settings.timeout:g} s") from None
        except (openai.RateLimitError, openai.InternalServerError) as error:
            raise self._strike(f"status_{error.status_code}", _reason(error)) from None
        except (
            openai.APIConnectionError,
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
        ) as error:
            raise _fatal(settings, error) from None
        except openai.APIStatusError as error:
            raise BadRecord(f"status_{error.status_code}", _reason(error)) from None
        self._strikes = 0
        finish = reply.choices[0].finish_reason if getattr(reply, "choices", None) else "no choice"
        if finish not in ("stop", "length"):
            raise BadRecord("not_finished", f"the answer ended with {finish!r}")
        return reply

    def _strike(self, reason: str, detail: str) -> Exception:
        self._strikes += 1
        if self._strikes < max(_STRIKES, self._settings.concurrency):
            return BadRecord(reason, detail)
        return UserError(
            f"{self._settings.shown} fails throughout ({reason}: {detail}): {_kept(self._journal)}"
        )


def _unless_interrupted(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What ended a task is told by whoever runs this, not by the loop too."""
    error = context.get("exception")
    if isinstance(error, BaseExceptionGroup):
        error = _first(error)
    if not isinstance(error, KeyboardInterrupt):
        loop.default_exception_handler(context)


def _fatal(settings: Settings, error: "openai.OpenAIError") -> UserError:
    import openai

    if isinstance(error, openai.APIStatusError):
        return UserError(
            f"{settings.shown} refuses every request ({error.status_code}: {_reason(error)}): "
            "see --model and --api-key; finished answers are kept"
        )
    return UserError(
        f"no server answers at {settings.shown}: start the target there, or name it with "
        "--base-url, and run the same command again; finished answers are kept"
    )


def _kept(journal: AnswerJournal) -> str:
    return f"{len(journal)} finished conversations are kept, run the same command again to go on"


def _reason(error: "openai.APIStatusError") -> str:
    return message_of(error.body or error.message)[:300]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
