"""What something was made or measured with: commit, versions, hardware, command, date."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base.redact import (
    masked,
    text_without_secrets,
    without_paths,
    without_secrets,
)

DISTRIBUTION = "sglang-qwen3next-eagle3"
PACKAGES = ("sglang", "sglang-kernel", "torch", "triton", "transformers", "flashinfer-python")
COMMIT_VARIABLE = "GIT_COMMIT"
_GPU_QUERY = "name,memory.total,driver_version"


def describe(words: Sequence[str]) -> dict[str, Any]:
    """words: what was given to `sglang-qwen3next-eagle3`, without paths of this machine."""
    told = commit()
    return {
        "date": now(),
        "commit": told.removesuffix("-dirty") if told else None,
        "dirty": told.endswith("-dirty") if told else None,
        "command": command_line(words),
        "versions": {
            DISTRIBUTION: __version__,
            "python": platform.python_version(),
            **versions(PACKAGES),
        },
        "host": {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gib": _memory()},
        "gpus": gpus(),
        "environment": {
            name: without_paths(text_without_secrets(value))
            for name, value in without_secrets(dict(sorted(os.environ.items()))).items()
            if name.startswith(("SGLANG_", "NCCL_", "CUDA_VISIBLE"))
        },
    }


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str | None:
    """The commit of this package's repository, with `-dirty` behind it where files differ.

    The variable GIT_COMMIT says it where the repository cannot (a wheel, a copied folder), and
    wins. None if nobody knows.
    """
    if told := os.environ.get(COMMIT_VARIABLE):
        return told
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def version(name: str) -> str | None:
    """Of an installed distribution; None if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(names: Iterable[str]) -> dict[str, str]:
    """Those of the distributions that are installed."""
    return {name: found for name in names if (found := version(name))}


def command_line(words: Sequence[str]) -> str:
    """As it was given, without secrets and paths of this machine."""
    return f"{DISTRIBUTION} " + shlex.join(without_paths(masked(words)))


def stamp(described: Mapping[str, Any]) -> dict[str, Any]:
    """What makes passes comparable, of `describe`."""
    dirty = " with changes" if described["dirty"] else ""
    cards = sorted({f"{gpu['name']}, driver {gpu['driver']}" for gpu in described["gpus"]})
    return {
        "commit": f"{described['commit']}{dirty}",
        "SGLang": described["versions"].get("sglang"),
        "torch": described["versions"].get("torch"),
        "on": "; ".join(cards) or described["host"]["cpu"],
    }


def gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each; empty where nvidia-smi finds none."""
    command = ["nvidia-smi", f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines()]
    names = "name", "memory", "driver"
    # Some drivers say in a sentence, with status 0, that they find none.
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> float | None:
    if sys.platform != "linux":
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
