"""This machine, as far as serving depends on it. `probe` looks; what it found is a value."""

import contextlib
import getpass
import importlib.util
import os
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sglang_qwen3next_eagle3.base.files import expanded
from sglang_qwen3next_eagle3.serving import gpus
from sglang_qwen3next_eagle3.serving.gpus import Gpu, Gpus

SHM = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
CUDA_COMPAT = Path("/usr/local/cuda/compat")
"""Libraries with which an older driver runs a newer CUDA, as containers bring them."""
_DEVICES = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
_UNLIMITED_CGROUP = 2**60
COUNTED_FILES = 20_000
"""Files of a cache that are counted at most: whether it is warm shows long before."""


@dataclass(frozen=True)
class Space:
    """A file system at a path. total, free: bytes."""

    path: Path
    total: int
    free: int


@dataclass(frozen=True)
class Cache:
    """Where a library keeps what it compiles. files, bytes: at least that many; writable: whether
    it may, or may make the folder."""

    name: str
    path: Path
    files: int
    bytes: int
    writable: bool = True


@dataclass(frozen=True)
class Host:
    """memory, available: bytes of RAM; limit: of the container, if it has one. nofile, memlock:
    hard limits, to which SGLang raises the soft ones; None for none. torch_cuda: the CUDA that
    torch is built for, None without torch or for a CPU build. has_device: whether there is a GPU's
    device file. now: seconds since 1970; built: when this package was installed."""

    gpus: Gpus
    shm: Space | None
    memory: int
    available: int
    limit: int | None
    nofile: int | None
    memlock: int | None
    hub_cache: Space | None
    caches: tuple[Cache, ...]
    torch_cuda: str | None
    has_device: bool
    has_cuda_compat: bool
    now: float
    built: float
    environment: Mapping[str, str]

    @property
    def visible(self) -> tuple[Gpu, ...]:
        return self.gpus.visible(self.environment.get("CUDA_VISIBLE_DEVICES"))


def probe(*, whole: bool = True) -> Host:
    """whole: with what takes longer, the caches' sizes."""
    environment = dict(os.environ)
    memory, available = _memory()
    places = cache_places(environment)
    return Host(
        gpus=gpus.probe(),
        shm=space(SHM),
        memory=memory,
        available=available,
        limit=_cgroup_limit(),
        nofile=_limit(resource.RLIMIT_NOFILE),
        memlock=_limit(resource.RLIMIT_MEMLOCK),
        hub_cache=space(hub_cache(environment)),
        caches=tuple(_cache(name, path) for name, path in places.items()) if whole else (),
        torch_cuda=_torch_cuda(),
        has_device=any(place.exists() for place in _DEVICES),
        has_cuda_compat=CUDA_COMPAT.is_dir(),
        now=time.time(),
        built=Path(__file__).stat().st_mtime,
        environment=environment,
    )


def has_gpu() -> bool:
    """Whether there is a GPU that a server would see."""
    found = gpus.probe()
    return bool(found.visible(os.environ.get("CUDA_VISIBLE_DEVICES")))


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps what it downloads."""
    if told := environment.get("HF_HUB_CACHE"):
        return expanded(told)
    home = environment.get("HF_HOME")
    return (expanded(home) if home else _cache_home(environment) / "huggingface") / "hub"


def cache_places(environment: Mapping[str, str]) -> dict[str, Path]:
    """Of what SGLang's libraries compile: Triton 3.6 (knobs.py), DeepGEMM as SGLang sets it
    (deep_gemm_wrapper/compile_utils.py), FlashInfer 0.6 (jit/env.py), torch inductor
    (_inductor/runtime/cache_dir_utils.py)."""
    home = _home(environment)
    triton = environment.get("TRITON_CACHE_DIR")
    triton_home = Path(environment.get("TRITON_HOME") or home) / ".triton"
    gemm = environment.get("SGLANG_DG_CACHE_DIR")
    infer = Path(environment.get("FLASHINFER_WORKSPACE_BASE") or home) / ".cache" / "flashinfer"
    user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
    inductor, scratch = environment.get("TORCHINDUCTOR_CACHE_DIR"), Path(tempfile.gettempdir())
    return {
        "Triton": Path(triton) if triton else triton_home / "cache",
        "DeepGEMM": Path(gemm) if gemm else home / ".cache" / "deep_gemm",
        "FlashInfer": infer,
        "torch inductor": Path(inductor) if inductor else scratch / f"torchinductor_{user}",
    }


def space(path: Path) -> Space | None:
    """Of the file system that a folder is on, or would be on."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(place)
            return Space(path, usage.total, usage.free)
    return None


def _cache(name: str, path: Path) -> Cache:
    files = size = 0
    for file in _files(path):
        files += 1
        with contextlib.suppress(OSError):
            size += file.stat().st_size
        if files == COUNTED_FILES:
            break
    there = next((place for place in (path, *path.parents) if place.exists()), path)
    return Cache(name, path, files, size, os.access(there, os.W_OK))


def _files(path: Path) -> Iterable[os.DirEntry[str]]:
    try:
        entries = list(os.scandir(path))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield entry


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or Path.home())


def _cache_home(environment: Mapping[str, str]) -> Path:
    told = environment.get("XDG_CACHE_HOME")
    return expanded(told) if told else _home(environment) / ".cache"


def _memory() -> tuple[int, int]:
    """Total and available, in bytes; 0 where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return 0, 0
    found = {name: int(kib) * 1024 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", text)}
    return found.get("MemTotal", 0), found.get("MemAvailable", 0)


def _cgroup_limit() -> int | None:
    """Bytes that the container may use, of either version of control groups."""
    for file in (CGROUP / "memory.max", CGROUP / "memory" / "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(file.read_text(encoding="utf-8"))
            return limit if limit < _UNLIMITED_CGROUP else None
    return None


def _limit(which: int) -> int | None:
    _, hard = resource.getrlimit(which)
    return None if hard == resource.RLIM_INFINITY else hard


def _torch_folder() -> Path | None:
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _torch_cuda() -> str | None:
    """Read in torch/version.py, which importing torch would take seconds for."""
    folder = _torch_folder()
    if folder is None:
        return None
    with contextlib.suppress(OSError):
        text = (folder / "version.py").read_text(encoding="utf-8")
        match = re.search(r"^cuda\b[^=]*= '([\d.]+)'", text, re.MULTILINE)
        return match[1] if match else None
    return None
