"""Whether a turn of the schedulers' loop has requests, told to all ranks through shared memory.

In every turn the first rank tells the others what it has received, so that all of them hold the
same requests in the same turn. SGLang broadcasts a list over gloo for it, which is empty in nearly
every turn of a decode. Here one word says for each turn whether the list is empty; only a list that
is not is broadcast as ever. So the turns of all ranks have the very lists that they would have had.

The first rank writes the word `2 * turn + (1 if there are requests)`. Another rank waits in its own
turn until the word is of that turn or a later one. The word cannot pass by a turn that has
requests: there the first rank waits until all have said that they received them. It is never more
than `LEAD` turns ahead of the slowest, so that none has to catch up when requests come.
"""

import mmap
import os
import time
from pathlib import Path
from typing import Final

LEAD: Final = 2
_SPINS: Final = 300
"""Looks at a word before a waiting thread gives way to others of its process: about 20 us."""
_YIELDS: Final = 1000
_NAP: Final = 50e-6
"""Seconds of sleep between looks, after so many."""
_IDLE_NAP: Final = 500e-6
"""The same while the first rank sleeps, because nobody asks: a request comes this much later."""
_LOOK_AFTER: Final = 1.0
"""Seconds after which a waiting rank asks whether the one that it waits for still lives."""
_LINE: Final = 8
"""Words of a cache line: every rank's word has one of its own."""


class RankGone(RuntimeError):
    """A rank that was waited for has ended."""


def size(ranks: int) -> int:
    """Bytes of the shared file: a line for the word of the turn, and one for each rank."""
    return 8 * _LINE * (1 + ranks)


class Agreement:
    """One rank's side. All ranks of a server have one, over the same file, of `size(ranks)` zeros.

    Its methods are called by one thread.
    """

    def __init__(self, path: Path, rank: int, ranks: int) -> None:
        """Raises OSError, ValueError: the file cannot be mapped."""
        self.rank, self.ranks = rank, ranks
        with path.open("r+b") as stream:
            if os.fstat(stream.fileno()).st_size != size(ranks):
                raise ValueError(f"{path} is not of {ranks} ranks")
            self._map = mmap.mmap(stream.fileno(), size(ranks))
        # A word is stored and loaded whole: it is one aligned access of eight bytes.
        self._words = memoryview(self._map).cast("q")
        self._turn = 0
        self._others = [(1 + other) * _LINE for other in range(ranks) if other != rank]
        self._mine = (1 + rank) * _LINE
        self._words[self._mine + 1] = os.getpid()

    def tell(self, some: bool) -> None:
        """Of the first rank, in every turn: whether it has requests."""
        self._turn += 1
        for other in self._others:
            self._wait(other, self._turn - LEAD, other)
        self._words[0] = self._turn << 1 | some

    def received_by_all(self) -> None:
        """Of the first rank, in a turn with requests, after they were broadcast."""
        for other in self._others:
            self._wait(other, self._turn, other)

    def ask(self) -> bool:
        """Of another rank, in every turn: whether there are requests."""
        self._turn += 1
        self._wait(0, self._turn << 1, _LINE)
        # Where there are, it stays so until `received`.
        if self._words[0] == self._turn << 1 | 1:
            return True
        self._words[self._mine] = self._turn
        return False

    def received(self) -> None:
        """Of another rank, in a turn with requests: it has them."""
        self._words[self._mine] = self._turn

    def _wait(self, place: int, least: int, rank_line: int) -> None:
        """Until a word is at least so much; rank_line: of the rank that writes it."""
        words = self._words
        for _ in range(_SPINS):
            if words[place] >= least:
                return
        for _ in range(_YIELDS):
            if words[place] >= least:
                return
            time.sleep(0)
        looked, nap = time.monotonic(), _NAP
        while words[place] < least:
            time.sleep(nap)
            if time.monotonic() - looked > _LOOK_AFTER:
                looked, nap = time.monotonic(), _IDLE_NAP
                pid = words[rank_line + 1]
                if pid and not lives(pid) and words[place] < least:
                    raise RankGone(
                        f"rank {rank_line // _LINE - 1} (process {pid}) has ended: the others "
                        "cannot go on without it"
                    )


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has waited for has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return False
    except OSError:
        # No file descriptor left, say: that tells nothing of it.
        return True
    return state not in ("Z", "X")
