"""What the first prefill would compile with nvcc, compiled in processes beside the check at start.

Where all that is captured is ours, nothing has asked for stock's FP8 products before the first
request, which would wait for them: a kernel of DeepGEMM for each shape, one after the other. Run as
a module it compiles those of one shape; whatever becomes of that process, the server compiles what
it does not find, and says in one line what was compiled here, or why not.

A process a shape, since DeepGEMM makes its compiler and its table of kernels at the first call,
which threads would make over one another. They import nothing of SGLang's, which takes longer than
these kernels, and build no module that the server builds at the same time (`cuda_modules`), of
which one would find what the other has written by half.
"""

import ctypes
import hashlib
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

logger = logging.getLogger(__name__)
ROWS: Final = (1, 256)
"""Of prefills: for many numbers of rows DeepGEMM has a kernel of its own."""
SECONDS: Final = 120
"""After so many it ends itself, whatever it has compiled."""
_PARENT_DEATH_SIGNAL: Final = 1
"""PR_SET_PDEATHSIG of Linux."""
_CACHE: Final = "DG_JIT_CACHE_DIR"
_ROOM: Final = 2**30
"""Bytes that have to be free for a shape: a process on the GPU takes some hundred MB."""


@dataclass(frozen=True)
class PrefillCompilers:
    """The processes, since when they compile, and the file that says that they have."""

    processes: "tuple[subprocess.Popen[str], ...]"
    begun: float
    done: Path


def begin(model: torch.nn.Module) -> PrefillCompilers | None:
    """Start compiling for the layers of a model that have DeepGEMM, unless that was done before."""
    from sglang_qwen3next_eagle3.overlay.fast.reference import deep_gemm_layers

    processes: list[subprocess.Popen[str]] = []
    try:
        shapes = sorted({tuple(layer.weight.shape) for layer in deep_gemm_layers(model)})
        if not shapes or _CACHE not in os.environ:
            return None
        if torch.cuda.mem_get_info()[0] < _ROOM * len(shapes):
            return None
        done, begun = _mark(shapes), time.monotonic()
        if done.exists():
            return None
        for shape in shapes:
            job = {
                "shape": shape,
                "device": torch.cuda.current_device(),
                "begun": begun,
                "parent": os.getpid(),
            }
            processes.append(_begun(job))
        return PrefillCompilers(tuple(processes), begun, done)
    except Exception as error:
        logger.debug("nothing is compiled for prefills", exc_info=error)
        _end(processes)
        return None


def _begun(job: Mapping[str, Any]) -> "subprocess.Popen[str]":
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stderr"), subprocess.DEVNULL)
    words = [sys.executable, "-m", __name__, json.dumps(job)]
    # With what it starts it is a group, to be ended as one.
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, start_new_session=True, **quiet
    )


def finish(compilers: PrefillCompilers | None, seconds: float = SECONDS) -> None:
    """Wait for them, since what they compile would be compiled a second time otherwise, and say
    what came of it."""
    if compilers is None:
        return
    waited = time.monotonic()
    compiled, imports, reasons = 0, 0.0, list[str]()
    answer: dict[str, Any]
    for process in compilers.processes:
        try:
            said, _ = process.communicate(timeout=max(0.0, waited + seconds - time.monotonic()))
            answer = _answered(said, process.returncode)
        except subprocess.TimeoutExpired:
            answer = {"failed": f"not done after {time.monotonic() - compilers.begun:.0f} s"}
        compiled += answer.get("compiled", 0)
        imports = max(imports, answer.get("imports", 0.0))
        reasons += [answer["failed"]] if answer.get("failed") else []
    _end(compilers.processes)
    now = time.monotonic()
    if not reasons:
        with suppress(OSError):
            compilers.done.parent.mkdir(parents=True, exist_ok=True)
            compilers.done.touch()
    logger.info(
        "sglang-qwen3next-eagle3: fast path: %d of %d kernels of DeepGEMM for prefills made ready "
        "in %.1f s (imports %.1f s), waited %.1f s%s",
        compiled,
        len(ROWS) * len(compilers.processes),
        now - compilers.begun,
        imports,
        now - waited,
        f": {reasons[0]}" if reasons else "",
    )


