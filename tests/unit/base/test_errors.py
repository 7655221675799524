"""How a verb ends: the status, and what is said."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from sglang_qwen3next_eagle3.base.errors import (
    Replacement,
    ServerFailed,
    Terminated,
    UserError,
    exit_status,
    interruptible,
    run_async,
    uninterrupted,
)


def raising(error: BaseException) -> Callable[[], int]:
    def verb() -> int:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("no such file: give another"), 2, "error: no such file: give another\n"),
        (
            ServerFailed("the server ended: exit status 3", ["first", "api_key='S3CRET'"]),
            2,
            "error: the server ended: exit status 3; the end of its log:\nfirst\napi_key=***\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (Terminated(signal.SIGTERM), 143, "ended by SIGTERM\n"),
        (
            FileNotFoundError(2, "No such file or directory", "there.json"),
            2,
            "error: there.json: No such file or directory\n",
        ),
    ],
)
def test_what_ends_a_verb_is_a_status_and_a_line(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(raising(error)) == status
    assert capsys.readouterr().err == said


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(KeyError):
        exit_status(raising(KeyError("x")))
    with pytest.raises(OSError, match="not of the system"):
        exit_status(raising(OSError("not of the system")))


def test_a_verb_is_replaced_with_the_signals_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    seen = {}

    def execute(file: str, argv: list[str], environment: dict[str, str]) -> None:
        seen.update(argv=argv, own=environment["OWN"], handler=signal.getsignal(signal.SIGTERM))

    monkeypatch.setattr("os.execvpe", execute)
    exit_status(lambda: Replacement(["sglang", "x"], {"OWN": "1"}))
    assert seen == {"argv": ["sglang", "x"], "own": "1", "handler": handler}


def test_nohup_keeps_ignoring_the_hangup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_does_not_keep_what_was_started_from_being_ended() -> None:
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_ends_an_event_loop_that_waits_though_it_comes_to_another_thread() -> None:
    """As one that comes just before the loop waits: the wait itself is not interrupted."""
    other = threading.Thread(target=(gone := threading.Event()).wait, daemon=True)
    other.start()
    gave_up = threading.Event()

    async def waiting() -> None:
        loop, never = asyncio.get_running_loop(), asyncio.Event()

        def give_up() -> None:
            gave_up.set()
            loop.call_soon_threadsafe(never.set)

        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        rescue = threading.Timer(30, give_up)
        rescue.start()
        try:
            await never.wait()
        finally:
            rescue.cancel()

    with interruptible():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with pytest.raises(KeyboardInterrupt):
                run_async(waiting())
        finally:
            gone.set()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    assert not gave_up.is_set(), "it was not woken"
