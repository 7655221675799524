"""Sessions of servers, passes over them, and what is done when one of them fails."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sglang_qwen3next_eagle3.base.errors import ServerFailed, UserError
from sglang_qwen3next_eagle3.base.redact import text_without_paths, text_without_secrets
from sglang_qwen3next_eagle3.bench.load import load
from sglang_qwen3next_eagle3.bench.load.load import Dialogue
from sglang_qwen3next_eagle3.bench.results.journal import Journal, PassKey
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Pass
from sglang_qwen3next_eagle3.serving.server import GONE_SECONDS, Server

Start = Callable[[], AbstractContextManager[Server]]
WARM_TOKENS = 16


@dataclass(frozen=True)
class Work:
    """What a pass asks. warm: asked before, at the same batch, and not measured."""

    dialogues: Sequence[Dialogue]
    sampling: Mapping[str, Any]
    warm: Sequence[Dialogue]
    before: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Session:
    """One start of a configuration's server, and the passes that it is there for."""

    configuration: Configuration
    start: Start
    keys: tuple[PassKey, ...]


class Runner:
    """Runs groups of sessions; the servers of a group are up at the same time.

    workload: of a pass, asked when its server is up. say: one line for people. advance: once for
    every answer.
    """

    def __init__(
        self,
        journal: Journal,
        workload: Callable[[PassKey], Work],
        *,
        stall_seconds: float,
        say: Callable[[str], None],
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal, self._workload = journal, workload
        self._stall_seconds, self._say, self._advance = stall_seconds, say, advance

    def run(self, groups: Sequence[Sequence[Session]]) -> None:
        """Raises UserError: the journal holds passes of other servers by the same names."""
        for session in (session for group in groups for session in group):
            self._journal.admit(session.configuration)
        for group in groups:
            left = [_left(session, self._journal) for session in group]
            due = [session for session in left if session.keys]
            if due:
                self._run_group(due)
        self._settle(groups)

    def _settle(self, groups: Sequence[Sequence[Session]]) -> None:
        """What failed once and was made up for is no failure."""
        sessions = [session for group in groups for session in group]
        asked = {session.configuration.name for session in sessions}
        missing = {s.configuration.name for s in sessions if _left(s, self._journal).keys}
        for name, row in self._journal.configurations().items():
            if row.status == "failed" and name in asked - missing:
                update = {"status": "ok", "error": None, "log_tail": ()}
                self._journal.note(row.model_copy(update=update))

    def _run_group(self, group: Sequence[Session]) -> None:
        with contextlib.ExitStack() as stack:
            up: dict[str, Server] = {}
            for session in group:
                configuration = session.configuration
                self._say(f"{configuration.name}: starting the server")
                try:
                    server = stack.enter_context(session.start())
                except ServerFailed as error:
                    self._failed(configuration, error)
                    continue
                except UserError as error:
                    self._failed(configuration, ServerFailed(str(error)))
                    continue
                up[configuration.name] = server
                self._journal.note(_ready(self._known(configuration), server))
                if server.ready_seconds is not None:
                    self._say(f"{configuration.name}: ready after {server.ready_seconds:.0f} s")
            for session, key in _interleaved(group):
                if key.configuration not in up:
                    continue
                try:
                    self._pass(key, up[key.configuration])
                except ServerFailed as error:
                    self._failed(session.configuration, error)
                    del up[key.configuration]

    def _pass(self, key: PassKey, server: Server) -> None:
        work = self._workload(key)
        work.before()
        if work.warm:
            warm = {**work.sampling, "max_new_tokens": WARM_TOKENS}
            self._ask(server, work.warm, key.batch, warm, lambda: None)
            server.flush()
        measured = self._ask(server, work.dialogues, key.batch, work.sampling, self._advance)
        # Before anything else can fail.
        self._journal.add(key, measured)
        if measured.failures:
            prompt, why = measured.failures[0]
            self._say(f"{_spell(key)}: {len(measured.failures)} failed, the first {prompt}: {why}")
        server.flush()

    def _ask(
        self,
        server: Server,
        dialogues: Sequence[Dialogue],
        batch: int,
        sampling: Mapping[str, Any],
        done: Callable[[], None],
    ) -> Pass:
        """Raises ServerFailed: the server did not answer all of them, or none."""
        found = load.run(
            server.url,
            dialogues,
            batch,
            sampling,
            stall_seconds=self._stall_seconds,
            headers=server.headers,
            done=done,
        )
        if found.broken is not None:
            # A server that crashed may still be ending.
            server.check(GONE_SECONDS)
            raise ServerFailed(found.broken, server.log_tail())
        if not found.samples:
            why = found.failures[0][1]
            raise ServerFailed(f"no request was answered: {why}", server.log_tail())
        return found

    def _known(self, configuration: Configuration) -> Configuration:
        """With what earlier sessions found out, a failure included."""
        return self._journal.configurations().get(configuration.name, configuration)

    def _failed(self, configuration: Configuration, error: ServerFailed) -> None:
        lines = tuple(text_without_paths(text_without_secrets(line)) for line in error.log_tail)
        update = {"status": "failed", "error": str(error), "log_tail": lines}
        self._journal.note(self._known(configuration).model_copy(update=update))
        self._say(f"{configuration.name}: {error}; the end of its log:")
        for line in error.log_tail[-5:]:
            self._say(f"  {text_without_secrets(line)}")


def _ready(configuration: Configuration, server: Server) -> Configuration:
    states = server.info().get("internal_states")
    state = states[0] if isinstance(states, list) and states else {}
    running = state.get("effective_max_running_requests_per_dp")
    update = {"ready_seconds": server.ready_seconds, "max_running_requests": running}
    return configuration.model_copy(update=update)


def _left(session: Session, journal: Journal) -> Session:
    keys = tuple(key for key in session.keys if not journal.has(key))
    return Session(session.configuration, session.start, keys)


def _interleaved(group: Sequence[Session]) -> Iterator[tuple[Session, PassKey]]:
    """Each cell at all servers before the next cell; every other repetition backwards."""
    rows = [(session, key) for session in group for key in session.keys]
    places = {session.configuration.name: place for place, session in enumerate(group)}
    order = {key: index for session in group for index, key in enumerate(session.keys)}

    def rank(row: tuple[Session, PassKey]) -> tuple[int, int, int]:
        session, key = row
        place = places[session.configuration.name]
        return (key.repetition, order[key], -place if key.repetition % 2 else place)

    return iter(sorted(rows, key=rank) if len(group) > 1 else rows)


def _spell(key: PassKey) -> str:
    return f"{key.configuration}, {key.suite}, B={key.batch}, repetition {key.repetition + 1}"
