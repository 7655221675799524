"""What came of importing."""

import importlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sglang_qwen3next_eagle3.overlay.standby.handed import Handed, affinity, limits, options

_MAY_CHANGE = (
    *("SGLANG_", "NCCL_", "TRTLLM_", "TLLM_", "CUTE_DSL_", "DG_", "FLASHINFER_", "QUACK_"),
    *("TORCHINDUCTOR_", "TRITON_", "TVM_"),
)
"""How those begin that no library reads when it is loaded, or when CUDA's driver begins: only
Python code does, which is seen, or what is called later. All others have to be as they were: CUDA_,
LD_, MALLOC_, OMP_, PYTHON, and what nobody thought of."""
_MAY_CHANGE_TOO = frozenset({"PROMETHEUS_MULTIPROC_DIR", "TOKENIZERS_PARALLELISM"})


class _RecordedEnvironment(os._Environ):  # type: ignore[type-arg]
    """An environment that knows which of its variables were asked for."""

    asked: ClassVar[set[str]] = set()

    def __getitem__(self, name: Any) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: Any) -> bool:
        self.asked.add(name)
        return super().__contains__(name)

    def copy(self) -> dict[str, str]:
        # For a process that is started. Else all would have been read.
        return {name: os._Environ.__getitem__(self, name) for name in list(self)}


@dataclass
class Imported:
    """What came of importing. before, after: the environment; asked: what was read of it. failed:
    why a module is not there. stack: the limit that threads have."""

    modules: Sequence[str]
    before: dict[str, str]
    after: dict[str, str]
    asked: frozenset[str]
    seconds: float
    stack: list[int]
    affinity: list[int]
    nice: int
    failed: str | None = None

    @classmethod
    def now(cls, modules: Sequence[str]) -> "Imported":
        begun, before, plain, failed = time.monotonic(), dict(os.environ), type(os.environ), None
        start = (limits()["RLIMIT_STACK"], affinity(), os.nice(0))
        _RecordedEnvironment.asked.clear()
        os.environ.__class__ = _RecordedEnvironment
        try:
            for name in modules:
                importlib.import_module(name)
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
        finally:
            os.environ.__class__ = plain
        asked = frozenset(_RecordedEnvironment.asked)
        seconds = time.monotonic() - begun
        return cls(modules, before, dict(os.environ), asked, seconds, *start, failed)

    def why_not(self, handed: Handed) -> str | None:
        """Why this process is not what a fresh one would be, once it has inherited all."""
        from multiprocessing import resource_tracker

        if self.failed is not None:
            return self.failed
        if changed := unlike(self.before, self.after, handed.environment, self.asked):
            return ", ".join(changed)
        if options() != handed.options:
            return "other options of Python's"
        if self.stack != handed.limits["RLIMIT_STACK"]:
            return "the limit of the stack"
        if self.affinity != handed.affinity or affinity() != handed.affinity:
            return "its cores"
        if self.nice != handed.nice:
            return "its priority"
        if resource_tracker._resource_tracker._fd is not None:  # type: ignore[attr-defined]
            return "it has a resource tracker of its own"
        return None


def unlike(
    before: Mapping[str, str],
    after: Mapping[str, str],
    wanted: Mapping[str, str],
    asked: Iterable[str],
) -> list[str]:
    """The variables for whose sake modules would have to be imported anew.

    before, after: the environment around importing; wanted: what it was to be; asked: what was
    read meanwhile.
    """
    asked, found = set(asked), []
    for name in sorted({*before, *after, *wanted}):
        was, became, is_to_be = (each.get(name) for each in (before, after, wanted))
        if is_to_be in (was, became):
            continue  # Modules that set a variable do so in the server, too.
        free = name in _MAY_CHANGE_TOO or name.startswith(_MAY_CHANGE)
        if became != was or not free or name in asked:
            found.append(name)
    return found


def settled(
    before: Mapping[str, str], after: Mapping[str, str], wanted: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a fresh process that has imported: what modules set stays."""
    settled = dict(wanted)
    for name in {*before, *after}:
        if after.get(name) != before.get(name) and wanted.get(name) == before.get(name):
            if name in after:
                settled[name] = after[name]
            else:
                settled.pop(name, None)
    return settled
