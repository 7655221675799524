"""What the first prefill would compile with nvcc, compiled in a process beside the check at start.

Where all that is captured is ours, nothing has asked for stock's FP8 products before the first
request, which would wait for them: a kernel of DeepGEMM for each shape, one after the other. Run as
a module it compiles them, in threads; whatever becomes of that process, the server compiles what it
does not find, and says in one line what was compiled here, or why not.

It imports nothing of SGLang's, which takes longer than some of these kernels, and has none of the
modules compiled that the server builds at the same time (`cuda_modules`), of which one would find
what the other has written by half.
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
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
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


@dataclass
class PrefillCompiler:
    """A process that compiles, and since when."""

    process: "subprocess.Popen[str]"
    begun: float = field(default_factory=time.monotonic)


def begin(model: torch.nn.Module) -> PrefillCompiler | None:
    """Start compiling for the layers of a model that have DeepGEMM, unless that was done before."""
    from sglang_qwen3next_eagle3.overlay.fast.reference import deep_gemm_layers

    try:
        shapes = sorted({tuple(layer.weight.shape) for layer in deep_gemm_layers(model)})
        if not shapes or _CACHE not in os.environ or torch.cuda.mem_get_info()[0] < _ROOM:
            return None
        done = _mark(shapes)
        if done.exists():
            return None
        job = {
            "shapes": shapes,
            "device": torch.cuda.current_device(),
            "done": str(done),
            "begun": time.monotonic(),
        }
        words = [sys.executable, "-m", __name__, json.dumps(job)]
        quiet: dict[str, Any] = dict.fromkeys(("stdin", "stderr"), subprocess.DEVNULL)
        return PrefillCompiler(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, **quiet))
    except Exception as error:
        logger.debug("nothing is compiled for prefills", exc_info=error)
        return None


def finish(compiler: PrefillCompiler | None, seconds: float = SECONDS) -> None:
    """Wait for it, since what it compiles would be compiled a second time otherwise, and say what
    came of it."""
    if compiler is None:
        return
    process, waited = compiler.process, time.monotonic()
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        stop(compiler)
        said = f"it was ended after {time.monotonic() - compiler.begun:.0f} s"
    logger.info(
        "sglang-qwen3next-eagle3: fast path: DeepGEMM's kernels for prefills: %s; waited %.1f s",
        said.strip() or f"its process ended with status {process.returncode}",
        time.monotonic() - waited,
    )


def stop(compiler: PrefillCompiler | None) -> None:
    """End it: nobody will serve what it compiles."""
    if compiler is not None:
        compiler.process.kill()
        compiler.process.wait()


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
    signal.alarm(SECONDS)
    with suppress(OSError, AttributeError):
        # It ends with the server that asked for it.
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    # What the server itself compiles comes first.
    os.nice(5)
    # Nobody reads before the end what compilers print.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(compile_all(json.loads(sys.argv[1])), file=answer, flush=True)


def compile_all(job: Mapping[str, Any]) -> str:
    """What `begin` asked for; what came of it, for the log. The mark is set if all is there."""
    torch.cuda.set_device(job["device"])
    failed: list[BaseException] = []

    def attempt(what: Callable[..., Any], *arguments: int) -> None:
        try:
            # A thread begins with the first GPU.
            torch.cuda.set_device(job["device"])
            what(*arguments)
        except BaseException as error:
            failed.append(error)

    with suppress(Exception):
        # Not by several threads at once.
        importlib.import_module("deep_gemm")
    imported = time.monotonic() - job["begun"]
    asked = [(rows, *shape) for shape in job["shapes"] for rows in ROWS]
    threads = [threading.Thread(target=attempt, args=(multiply, *one)) for one in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    compiled = len(asked) - len(failed)
    attempt(torch.cuda.synchronize)
    if not failed:
        done = Path(job["done"])
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
    whole = time.monotonic() - job["begun"]
    said = f"{compiled} of {len(asked)} compiled in {whole:.1f} s ({imported:.1f} s of imports)"
    for error in failed[:1]:
        said += f"; {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return said


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
