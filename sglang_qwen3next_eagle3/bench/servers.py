"""The servers of a benchmark: how one is started, in which order they come, what each is asked, and
what is done when one fails.

Every pass is kept as soon as it is there, and what is there is left out: starting the same command
again is the retry.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import processes
from sglang_qwen3next_eagle3.base.errors import ServerFailed, UserError
from sglang_qwen3next_eagle3.base.files import slug
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.base.redact import (
    text_without_paths,
    text_without_secrets,
    without_secrets,
)
from sglang_qwen3next_eagle3.bench import load
from sglang_qwen3next_eagle3.bench.configurations import Contender
from sglang_qwen3next_eagle3.bench.load import Dialogue
from sglang_qwen3next_eagle3.bench.results.journal import Journal, PassKey
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Pass
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.serving import server as serving
from sglang_qwen3next_eagle3.serving import startup, unused
from sglang_qwen3next_eagle3.serving.command_line import build_argv
from sglang_qwen3next_eagle3.serving.flags import last_value
from sglang_qwen3next_eagle3.serving.server import GONE_SECONDS, Server
from sglang_qwen3next_eagle3.serving.unused import UnusedVariable

WARM_TOKENS = 16
OURS = (variables.SIMULATE, variables.ROUTING, variables.STEPS, variables.CYCLE)
"""What only a benchmark sets: whatever the caller's environment has, a server gets none of it that
the benchmark does not name."""


@dataclass(frozen=True)
class ServedConfiguration:
    """What is compared. start: gives a block in which its server comes up and is up. unused: of the
    caller's environment what does not count for it.

    What the block gives is asked until it returns the server; raises ServerFailed.
    """

    configuration: Configuration
    start: Callable[[], AbstractContextManager[Callable[[], Server | None]]]
    unused: tuple[UnusedVariable, ...] = ()


def served(
    contender: Contender,
    folder: Path,
    flags: Sequence[str],
    start_seconds: float,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> ServedConfiguration:
    """A contender whose server the launcher starts. Raises UserError: it cannot be served.

    folder: gets its log below logs/, and below servers/ its profile, without secrets.
    flags: of SGLang, after the profile's. environment: beyond the caller's, less `OURS`; options:
    of the command, by which of its variables they set.
    """
    told = {**dict.fromkeys(OURS, ""), **(environment or {})}
    launch = contender.plan(flags)
    of_command = unused.of_command(told, options or {}, launch.environment, contender.said)
    log = folder / "logs" / f"{slug(contender.name)}.log"
    key = last_value([*build_argv(contender.profile), *flags], "--api-key")

    @contextmanager
    def start() -> Iterator[Callable[[], Server | None]]:
        with tempfile.TemporaryDirectory(prefix="bench-") as private:
            path = contender.write(Path(private))
            contender.write(folder / "servers", without_secrets)
            words = ["--profile", str(path), "--port", "{port}"]
            words += ["--", *flags] if flags else []
            with serving.starting(words, log, told, start_seconds, key) as begun:
                yield begun.poll

    return ServedConfiguration(contender.describe(launch), start, (*launch.unused, *of_command))


def tell_unused(
    compared: Sequence[ServedConfiguration],
    say: Callable[[str], None],
    of_all: Sequence[UnusedVariable] = (),
) -> None:
    """Before anything starts, of all of them in one line. of_all: what else of the caller's
    environment none of them uses."""
    if (line := unused.line([(*one.unused, *of_all) for one in compared])) is not None:
        say(line)


@dataclass(frozen=True)
class Session:
    """One start of a server, and the passes that it is there for."""

    served: ServedConfiguration
    keys: tuple[PassKey, ...]

    @property
    def name(self) -> str:
        return self.served.configuration.name

    def left(self, journal: Journal) -> "Session":
        """With the passes that are not measured yet."""
        return replace(self, keys=tuple(key for key in self.keys if not journal.has(key)))


def in_order(
    compared: Sequence[ServedConfiguration],
    keys: Callable[[Configuration, int], Sequence[PassKey]],
    repeats: int,
    *,
    restart: bool,
    side_by_side: bool,
) -> list[list[Session]]:
    """Groups of sessions, one after the other; the servers of a group are up at the same time.

    keys: the passes of a configuration in a repetition. restart: each repetition has a start of its
    own, every other one in reverse order, so that what drifts with time (clocks, temperature,
    neighbours) does not favour one configuration.
    """
    every = range(repeats)
    if restart and not side_by_side:
        return [
            [Session(one, tuple(keys(one.configuration, repetition)))]
            for repetition in every
            for one in (compared[::-1] if repetition % 2 else compared)
        ]
    whole = [
        Session(one, tuple(key for n in every for key in keys(one.configuration, n)))
        for one in compared
    ]
    return [whole] if side_by_side else [[session] for session in whole]


@dataclass(frozen=True)
class Work:
    """What a pass asks. warm: asked before, at the same batch, and not measured; warm_tokens: that
    each of them is answered with."""

    dialogues: Sequence[Dialogue]
    sampling: Mapping[str, Any]
    warm: Sequence[Dialogue]
    before: Callable[[], None] = lambda: None
    warm_tokens: int = WARM_TOKENS


class Loop:
    """Goes over groups of sessions. work: of a pass, asked for when its server is up."""

    def __init__(
        self,
        journal: Journal,
        work: Callable[[PassKey], Work],
        stall_seconds: float,
        progress: Progress,
    ) -> None:
        self._journal, self._work = journal, work
        self._stall_seconds, self._progress = stall_seconds, progress

    def run(self, groups: Sequence[Sequence[Session]]) -> None:
        """Raises UserError: the journal holds passes of other servers by the same names."""
        sessions = [session for group in groups for session in group]
        for session in sessions:
            self._journal.admit(session.served.configuration)
        for group in groups:
            left = [session.left(self._journal) for session in group]
            self._run_group([session for session in left if session.keys])
        self.settle(sessions)

    def settle(self, sessions: Sequence[Session]) -> None:
        """What failed once and was made up for is no failure."""
        asked = {session.name for session in sessions}
        missing = {session.name for session in sessions if session.left(self._journal).keys}
        for name, row in self._journal.configurations().items():
            if row.status == "failed" and name in asked - missing:
                update = {"status": "ok", "error": None, "log_tail": ()}
                self._journal.note(row.model_copy(update=update))

    def _run_group(self, group: Sequence[Session]) -> None:
        with contextlib.ExitStack() as stack:
            up = self._start(group, stack)
            for session, key in _interleaved(group):
                if session.name not in up:
                    continue
                try:
                    self._pass(key, up[session.name])
                except (ServerFailed, UserError) as error:
                    # What a pass is to be told may not be possible by what was measured so far.
                    failed = error if isinstance(error, ServerFailed) else ServerFailed(str(error))
                    self._failed(session, failed)
                    del up[session.name]

    def _start(self, group: Sequence[Session], stack: contextlib.ExitStack) -> dict[str, Server]:
        """The servers of a group that came up, by name. They start at the same time."""
        begun: list[tuple[Session, Callable[[], Server | None], contextlib.ExitStack]] = []
        for session in group:
            self._progress.say(f"{session.name}: starting the server")
            # Of its own, so that one that failed takes no memory from the others.
            block = stack.enter_context(contextlib.ExitStack())
            try:
                begun.append((session, block.enter_context(session.served.start()), block))
            except UserError as error:
                self._failed(session, ServerFailed(str(error)))
        up: dict[str, Server] = {}
        while begun:
            for one in tuple(begun):
                session, poll, block = one
                try:
                    server = poll()
                except (ServerFailed, UserError) as error:
                    failed = error if isinstance(error, ServerFailed) else ServerFailed(str(error))
                    self._failed(session, failed)
                    begun.remove(one)
                    block.close()
                    continue
                if server is None:
                    continue
                begun.remove(one)
                up[session.name] = server
                self._journal.note(ready(self._known(session), server))
                if server.ready_seconds is not None:
                    self._progress.say(f"{session.name}: ready after {server.ready_seconds:.0f} s")
            if begun:
                time.sleep(processes.POLL_SECONDS)
        return up

    def _pass(self, key: PassKey, server: Server) -> None:
        work = self._work(key)
        work.before()
        if work.warm:
            warm = {**work.sampling, "max_new_tokens": work.warm_tokens}
            ask(server, work.warm, key.batch, warm, self._stall_seconds)
            server.flush()
        measured = ask(
            server,
            work.dialogues,
            key.batch,
            work.sampling,
            self._stall_seconds,
            self._progress.advance,
        )
        # Before anything else can fail.
        self._journal.add(key, measured)
        if measured.failures:
            prompt, why = measured.failures[0]
            count = len(measured.failures)
            self._progress.say(f"{_spell(key)}: {count} failed, the first {prompt}: {why}")
        server.flush()

    def _known(self, session: Session) -> Configuration:
        """With what earlier sessions found out, a failure included."""
        return self._journal.configurations().get(session.name, session.served.configuration)

    def _failed(self, session: Session, error: ServerFailed) -> None:
        lines = tuple(text_without_paths(text_without_secrets(line)) for line in error.log_tail)
        update = {"status": "failed", "error": str(error), "log_tail": lines}
        self._journal.note(self._known(session).model_copy(update=update))
        self._progress.say(f"{session.name}: {error}" + ("; the end of its log:" * bool(lines)))
        for line in error.log_tail[-5:]:
            self._progress.say(f"  {text_without_secrets(line)}")


def ask(
    server: Server,
    dialogues: Sequence[Dialogue],
    batch: int,
    sampling: Mapping[str, Any],
    stall_seconds: float,
    done: Callable[[], None] = lambda: None,
) -> Pass:
    """One pass. Raises ServerFailed: the server did not answer all of them, or none."""
    found = load.run(
        server.url,
        dialogues,
        batch,
        sampling,
        stall_seconds=stall_seconds,
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


def ready(configuration: Configuration, server: Server) -> Configuration:
    """A server's row with what it says of itself."""
    states = server.info().get("internal_states")
    state = states[0] if isinstance(states, list) and states else {}
    running = state.get("effective_max_running_requests_per_dp")
    update: dict[str, Any] = {
        "ready_seconds": server.ready_seconds,
        "max_running_requests": running,
    }
    asked = {**os.environ, **configuration.environment}
    if server.child is not None and asked.get(variables.CPU_ENGINE) != "1":
        update["switched"] = startup.switched(server.log(), asked)
    return configuration.model_copy(update=update)


def _interleaved(group: Sequence[Session]) -> Iterator[tuple[Session, PassKey]]:
    """Each cell at all servers before the next cell; every other repetition backwards."""
    rows = [(session, key) for session in group for key in session.keys]
    places = {session.name: place for place, session in enumerate(group)}
    order = {key: index for session in group for index, key in enumerate(session.keys)}

    def rank(row: tuple[Session, PassKey]) -> tuple[int, int, int]:
        session, key = row
        place = places[session.name]
        return (key.repetition, order[key], -place if key.repetition % 2 else place)

    return iter(sorted(rows, key=rank) if len(group) > 1 else rows)


def _spell(key: PassKey) -> str:
    return f"{key.configuration}, {key.suite}, B={key.batch}, repetition {key.repetition + 1}"
