"""SpecForge as a child process: what it prints is kept and shown, and it does not outlive us."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.processes import end_with_parent
from sglang_qwen3next_eagle3.train.trainer import runlog


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def execute(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    *,
    steps: int | None = None,
    inherit: Sequence[int] = (),
) -> None:
    """Run SpecForge to its end; its output goes to the log, its reports to standard error too.

    environment: beyond the caller's; steps: in all, for the time left; inherit: file descriptors.

    Raises:
        UserError: it failed or was stopped; the message has its own reason.
        KeyboardInterrupt: after it ended.
    """
    environment = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
    tail: deque[str] = deque(maxlen=200)
    with (
        log_file.open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=inherit,
            preexec_fn=end_with_parent(),
        ) as process,
    ):
        assert process.stdout is not None
        progress = _Progress(steps)
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                tail.append(line)
                if report := runlog.parse(line):
                    progress(report)
            status = process.wait()
        except BaseException:
            # A terminal's Ctrl-C reaches SpecForge too, a signal to this process alone does not;
            # SpecForge ignores the second one.
            process.terminate()
            log.writelines(process.stdout)
            process.wait()
            raise
    if status:
        raise UserError(
            f"SpecForge {_how_it_ended(status)}: {runlog.reason(tail)}; all of its output is in "
            f"{log_file}, and the same command goes on from the last checkpoint"
        )


def _how_it_ended(status: int) -> str:
    number = -status if status < 0 else status - 128
    if number == signal.SIGKILL:
        return "was killed (SIGKILL; the kernel does that when memory runs out)"
    if number in {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
        return f"was stopped ({signal.Signals(number).name})"
    return f"failed with exit status {status}"


class _Progress:
    """Prints each report once (all processes of a run write it), and the time that is left."""

    def __init__(self, steps: int | None) -> None:
        self._steps = steps
        self._started, self._first = time.monotonic(), 0
        self._said: set[tuple[int, bool]] = set()

    def __call__(self, report: runlog.Report) -> None:
        key = (report.step, report.is_evaluation)
        if key in self._said:
            return
        self._said.add(key)
        line = report.describe()
        if not self._first:
            # Loading and the first steps' compilation say nothing about the rest.
            self._started, self._first = time.monotonic(), report.step
        elif self._steps and not report.is_evaluation:
            each = (time.monotonic() - self._started) / max(1, report.step - self._first)
            minutes = (self._steps - report.step) * each / 60
            line += f"; {report.step}/{self._steps}, {minutes:.1f} min left"
        say(line)
