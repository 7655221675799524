"""Compile a few kernels for sm_90 into a folder, as a server without a GPU would: by processes
(`compile_pool`) or, with `here`, one after the other in this one. Prints what came of it as JSON.

    python -m tests.support.compile_by_processes FOLDER [here | begin]
"""

import dataclasses
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.compiler.compiler import make_backend

from sglang_qwen3next_eagle3.overlay.fast import ahead, compile_pool
from sglang_qwen3next_eagle3.overlay.fast.compile_job import describe
from sglang_qwen3next_eagle3.overlay.fast.kernels import attention, norm_quantize, tree
from tests.support.compile_fast import H100, INT32, INT64, WIDTH, empty
from tests.support.decided_at_import import decided

HITS: list[bool] = []


def jit(function: Any) -> Any:
    return triton.jit(function)


@jit
def of_main(x, N: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.store(x + tl.arange(0, N), 1.0)


def of_nobody() -> Any:
    @jit
    def inner(x, N: tl.constexpr):  # type: ignore[no-untyped-def]
        tl.store(x + tl.arange(0, N), 2.0)

    return inner


def launches() -> None:
    hidden, gain = empty(4, WIDTH), empty(WIDTH)
    norm_quantize.add_norm_quantize(hidden, hidden, gain, 1e-6, True)
    paths = tree.tree_paths(
        next_token=torch.zeros(1, 4, dtype=INT32), next_sibling=torch.zeros(1, 4, dtype=INT32)
    )
    cache, positions = empty(64, 2, 64), torch.zeros(4, dtype=INT64)
    attention.attention(
        empty(4, 768), empty(64), empty(64), 1e-6, positions,
        empty(64, 16, dtype=torch.float32), cache, cache, positions, torch.zeros(2, dtype=INT32),
        torch.zeros(64, dtype=INT64), paths, False,
        attention.attention_workspace(4, 4, 64, 4096, "cpu"),
    )  # fmt: skip


def by_what_a_module_saw() -> None:
    decided[(1,)](torch.zeros(16), N=16)


def untold() -> None:
    for kernel in (of_main, of_nobody()):
        kernel[(1,)](torch.zeros(16), N=16)


def in_cache(folder: Path) -> dict[str, str]:
    """What Triton finds by its keys, and digests of the machine code."""
    found = sorted(folder.rglob("*.cubin"))
    assert all((file.parent / f"__grp__{file.stem}.json").exists() for file in found)
    return {
        f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in found
    }


def other_tool(folder: Path) -> None:
    """What assembles is another tool, from behind where Triton has asked it for its version: as
    torch sets one where something is compiled by inductor."""
    backend = make_backend(H100().get_current_target())
    first = backend.hash()
    told = knobs.nvidia.ptxas
    tool = folder / "ptxas"
    folder.mkdir(parents=True, exist_ok=True)
    says = f"echo another one, release {told.version}, and no more"
    tool.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then {says}; else exec {told.path} "$@"; fi\n'
    )
    tool.chmod(0o755)
    os.environ["TRITON_PTXAS_PATH"] = str(tool)
    assert knobs.nvidia.ptxas.path == str(tool)
    assert make_backend(H100().get_current_target()).hash() == first


def only_warm_up() -> None:
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def compiled(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(kernel, *args, grid=grid, warmup=True, **options)

    JITFunction.run = compiled


def by_processes(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = {}
    compilers = compile_pool.Compilers(compile_pool.modules_of_ours(), [])
    with ahead.compiling(compilers) as compiler:
        assert compiler is not None
        compiler.run(launches)
        asked = compiler._mode.asked
        (scores,) = [one for one in asked.values() if one.here is None]
        assert scores.job is not None
        said["in a setting"] = scores.job.name
        # Without its setting, under the same key: nothing of it may come into the cache.
        plain = {k: v for k, v in scores.job.environment.items() if k != attention.WGMMA_OFF}
        unlike = [
            dataclasses.replace(scores.job, environment=plain),
            dataclasses.replace(scores.job, environment=plain, settings={}),
            dataclasses.replace(scores.job, knobs=""),
            dataclasses.replace(scores.job, backend=""),
            dataclasses.replace(scores.job, references=""),
            dataclasses.replace(scores.job, module="nowhere"),
        ]
        said["unlike"] = len(compilers.compile(unlike)), scores.job.cached(), in_cache(folder)
        made = compiler.finish()
        said["ready"] = made.there, sorted(one.job.name for one in made.told), made.here
        said["seconds"] = [one.seconds for one in made.told]
        said["cached"] = [one.job is not None and one.job.cached() for one in asked.values()]
        compiler.run(by_what_a_module_saw)
        made = compiler.finish()
        said["decided"] = [one.job.name for one in made.told], made.here
        compiler.run(untold)
        said["told"] = [one.job is not None for one in compiler._mode.asked.values()]
        made = compiler.finish()
        said["untold ready"] = made.there, len(made.told), made.here
    said["found"] = list(HITS)
    HITS.clear()
    only_warm_up()
    launches()
    said["found at launch"] = list(HITS)
    compilers.stop()
    began = time.monotonic()
    compiled = compilers.compile([scores.job])
    # Known at once, and not when their time is over.
    quick = time.monotonic() - began < compile_pool.SECONDS / 3
    said["of dead ones"] = len(compiled), quick
    return said


def main() -> None:
    folder, how = Path(sys.argv[1]), sys.argv[2:]
    os.environ["TRITON_CACHE_DIR"] = str(folder)
    os.environ.pop(attention.WGMMA_OFF, None)
    if how == ["begin"]:
        compilers = compile_pool.Compilers(compile_pool.modules_of_ours(), [])
        print(json.dumps([one.pid for one in compilers._servers.values()]), flush=True)
        time.sleep(600)
    triton.runtime.driver.set_active(H100())
    other_tool(folder.with_name(f"{folder.name}-tool"))
    knobs.compilation.listener = lambda cache_hit, **_: HITS.append(cache_hit)
    said: dict[str, Any] = {}
    if how == ["here"]:
        only_warm_up()
        launches()
        by_what_a_module_saw()
        untold()
    else:
        said = by_processes(folder)
    print(json.dumps({**said, "in cache": in_cache(folder)}))


assert describe("", launches) is None

if __name__ == "__main__":
    main()
