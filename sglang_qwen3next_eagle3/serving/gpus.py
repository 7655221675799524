"""The GPUs of this machine, from what nvidia-smi prints: no torch, no CUDA context.

`probe` asks, the rest reads; where there is no nvidia-smi there are no GPUs.
"""

import csv
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

SECONDS = 30.0
"""nvidia-smi takes long where no persistence daemon keeps the driver awake."""
_BASIC = (
    "index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version",
)  # fmt: skip
# Names that a driver may not know; they are asked for apart, so that the basic ones are not lost.
_STATE = (
    "index", "persistence_mode", "clocks_throttle_reasons.active", "mig.mode.current",
    "ecc.errors.uncorrected.volatile.total",
)  # fmt: skip
_APPS = ("gpu_uuid", "pid", "process_name", "used_memory")
# Bits of clocks_throttle_reasons.active that mean slower than it could be; idling does not.
_THROTTLES = {
    0x4: "its power limit",
    0x8: "a hardware slowdown",
    0x20: "its temperature",
    0x40: "its temperature (hardware)",
    0x80: "a power brake",
}

Run = Callable[[Sequence[str]], str | None]
"""A command's output; None where it is not there or fails."""


@dataclass(frozen=True)
class Gpu:
    """total_mib, free_mib: as nvidia-smi counts them, which is what SGLang goes by. capability:
    (9, 0) for an H100 or H200. throttled: why it is slower now than it could be."""

    index: int
    uuid: str
    name: str
    total_mib: int
    free_mib: int
    capability: tuple[int, int]
    driver: str
    persistence: bool | None = None
    throttled: tuple[str, ...] = ()
    mig: bool = False
    ecc_errors: int = 0

    @property
    def short_name(self) -> str:
        return self.name.removeprefix("NVIDIA ")


@dataclass(frozen=True)
class GpuProcess:
    """A process with memory on a GPU. name: empty where nvidia-smi may not say it."""

    uuid: str
    pid: int
    name: str
    used_mib: int | None


@dataclass(frozen=True)
class Gpus:
    """links: how two of them are connected, by their indices (`NV18`, `PIX`, `SYS`); empty where
    nvidia-smi does not say. trouble: what nvidia-smi says if it does not work."""

    found: tuple[Gpu, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    links: Mapping[tuple[int, int], str] | None = None
    trouble: str = ""

    def visible(self, variable: str | None) -> tuple[Gpu, ...]:
        """Those that CUDA_VISIBLE_DEVICES leaves, in its order; what it does not know ends it.

        A slice of a GPU (MIG) stands for one that is cut up, which of them is not known.
        """
        if variable is None:
            return self.found
        chosen: list[Gpu] = []
        for word in filter(None, (part.strip() for part in variable.split(","))):
            match = [
                gpu
                for gpu in self.found
                if word == str(gpu.index) or (word[:4] == "GPU-" and gpu.uuid.startswith(word))
            ]
            if word[:4] == "MIG-":
                match = [gpu for gpu in self.found if gpu.mig][:1]
            if len(match) != 1:
                break
            chosen += match
        return tuple(chosen)

    def on_nvlink(self, chosen: Sequence[Gpu]) -> bool | None:
        """Whether each pair of them has a direct NVLink; None where that is not known."""
        if not self.links or len(chosen) < 2:
            return None
        pairs = [(a.index, b.index) for a in chosen for b in chosen if a.index < b.index]
        known = [self.links.get(pair) or self.links.get((pair[1], pair[0])) for pair in pairs]
        return None if None in known else all(str(link).startswith("NV") for link in known)


def probe(run: Run | None = None) -> Gpus:
    """Ask nvidia-smi."""
    ask = run or _run
    known = basic(ask)
    if not known.found:
        return known
    found = known.found
    state = ask(["nvidia-smi", f"--query-gpu={','.join(_STATE)}", "--format=csv,noheader,nounits"])
    apps = ask(
        ["nvidia-smi", f"--query-compute-apps={','.join(_APPS)}", "--format=csv,noheader,nounits"]
    )
    links = ask(["nvidia-smi", "topo", "-m"]) if len(found) > 1 else None
    return Gpus(
        with_state(found, state or ""),
        parse_processes(apps or ""),
        parse_links(links) if links else None,
    )


def basic(run: Run | None = None) -> Gpus:
    """Ask only which there are."""
    ask = run or _run
    told = ask(["nvidia-smi", f"--query-gpu={','.join(_BASIC)}", "--format=csv,noheader,nounits"])
    if told is None:
        return Gpus()
    try:
        found = parse_gpus(told)
    except ValueError:
        # GPUs that share the system's memory have none of their own to tell: "[N/A]".
        if told[:1].isdecimal():
            return Gpus()
        found = ()
    return Gpus(found) if found else Gpus(trouble=" ".join(told.split())[:200])


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Raises ValueError: not the answer to that question."""
    found = []
    for row in _rows(text):
        if len(row) != len(_BASIC):
            raise ValueError(text)
        index, uuid, name, total, free, capability, driver = row
        major, _, minor = capability.partition(".")
        found.append(
            Gpu(int(index), uuid, name, int(total), int(free), (int(major), int(minor)), driver)
        )
    return tuple(found)


def with_state(found: Sequence[Gpu], text: str) -> tuple[Gpu, ...]:
    """What a driver does not know, it spells in brackets: `[N/A]`."""
    by_index = {row[0]: row for row in _rows(text) if len(row) == len(_STATE)}
    result = []
    for gpu in found:
        row = by_index.get(str(gpu.index))
        if row is None:
            result.append(gpu)
            continue
        _, persistence, reasons, mig, ecc = row
        result.append(
            replace(
                gpu,
                persistence={"Enabled": True, "Disabled": False}.get(persistence),
                throttled=throttles(reasons),
                mig=mig == "Enabled",
                ecc_errors=int(ecc) if ecc.isdecimal() else 0,
            )
        )
    return tuple(result)


def throttles(mask: str) -> tuple[str, ...]:
    """The reasons in a mask such as 0x0000000000000044, in words."""
    try:
        bits = int(mask, 16)
    except ValueError:
        return ()
    return tuple(reason for bit, reason in _THROTTLES.items() if bits & bit)


def parse_processes(text: str) -> tuple[GpuProcess, ...]:
    found = []
    for row in _rows(text):
        if len(row) != len(_APPS) or not row[1].isdecimal():
            continue
        uuid, pid, name, used = row
        known = "" if name.startswith("[") else name
        found.append(GpuProcess(uuid, int(pid), known, int(used) if used.isdecimal() else None))
    return tuple(found)


def parse_links(text: str) -> dict[tuple[int, int], str]:
    """The square of `nvidia-smi topo -m`: GPU0 .. GPUn against each other; network cards and
    affinities stand right of it and below."""
    lines = [line.replace("\x1b[4m", "").replace("\x1b[0m", "") for line in text.splitlines()]
    rows = [line.split() for line in lines]
    header = next((row for row in rows if row and row[0] == "GPU0" and "X" not in row), [])
    columns = [int(word[3:]) for word in header if word[:3] == "GPU" and word[3:].isdecimal()]
    links = {}
    for row in rows:
        if row is header or not row or row[0][:3] != "GPU" or not row[0][3:].isdecimal():
            continue
        for column, link in zip(columns, row[1:], strict=False):
            if link != "X":
                links[int(row[0][3:]), column] = link
    return links


def _rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in row]
        for row in csv.reader(text.splitlines(), skipinitialspace=True)
        if row
    ]


def _run(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.SubprocessError) as error:
        return f"{command[0]} does not answer ({type(error).__name__})"
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr
