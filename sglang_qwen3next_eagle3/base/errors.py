"""What ends a verb early, and the one place that turns it into an exit status."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sglang_qwen3next_eagle3.base.redact import text_without_secrets

_Result = TypeVar("_Result")

USER_ERROR = 2
INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + signal.SIGPIPE
"""As a shell reports a program that wrote into a closed pipe."""


class UserError(Exception):
    """Bad input, a missing file or an unsupported installation.

    The message is one line that names the cause and the way out. The command line prints it
    without a traceback and exits with status 2.
    """


class ServerFailed(Exception):
    """A process of ours that did not start, died or stalled; the command line exits with 2.

    log_tail: the end of what it printed, which is shown below the message.
    """

    def __init__(self, message: str, log_tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.log_tail = tuple(log_tail)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: what is done is kept and what was started is ended, as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Replacement:
    """What a verb wants executed in its place. environment: beyond this process's own. begin:
    called with all of it right before, for what else is to be set; it raises nothing."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    begin: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None


def one_line(said: object) -> str:
    """What an error or a text says, without its line breaks."""
    return " ".join(str(said).split()) or type(said).__name__


def exit_status(verb: Callable[[], int | Replacement]) -> int:
    """Run a verb; its status, or that of what ended it. Nothing comes back from a replacement.

    2: the user can mend it, told in one line. 130, 129 and 143: Ctrl-C, SIGHUP and SIGTERM, without
    a traceback. 141: who read the output is gone.
    """
    try:
        with interruptible():
            result = verb()
            # Now, not while Python ends, where nobody could answer for it.
            if sys.stdout is not None:  # closed by the shell
                sys.stdout.flush()
    except UserError as error:
        return _tell(str(error))
    except ServerFailed as error:
        tail = "".join(f"\n{text_without_secrets(line)}" for line in error.log_tail)
        return _tell(f"{error}{'; the end of its log:' if tail else ''}{tail}")
    except Terminated as ended:
        print(f"ended by {ended}{_notes(ended)}", file=sys.stderr)
        return 128 + ended.number
    except KeyboardInterrupt as stopped:
        print(f"interrupted{_notes(stopped)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Who read our output (`head`, a pager that was left) wants no more of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except OSError as error:
        if error.strerror is None:
            raise  # A library's own error: nobody can mend it by what it says.
        return _tell(f"{error.filename or 'standard output, or a file'}: {error.strerror}")
    if isinstance(result, Replacement):
        # After `interruptible`: SGLang finds the signals as they were.
        environment = {**os.environ, **result.environment}
        if result.begin is not None:
            environment |= result.begin(environment)
        os.execvpe(result.argv[0], list(result.argv), environment)
    return result


def _notes(error: BaseException) -> str:
    """What a verb added to the exception that ended it, such as how to go on."""
    return "".join(f": {note}" for note in getattr(error, "__notes__", ()))


def _tell(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return USER_ERROR


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, by an exception: what cleans up behind it
    does so.

    Ctrl-C's signal too where it is ignored, as a shell's background children do; SIGHUP stays
    ignored under nohup. Threads other than the main one have no say in signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(number)

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C does not keep what was started from being ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.getsignal(number)) for number in numbers]
    try:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def run_async(work: Coroutine[Any, Any, _Result]) -> _Result:
    """`asyncio.run`, which a signal ends at once, though the event loop waits.

    Python calls a signal's handler between two of its own instructions. A signal that comes just
    before the loop asks the system to wait, or to another thread, wakes nobody by itself: against a
    server that says nothing, Ctrl-C would be seen when that server is given up.
    """
    import asyncio
    import socket

    async def woken() -> _Result:
        loop = asyncio.get_running_loop()
        heard, told = socket.socketpair()
        with heard, told:
            told.setblocking(False)
            loop.add_reader(heard, heard.recv, 4096)
            before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
            try:
                return await work
            finally:
                signal.set_wakeup_fd(before)
                loop.remove_reader(heard)

    in_main_thread = threading.current_thread() is threading.main_thread()
    return asyncio.run(woken() if in_main_thread else work)
