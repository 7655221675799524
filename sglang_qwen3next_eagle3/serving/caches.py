"""What is compiled at a first start, and where it is kept: in a folder of one's own, if named.

Triton, DeepGEMM, FlashInfer, torch inductor, TVM FFI (SGLang's own CUDA kernels of this model) and
the driver keep what they compile; our kernels are Triton's. The image has the same in /caches
(Dockerfile).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import expanded

_PLACES = {
    "Triton": ("TRITON_CACHE_DIR", "triton", "triton"),
    "DeepGEMM": ("SGLANG_DG_CACHE_DIR", "deep_gemm", "deep_gemm"),
    "FlashInfer": ("FLASHINFER_WORKSPACE_BASE", "", ".cache/flashinfer"),
    "torch inductor": ("TORCHINDUCTOR_CACHE_DIR", "inductor", "inductor"),
    "TVM FFI": ("TVM_FFI_CACHE_DIR", "tvm-ffi", "tvm-ffi"),
    "CUDA driver": ("CUDA_CACHE_PATH", "cuda", "cuda"),
}
"""By what keeps it: its variable, what that names below the folder, and where files come to lie."""


@dataclass(frozen=True)
class CompileCache:
    name: str
    path: Path
    files: int
    bytes: int


def environment(folder: Path) -> dict[str, str]:
    """What makes a server keep there what it compiles."""
    found = expanded(folder).absolute()
    return {variable: str(found / below) for variable, below, _ in _PLACES.values()}


def kept(folder: Path) -> list[CompileCache]:
    """What lies in such a folder, by what keeps it."""
    found = expanded(folder).absolute()
    return [_count(name, found / place) for name, (_, _, place) in _PLACES.items()]


def check(folder: Path) -> None:
    """Raises UserError: it cannot be a folder of caches."""
    found = expanded(folder)
    there = next((place for place in (found, *found.absolute().parents) if place.exists()), found)
    if not there.is_dir():
        raise UserError(f"caches {folder}: {there} is a file, a folder is needed")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"caches {folder}: nothing may be written there; what is compiled at a start has to be"
        )


def _count(name: str, path: Path) -> CompileCache:
    sizes = list(_sizes(path))
    return CompileCache(name, path, len(sizes), sum(sizes))


def _sizes(path: Path) -> Iterator[int]:
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                yield os.stat(os.path.join(folder, name), follow_symlinks=False).st_size
            except OSError:  # A compiler's own, gone by now.
                continue
