"""How far long work is, on standard error: a bar on a terminal, now and then a line in a log."""

import sys
import time
from typing import Self

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """with Progress("regenerating", total=500, done=120) as progress: progress.advance()

    total: None where it is not known; done: what an earlier run finished, which does not count
    for the rate; announced: a log gets the label as a line of its own when the work begins; bar:
    False says lines alone, on a terminal, too.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        *,
        done: int = 0,
        unit: str = "conversations",
        announced: bool = False,
        bar: bool = True,
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.label, self.total, self.unit = label, total, unit
        self.count = self._start = done
        self._started = self._said = time.monotonic()
        self._announced = announced
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            disable=not (bar and console.is_terminal),
        )
        self._task = self._bar.add_task(label, total=total, completed=done, figures="")
        self._interval = SECONDS_BETWEEN_LINES if self._bar.disable else 0.1

    def __enter__(self) -> Self:
        self._bar.start()
        if self._announced and self._bar.disable:
            self.say(self.label)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, count: int = 1) -> None:
        self.count += count
        now = time.monotonic()
        if now - self._said < self._interval:
            return
        self._said = now
        if self._bar.disable:
            self.say(f"{self.label}: {self.figures()}")
        else:
            self.status(self.figures())

    def begin(self, count: int) -> None:
        """It stands at `count`, and the rate counts from here: what came before was warming up."""
        self.count = self._start = count
        self._started = time.monotonic()
        self.status("")

    def reach(self, count: int) -> None:
        """As `advance`, to a count of the whole, for who says so in lines of their own."""
        self.count = count
        self.status(self.figures())

    def status(self, text: str) -> None:
        """What is being done, behind the bar; a log does not get it."""
        self._bar.update(self._task, completed=self.count, figures=text)

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self._bar.disable:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(line, highlight=False, markup=False)

    def figures(self, seconds: float | None = None) -> str:
        """`120/500 conversations, 3.2/s, 2 min left`, `seconds` (now) after the start."""
        if seconds is None:
            seconds = time.monotonic() - self._started
        rate = (self.count - self._start) / seconds if seconds > 0 else 0.0
        known = f"/{self.total}" if self.total is not None else ""
        line = f"{self.count}{known} {self.unit}, {rate:.1f}/s"
        if self.total is not None and rate > 0:
            line += f", {_duration((self.total - self.count) / rate)} left"
        return line


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