def _answered(said: str, status: int) -> dict[str, Any]:
    """What `compile_shape` found, or what was there instead of it."""
    try:
        found = json.loads(said)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    return {"failed": f"it answered {said[:100]!r}" if said else f"status {status}"}


def stop(compilers: PrefillCompilers | None) -> None:
    """End them: nobody will serve what they compile."""
    if compilers is not None:
        _end(compilers.processes)


def _end(processes: "Sequence[subprocess.Popen[str]]") -> None:
    for process in processes:
        if process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                # One that the driver holds is not waited for.
                process.wait(5)


@torch.no_grad()
def use(model: torch.nn.Module) -> None:
    """Multiply once with a layer of each shape, as stock's captures do at a start: what SGLang does
    when it first meets a shape (unless `SGLANG_JIT_DEEPGEMM_PRECOMPILE=0`, it compiles for every
    number of rows) is over before the first request, which has a time limit."""
    from sglang_qwen3next_eagle3.overlay.fast.reference import deep_gemm_layers

    try:
        layers = {tuple(layer.weight.shape): layer for layer in deep_gemm_layers(model)}
        for (_, columns), layer in layers.items():
            row = torch.zeros(1, columns, dtype=torch.bfloat16, device=layer.weight.device)
            layer.quant_method.apply(layer, row, None)
    except Exception as error:
        logger.debug("not all products of prefills are ready", exc_info=error)


def _mark(shapes: list[tuple[int, ...]]) -> Path:
    """The file that says that this was compiled."""
    # DeepGEMM comes with its own package, or with SGLang's.
    names = ("sglang", "torch", "sgl-deep-gemm", "sglang-kernel")
    versions = [one.version for name in names for one in metadata.distributions(name=name)]
    what = [
        shapes,
        ROWS,
        versions,
        torch.cuda.get_device_name(),
        os.environ.get("DG_JIT_USE_NVRTC"),
    ]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return Path(os.environ[_CACHE]) / f"prefills-{name}"


def main() -> None:
    job = json.loads(sys.argv[1])
    # By the signal's own action, for which no call has to come back to Python.
    signal.alarm(SECONDS)
    with suppress(OSError, AttributeError):
        # It ends with the server that asked for it.
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != job["parent"]:
        os._exit(1)
    # What the server itself compiles comes first.
    os.nice(5)
    # Nobody reads before the end what compilers print.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(compile_shape(job)), file=answer, flush=True)
    # DeepGEMM frees memory of the GPU when it is taken down, where there may be no driver any more.
    os._exit(0)


def compile_shape(job: Mapping[str, Any]) -> dict[str, Any]:
    """The kernels of one shape of weights, for all numbers of rows. compiled: how many are there;
    imports: seconds; failed: why not all."""
    found: dict[str, Any] = {"compiled": 0}
    try:
        torch.cuda.set_device(job["device"])
        importlib.import_module("deep_gemm")
        found["imports"] = round(time.monotonic() - job["begun"], 1)
        for rows in ROWS:
            multiply(rows, *job["shape"])
            torch.cuda.synchronize()
            found["compiled"] += 1
    except BaseException as error:
        found["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return found


def multiply(rows: int, n: int, k: int) -> None:
    """As stock's linear calls DeepGEMM."""
    deep_gemm = importlib.import_module("deep_gemm")
    codes, weight = (torch.empty(m, k, device="cuda", dtype=torch.float8_e4m3fn) for m in (rows, n))
    scales = torch.ones(k // 128, -(-rows // 4) * 4, device="cuda").T[:rows]
    blocks = torch.ones(-(-n // 128), -(-k // 128), device="cuda")
    out = torch.empty(rows, n, device="cuda", dtype=torch.bfloat16)
    deep_gemm.fp8_gemm_nt((codes, scales), (weight, blocks), out)


if __name__ == "__main__":
    main()
