"""Machines that are not here, for what depends on one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.serving.doctor.host import Host, Space
from sglang_qwen3next_eagle3.serving.gpus import Gpu, Gpus

GIB = 2**30


def gpus(count: int, **changed: Any) -> Gpus:
    """H200, idle, each linked with each."""
    one = Gpu(0, "", "NVIDIA H200", 143771, 143167, (9, 0), "580.159.04", persistence=True)
    found = tuple(
        replace(one, index=index, uuid=f"GPU-{index}", **changed) for index in range(count)
    )
    links = {(a, b): "NV18" for a in range(count) for b in range(count) if a != b}
    return Gpus(found, (), links or None)


def h200(count: int = 8, **changed: Any) -> Host:
    """A machine on which nothing is wrong."""
    good = Host(
        gpus=gpus(count),
        shm=Space(Path("/dev/shm"), 64 * GIB, 64 * GIB),
        memory=2048 * GIB,
        available=2000 * GIB,
        limit=None,
        nofile=1_048_576,
        memlock=None,
        hub_cache=Space(Path("/cache"), 4096 * GIB, 2048 * GIB),
        caches=(),
        torch_cuda="13.0",
        has_device=True,
        has_cuda_compat=False,
        now=1.8e9,
        built=1.7e9,
        environment={},
    )
    return replace(good, **changed)
