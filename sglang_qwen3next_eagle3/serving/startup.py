"""What a start spends its time on, by the lines of the server's log.

Every line has the time at which it came, or else the one that SGLang wrote before it, in whole
seconds. A phase lasts from a line that begins it to the next such line. Of several ranks the first
one's lines count. Texts are those of SGLang 0.5.17, of 0.5.23 and of this package.
"""

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sglang_qwen3next_eagle3.overlay.environment import FAST, SEAMS
from sglang_qwen3next_eagle3.overlay.fast.stages import STAGES, Wanted
from sglang_qwen3next_eagle3.overlay.seams.seams import ALL
from sglang_qwen3next_eagle3.overlay.seams.seams import spelled as spell_seams

_STAMP = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)((?: [A-Z]+\d+)*)\] ")
_RANK = re.compile(r"TP(\d+)")
_CHECKED = re.compile(r"fast path .*checked in ([\d.]+) s")
_GRAPHS = re.compile(r"Capture (.+?) CUDA graph begin")
_FAST_ON = re.compile(r": fast path on: (.+?); ")
_ROUNDED = "its weights in 8 bits"
"""Said of the draft head, which then is `head_w8`."""
_FAST_OFF = re.compile(r": fast path off: ")
_SEAMS_ON = re.compile(r": seams on: ([^;]+)")
_SEAMS_OFF = re.compile(r": seams off: |: the seams of a cycle are SGLang's: ")
_POLL_SECONDS = 0.02

LAUNCHER = "launcher: checks"
MODULES = "SGLang's modules and arguments"
PROCESSES = "scheduler processes: modules"
RANKS = "ranks: communication"
TARGET = "target's weights"
HEAD = "head's weights"
MEMORY = "caches in memory"
BACKENDS = "backends, kernels compiled"
DEEPGEMM = "DeepGEMM's kernels"
CHECK = "fast path: check"
SERVER = "HTTP server"
WARM = "warm-up request"
_BEGIN = (
    ("it will answer at http", MODULES),
    ("server_args=", PROCESSES),
    ("Init torch distributed begin", RANKS),
    ("Init parallel begin", RANKS),  # the same in 0.5.23
    ("Load weight end", MEMORY),
    ("Memory pool end", BACKENDS),
    ("CUDA graph end", BACKENDS),
    ("DeepGEMM JIT Pre-Compile session", DEEPGEMM),
    ("max_total_num_tokens=", SERVER),
    ("Application startup complete", WARM),
)
_READY = ("The server is fired up and ready to roll", "Application startup complete")


@dataclass(frozen=True)
class StartPhase:
    name: str
    seconds: float


@dataclass(frozen=True)
class Start:
    """phases: in the order in which they began; seconds: all of them. exact: by the times at which
    lines came, not by SGLang's whole seconds. ready: it got so far."""

    phases: tuple[StartPhase, ...]
    exact: bool
    ready: bool

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    def of(self, name: str) -> float:
        return sum(phase.seconds for phase in self.phases if phase.name == name)


def phases(lines: Iterable[tuple[float, str]], begun: float, *, exact: bool = True) -> Start:
    """lines: (seconds, text) in order, to whatever comes behind the start; begun: seconds, when
    the launcher was started."""
    spent: dict[str, float] = {LAUNCHER: 0.0}
    now, since, targets = LAUNCHER, begun, 0
    seen: set[str] = set()

    def until(seconds: float) -> None:
        nonlocal since
        spent[now] = spent.get(now, 0.0) + max(0.0, seconds - since)
        since = max(since, seconds)

    for seconds, line in lines:
        stamp = _STAMP.match(line)
        if stamp and any(rank != "0" for rank in _RANK.findall(stamp[2])):
            continue
        text = line[stamp.end() :] if stamp else line
        # The first comes behind the warm-up request, or where there is none before the second.
        seen |= {words for words in _READY if words in text}
        if len(seen) == len(_READY):
            until(seconds)
            break
        if checked := _CHECKED.search(text):
            until(seconds)
            known = min(float(checked[1]), spent[now])
            spent[now] -= known
            spent[CHECK] = spent.get(CHECK, 0.0) + known
        begins = _begins(text, targets)
        if begins is not None and begins != now:
            targets += begins == TARGET
            until(seconds)
            now = begins
    if not exact:
        # A whole second may hold the end of one phase and the begin of another one.
        spent = {name: round(value) for name, value in spent.items()}
    names = [name for name, value in spent.items() if value > 0 or name == LAUNCHER]
    found = tuple(StartPhase(name, round(spent[name], 2)) for name in names)
    return Start(found, exact, ready=len(seen) == len(_READY))


def _begins(text: str, targets: int) -> str | None:
    if graphs := _GRAPHS.search(text):
        return f"graphs: {graphs[1]}"
    if text.startswith("Load weight begin"):
        return HEAD if targets else TARGET
    return next((name for words, name in _BEGIN if words in text), None)


def switched(lines: Iterable[str], asked: Mapping[str, str]) -> dict[str, str]:
    """Which of our kernels and seams came to serve, by the variables of theirs as they spell it.

    lines: of a log, to where the server is ready. asked: its environment. What was asked for and of
    which the log does not speak, for its level does not let it, is left out.
    """
    words: set[str] = set()
    names: set[str] = set()
    fast_off, seams_off = not asked.get(FAST), not asked.get(SEAMS)
    for line in lines:
        if found := _FAST_ON.search(line):
            # Beside the stages stands what is to be said of one.
            words |= {each.split()[0] for each in found[1].split(", ")}
            if _ROUNDED in found[1]:
                words.add("head_w8")
        elif found := _SEAMS_ON.search(line):
            names |= set(found[1].split(", "))
            seams_off = True
        fast_off |= _FAST_OFF.search(line) is not None
        seams_off |= _SEAMS_OFF.search(line) is not None
    # Nothing that a server has said is refused, as what a user spells is.
    stages = frozenset(stage for stage in STAGES if stage in words)
    ours = frozenset(seam for seam in ALL if seam in names)
    told = {}
    if stages or fast_off or asked.get(FAST) == "off":
        told[FAST] = Wanted(stages, required=False, auto=False).spelled or "off"
    if ours or seams_off or asked.get(SEAMS) == "off":
        told[SEAMS] = spell_seams(ours)
    return told


def of_log(path: Path) -> Start | None:
    """By SGLang's own times, whole seconds; the launcher's part is not in them. None: a log without
    any."""
    lines: list[tuple[float, str]] = []
    latest: float | None = None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if stamp := _STAMP.match(line):
            latest = datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S").timestamp()
        if latest is not None:
            lines.append((latest, line))
    return phases(lines, lines[0][0], exact=False) if lines else None


class StampedLog:
    """The lines of a log that is being written, with the time at which each came."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[tuple[float, str]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.begun = time.monotonic()

    def __enter__(self) -> "StampedLog":
        self.begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def lines(self) -> Sequence[tuple[float, str]]:
        return tuple(self._lines)

    def _follow(self) -> None:
        while not self._path.exists() and not self._ended.wait(_POLL_SECONDS):
            pass
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8", errors="replace", newline="\n") as stream:
            for line in self._pieces(stream):
                self._lines.append((time.monotonic(), line))

    def _pieces(self, stream: Iterable[str]) -> Iterator[str]:
        kept = ""
        while True:
            ended = self._ended.is_set()
            for piece in iter(stream.readline, ""):  # type: ignore[attr-defined]
                kept += piece
                if kept.endswith("\n"):
                    yield kept.rstrip("\n")
                    kept = ""
            if ended:
                return
            self._ended.wait(_POLL_SECONDS)
