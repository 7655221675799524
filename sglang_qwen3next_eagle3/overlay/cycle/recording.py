"""The folder through which a benchmark says what a server's schedulers record, and reads it back.

control          what to record, and the recording's number: every rank reads what a benchmark says
RANK.json        a scheduler that records; there once it is ready
N-RANK.json      what it recorded under that number, and beside it, of times, N-RANK.times
"""

import mmap
import os
import struct
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import read_json, write_bytes, write_json
from sglang_qwen3next_eagle3.overlay.cycle.phases import LOOP, NAMES, RECEIVE
from sglang_qwen3next_eagle3.overlay.environment import CYCLE

Kind = Literal["nothing", "times", "stacks"]
KINDS: Final[tuple[Kind, ...]] = ("nothing", "times", "stacks")
_CONTROL: Final = struct.Struct("<qq")

SHIFT: Final = 8
"""An entry of `times` is nanoseconds since the first one, and in this many low bits a code:
twice the number of a phase when it is entered, one more when it is left, or a mark."""
MARK: Final = 1 << (SHIFT - 1)
"""From here on codes are marks: a decode batch of so many requests."""
MOST: Final = MARK - 1
"""The largest batch that a mark tells."""


class Control:
    """What to record, and its number, in a file that every process maps."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError: there is no such file, or it holds something else."""
        path = folder / "control"
        try:
            with path.open("r+b") as stream:
                if os.fstat(stream.fileno()).st_size != _CONTROL.size:
                    raise UserError(f"{path} tells no recording: {CYCLE} is for `bench cycle`")
                self._map = mmap.mmap(stream.fileno(), _CONTROL.size)
        except OSError as error:
            raise UserError(f"{CYCLE}={folder}: {error.strerror}") from None
        self._words = memoryview(self._map).cast("q")

    @classmethod
    def create(cls, folder: Path) -> "Control":
        """Of a folder that is made, with nothing to record."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "control").write_bytes(_CONTROL.pack(0, 0))
        return cls(folder)

    @property
    def code(self) -> int:
        """Of what to record, in `KINDS`: cheap, for a loop that asks in every turn."""
        return self._words[0]

    @property
    def number(self) -> int:
        return self._words[1]

    def begin(self, kind: Kind) -> int:
        """Every rank begins with its next turn; the recording's number."""
        self._words[1] += 1
        self._words[0] = KINDS.index(kind)
        return self._words[1]

    def end(self) -> None:
        """Every rank writes what it has with its next turn."""
        self._words[0] = 0


def announce(folder: Path, rank: str, about: Mapping[str, Any]) -> None:
    write_json(folder / f"{rank}.json", dict(about))


def ranks(folder: Path) -> list[str]:
    """Those that record, the first one first."""
    names = [path.stem for path in folder.glob("*.json") if not path.stem[:1].isdigit()]
    return sorted(names, key=lambda name: (len(name), name))


def write(
    folder: Path, number: int, rank: str, about: Mapping[str, Any], times: Sequence[int]
) -> None:
    """about: what is there besides times. The JSON comes last: where it is, all is."""
    write_bytes(folder / f"{number}-{rank}.times", array("q", times).tobytes())
    write_json(folder / f"{number}-{rank}.json", dict(about), indent=None)


@dataclass(frozen=True)
class Recording:
    """What one rank recorded. about: as `recorder` writes it."""

    rank: str
    about: Mapping[str, Any]
    times: Sequence[int]


def read(
    folder: Path,
    number: int,
    seconds: float,
    check: Callable[[], None] = lambda: None,
) -> list[Recording]:
    """Of every rank, once they have written it; empty if no rank records.

    check: called while waiting, for what makes that vain.

    Raises:
        TimeoutError: a rank has not.
    """
    end = time.monotonic() + seconds
    found = []
    for rank in ranks(folder):
        path = folder / f"{number}-{rank}.json"
        while not path.is_file():
            if time.monotonic() > end:
                raise TimeoutError(f"{rank} wrote no recording within {seconds:.0f} s")
            check()
            time.sleep(0.05)
        times = array("q", path.with_suffix(".times").read_bytes())
        found.append(Recording(rank, read_json(path, "measure again"), times))
    return found


@dataclass(frozen=True)
class RecordedCycle:
    """One turn of a scheduler's loop that ran a decode batch.

    batch: requests, at most `MOST`. own: nanoseconds of each phase without those within it, `LOOP`
    among them, whose sum is the cycle. calls: how often each was entered.
    """

    batch: int
    own: Mapping[str, int]
    calls: Mapping[str, int]

    @property
    def nanoseconds(self) -> int:
        return sum(self.own.values())


def cycles(times: Sequence[int]) -> Iterator[RecordedCycle]:
    """The whole cycles of a recording, in their order."""
    first = 2 * NAMES.index(RECEIVE.name)
    inside: list[str] = []
    own: dict[str, int] = {}
    calls: dict[str, int] = {}
    batch, began, last = 0, False, 0
    for entry in times:
        now, code = entry >> SHIFT, entry & (2 * MARK - 1)
        if code == first and not inside:
            if began and batch:
                own[LOOP] = own.get(LOOP, 0) + now - last
                yield RecordedCycle(batch, own, calls)
            own, calls, batch, began, last = {}, {}, 0, True, now
        if code >= MARK:
            batch = code - MARK
            continue
        inner = inside[-1] if inside else LOOP
        own[inner] = own.get(inner, 0) + now - last
        last = now
        if code & 1:
            inside.pop()
        else:
            name = NAMES[code >> 1]
            inside.append(name)
            calls[name] = calls.get(name, 0) + 1
