"""What the first prefill would compile with nvcc, compiled in a process beside the check at start.

Where all that is captured is ours, nothing has asked for stock's FP8 products before the first
request, which would wait for them: a kernel of DeepGEMM for each shape and the quantization in
front of them, 6 to 20 s each, one after the other. Run as a module it compiles them, in threads;
whatever becomes of that process, the server compiles what it does not find.
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
import threading
from contextlib import suppress
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
_ROOM: Final = 3 * 2**30
"""Bytes that have to be free: a process on the GPU takes some hundred MB."""


def begin(model: torch.nn.Module) -> "subprocess.Popen[bytes] | None":
    """Start compiling for the layers of a model that have DeepGEMM, unless that was done before."""
    from sglang_qwen3next_eagle3.overlay.fast.reference import deep_gemm_layers

    try:
        shapes = sorted({tuple(layer.weight.shape) for layer in deep_gemm_layers(model)})
        if not shapes or _CACHE not in os.environ or torch.cuda.mem_get_info()[0] < _ROOM:
            return None
        done = _mark(shapes)
        if done.exists():
            return None
        job = {"shapes": shapes, "device": torch.cuda.current_device(), "done": str(done)}
        words = [sys.executable, "-m", __name__, json.dumps(job)]
        quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        return subprocess.Popen(words, **quiet)
    except Exception as error:
        logger.debug("nothing is compiled for prefills", exc_info=error)
        return None


def finish(process: "subprocess.Popen[bytes] | None", seconds: float = SECONDS) -> None:
    """Wait for it: what it compiles would be compiled a second time otherwise."""
    if process is not None:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            stop(process)


def stop(process: "subprocess.Popen[bytes] | None") -> None:
    """End it: nobody will serve what it compiles."""
    if process is not None:
        process.kill()
        process.wait()


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
    versions = [metadata.version(name) for name in ("sglang", "torch")]
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
    signal.alarm(SECONDS)
    with suppress(OSError, AttributeError):
        # It ends with the server that asked for it.
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    # What the server itself compiles comes first.
    os.nice(5)
    torch.cuda.set_device(job["device"])
    failed: list[BaseException] = []

    def attempt(what: Any, *arguments: int) -> None:
        try:
            # A thread begins with the first GPU.
            torch.cuda.set_device(job["device"])
            what(*arguments)
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=attempt, args=(multiply, rows, *shape))
        for shape in job["shapes"]
        for rows in ROWS
    ]
    with suppress(Exception):
        # Not by several threads at once.
        importlib.import_module("deep_gemm")
    for thread in threads:
        thread.start()
    attempt(quantize, job["shapes"][0][1])
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    if not failed:
        done = Path(job["done"])
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()


def multiply(rows: int, n: int, k: int) -> None:
    """As stock's linear calls DeepGEMM."""
    deep_gemm = importlib.import_module("deep_gemm")
    codes, weight = (torch.empty(m, k, device="cuda", dtype=torch.float8_e4m3fn) for m in (rows, n))
    scales = torch.ones(k // 128, -(-rows // 4) * 4, device="cuda").T[:rows]
    blocks = torch.ones(-(-n // 128), -(-k // 128), device="cuda")
    out = torch.empty(rows, n, device="cuda", dtype=torch.bfloat16)
    deep_gemm.fp8_gemm_nt((codes, scales), (weight, blocks), out)


def quantize(k: int) -> None:
    """As stock's linear quantizes in front of DeepGEMM."""
    from sglang.kernels.ops.quantization.fp8_kernel import sglang_per_token_group_quant_fp8

    rows = torch.zeros(4, k, device="cuda", dtype=torch.bfloat16)
    sglang_per_token_group_quant_fp8(
        rows, 128, column_major_scales=True, scale_tma_aligned=True, scale_ue8m0=False
    )


if __name__ == "__main__":
    main()
