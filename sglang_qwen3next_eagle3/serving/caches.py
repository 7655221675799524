"""What is compiled at a first start, and where it is kept: in a folder of one's own, if named.

Triton, DeepGEMM, FlashInfer, torch inductor, CuTe, SGLang for its own CUDA kernels (with TVM FFI in
0.5.17, in a place of its own from 0.5.23 on) and the driver keep what they compile; our kernels are
Triton's. Each of them knows by version and architecture what is its own, so that one folder may
serve several releases. The image has the same in /caches (Dockerfile).
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sglang_qwen3next_eagle3.base import provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import expanded, read_json, write_json
from sglang_qwen3next_eagle3.serving.flags import Parsed

_PLACES = {
    "Triton": ("TRITON_CACHE_DIR", "triton", "triton"),
    "DeepGEMM": ("SGLANG_DG_CACHE_DIR", "deep_gemm", "deep_gemm"),
    "FlashInfer": ("FLASHINFER_WORKSPACE_BASE", "", ".cache/flashinfer"),
    "torch inductor": ("TORCHINDUCTOR_CACHE_DIR", "inductor", "inductor"),
    "TVM FFI": ("TVM_FFI_CACHE_DIR", "tvm-ffi", "tvm-ffi"),
    "CuTe": ("CUTE_DSL_CACHE_DIR", "cute", "cute"),
    "SGLang's kernels": ("SGLANG_JIT_CACHE_DIR", "jit", "jit"),
    "SGLang": ("SGLANG_CACHE_DIR", "sglang", "sglang"),
    "CUDA driver": ("CUDA_CACHE_PATH", "cuda", "cuda"),
}
"""By what keeps it: its variable, what that names below the folder, and where files come to lie.

SGLang (~/.cache/sglang unless it is told, whatever XDG_CACHE_HOME says) keeps what it tuned, and
with several ranks which GPUs reach each other: where it cannot, they do not start."""
IN_THE_IMAGE: Final = Path("/caches")
_OF_THIS_MACHINE: Final = "sglang/gpu_p2p_access_cache_for_*.json"
"""Which GPUs reach each other: no other machine may believe it."""
_FILLED: Final = "filled.json"
_PACKAGES: Final = ("sglang", "torch", "triton", "flashinfer-python", "sgl-deep-gemm")


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
    places = (found / place for _, _, place in _PLACES.values())
    for place in (there, *(place for place in places if place.is_dir())):
        if not os.access(place, os.W_OK | os.X_OK):
            where = "there" if place == there else f"in {place}"
            raise UserError(
                f"caches {folder}: nothing may be written {where}; what is compiled at a start has "
                "to be, and FlashInfer locks what it reads: name a copy, or a volume"
            )


def note_filled(folder: Path) -> None:
    """Leave in it by what it was filled, and nothing that is true of this machine alone.

    Raises OSError.
    """
    found = expanded(folder).absolute()
    for path in found.glob(_OF_THIS_MACHINE):
        path.unlink()
    write_json(found / _FILLED, _here(found))


def doubts(folder: Path) -> list[str]:
    """Why what lies in it may not be found by a server of this installation, for people."""
    found = expanded(folder).absolute()
    if not (found / _FILLED).is_file():
        return []
    try:
        before = read_json(found / _FILLED, "delete it")
    except UserError as error:  # It is a note, and what it is about serves without it.
        return [f"caches {folder}: by what they were filled is not known: {error}"]
    if not isinstance(before.get("versions"), dict):
        return [f"caches {folder}: by what they were filled is not known: {_FILLED} names none"]
    here = _here(found)
    other = [
        f"{name} {before['versions'].get(name, 'missing')} and not {version}"
        for name, version in here["versions"].items()
        if before["versions"].get(name) != version
    ]
    told = []
    if other:
        told.append(f"they were compiled with {', '.join(other)}: what differs is compiled again")
    if (before.get("folder"), before.get("python")) != (here["folder"], here["python"]):
        told.append(
            f"they were filled as {before.get('folder')} by {before.get('python')}: FlashInfer, "
            "whose files name where they and it lie, compiles again"
        )
    return [f"caches {folder}: {one}" for one in told]


def compiled_first(given: Parsed, environment: Mapping[str, str]) -> str | None:
    """What a start of several ranks waits for without a word in SGLang's log, for people; None
    where it is compiled, or is not used.

    SGLang 0.5.17 and 0.5.23 take FlashInfer's all-reduce for this architecture by themselves on
    Hopper (arg_groups/overrides.py, _flashinfer_allreduce_fusion_auto_enable).
    """
    unused = ("--enforce-disable-flashinfer-allreduce-fusion", "--enable-dp-attention")
    if (given.number("--tp-size") or 1) < 2 or any(map(given.of, unused)):
        return None
    base = environment.get("FLASHINFER_WORKSPACE_BASE") or Path.home()
    modules = Path(base) / ".cache" / "flashinfer"
    if any(modules.glob("*/*/cached_ops/trtllm_comm/trtllm_comm.so")):
        return None
    return (
        "with several ranks on Hopper SGLang lets FlashInfer compile its all-reduce first, which "
        f"takes minutes, and says nothing meanwhile (it is not in {modules} yet); "
        "-- --enforce-disable-flashinfer-allreduce-fusion goes without it"
    )


def _here(folder: Path) -> dict[str, Any]:
    versions = provenance.versions(_PACKAGES)
    return {"folder": str(folder), "python": sys.prefix, "versions": versions}


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
