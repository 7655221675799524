"""What `bench run` and `bench speed` share: their arguments, servers and folders."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sglang_qwen3next_eagle3.base import figures
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.bench.configurations import Contender, slug
from sglang_qwen3next_eagle3.bench.load.runner import Runner, Session, Work
from sglang_qwen3next_eagle3.bench.results.journal import Journal, Key
from sglang_qwen3next_eagle3.bench.results.records import Configuration
from sglang_qwen3next_eagle3.serving import profile as profiles
from sglang_qwen3next_eagle3.serving import server as servers
from sglang_qwen3next_eagle3.serving.profile import Profile, build_argv, last_value
from sglang_qwen3next_eagle3.serving.server import Server

MEASURED, INCOMPLETE, INTERRUPTED = 0, 1, 130


def add_server_arguments(parser: argparse.ArgumentParser, profile: str) -> None:
    how = parser.add_argument_group("how it is served")
    how.add_argument(
        "--profile",
        default=profile,
        help="flags and checkpoints that all configurations share (default %(default)s)",
    )
    how.add_argument("--target", help="checkpoint folder or hub name instead of the profile's")
    how.add_argument("--head", help="EAGLE3 head instead of the profile's")
    how.add_argument("--tp", type=int, help="tensor-parallel ranks")
    how.add_argument(
        "--start-seconds", type=positive, default=900, help="for a start (default %(default)s)"
    )
    how.add_argument(
        "--stall-seconds",
        type=positive,
        default=120,
        help="without a byte, then a server counts as stalled (default %(default)s)",
    )
    parser.add_argument(
        "sglang", nargs="*", metavar="-- FLAGS", help="flags for every SGLang, untouched; they win"
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    out = parser.add_argument_group("what comes out")
    out.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="goes on if begun")
    out.add_argument("--no-plots", action="store_true", help="no PNGs, no matplotlib needed")
    out.add_argument("--json", action="store_true", help="print the result as JSON")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: at least 1")
    return value


def numbers(text: str) -> list[int]:
    """`1,8,32`"""
    return sorted({positive(part) for part in text.split(",")})


def base_profile(arguments: argparse.Namespace) -> Profile:
    """Raises UserError."""
    return given(arguments, profiles.load(arguments.profile))


def given(arguments: argparse.Namespace, chosen: Profile) -> Profile:
    """The profile with the command line's checkpoints and ranks. Raises UserError."""
    if arguments.target is not None:
        chosen = chosen.model_copy(update={"target_revision": None})
    head = arguments.head if chosen.algorithm == "eagle3" else None
    if head is not None:
        chosen = chosen.model_copy(update={"head_revision": None})
    return chosen.override(target=arguments.target, head=head, sglang={"tp": arguments.tp})


def starter(
    contender: Contender,
    folder: Path,
    extra: Sequence[str],
    start_seconds: float,
    environment: dict[str, str] | None = None,
) -> Callable[[], AbstractContextManager[Server]]:
    """What starts the contender's server through the launcher; its log goes to `folder`/logs."""
    log = folder / "logs" / f"{slug(contender.name)}.log"
    key = last_value([*build_argv(contender.profile), *extra], "--api-key")

    def start() -> AbstractContextManager[Server]:
        path = contender.write(folder / "servers")
        words = ["--profile", str(path), "--port", "{port}"]
        words += ["--", *extra] if extra else []
        return servers.started(words, log, environment or {}, start_seconds, key)

    return start


def sessions(
    rows: Sequence[tuple[Configuration, Callable[[], AbstractContextManager[Server]]]],
    keys: Callable[[Configuration, int], Sequence[Key]],
    repetitions: int,
    *,
    side_by_side: bool = False,
    restart: bool = True,
) -> list[list[Session]]:
    """Groups for the runner.

    restart: a start a repetition, every other one in reverse order, so that what drifts with time
    (clocks, temperature, neighbours) does not favour one; else all repetitions in one start.
    """
    every = range(repetitions)
    if side_by_side:
        whole = [
            Session(c, start, tuple(k for r in every for k in keys(c, r))) for c, start in rows
        ]
        return [whole]
    if not restart:
        return [
            [Session(c, start, tuple(k for r in every for k in keys(c, r)))] for c, start in rows
        ]
    return [
        [Session(c, start, tuple(keys(c, r)))]
        for r in every
        for c, start in (rows[::-1] if r % 2 else rows)
    ]


def execute(
    label: str,
    arguments: argparse.Namespace,
    journal: Journal,
    groups: Sequence[Sequence[Session]],
    workload: Callable[[Key], Work],
    requests: Callable[[Key], int],
) -> bool:
    """Measure what is missing, with a bar; whether it was interrupted. requests: of a pass."""
    every = [key for group in groups for session in group for key in session.keys]
    done = sum(requests(key) for key in every if journal.has(key))
    with Progress(label, sum(map(requests, every)), done=done, unit="requests") as progress:
        runner = Runner(
            journal,
            workload,
            stall_seconds=arguments.stall_seconds,
            say=progress.say,
            advance=progress.advance,
        )
        try:
            runner.run(groups)
        except KeyboardInterrupt:
            return True
    return False


def status(journal: Journal, groups: Sequence[Sequence[Session]], interrupted: bool) -> int:
    """0: all that was asked for is measured; 1: something is missing; 130: interrupted."""
    if interrupted:
        print("interrupted: what is done is kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    keys = [key for group in groups for session in group for key in session.keys]
    return MEASURED if all(journal.has(key) for key in keys) else INCOMPLETE


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a benchmark as Ctrl-C does: servers stopped, what is done kept.

    Also where a shell started it in the background, whose children ignore Ctrl-C's signal.
    """

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        yield Path(folder)


def require_plots(wanted: bool) -> None:
    """Before hours of measuring. Raises UserError: there is no matplotlib."""
    if not wanted:
        return
    figures.require("--no-plots")
