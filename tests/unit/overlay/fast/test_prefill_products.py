"""The process that compiles what the first prefill needs."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast import prefill_products


def deepgemm_linear() -> None: ...


class Linear(torch.nn.Module):
    def __init__(self, n: int, k: int) -> None:
        super().__init__()
        self.weight = torch.empty(n, k)
        self.quant_method: Any = SimpleNamespace(w8a8_block_fp8_linear=deepgemm_linear)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A GPU that is not there, and the folder that DeepGEMM compiles to."""
    monkeypatch.setenv("DG_JIT_CACHE_DIR", str(tmp_path / "deep_gemm"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**34, 2**37))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setitem(sys.modules, "deep_gemm", SimpleNamespace())
    return tmp_path / "deep_gemm"


class Process:
    """One that compiled: what it said and its status; `said` None while it does."""

    pid = 0

    def __init__(self, said: str | None = '{"compiled": 2, "imports": 3.5}') -> None:
        self.said = said
        self.returncode = None if said is None else 0

    def communicate(self, timeout: float) -> tuple[str, None]:
        if self.said is None:
            raise subprocess.TimeoutExpired("it", timeout)
        return self.said, None

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int:
        assert self.returncode == -9
        return self.returncode


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    words: list[list[str]] = []

    def popen(command: list[str], **_: Any) -> Any:
        words.append(command)
        return Process()

    monkeypatch.setattr(subprocess, "Popen", popen)
    return words


MODEL = torch.nn.ModuleList([Linear(256, 128), Linear(128, 256), Linear(256, 128)])


def test_every_shape_is_compiled_once_and_not_again_at_the_next_start(
    gpu: Path, begun: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefill_products.finish(prefill_products.begin(MODEL))
    assert {words[2] for words in begun} == {prefill_products.__name__}
    jobs = [json.loads(words[3]) for words in begun]
    assert [job["shape"] for job in jobs] == [[128, 256], [256, 128]]
    compiled: list[tuple[int, ...]] = []
    monkeypatch.setattr(prefill_products, "multiply", lambda *shape: compiled.append(shape))
    for job in jobs:
        found = prefill_products.compile_shape(job)
        assert found["compiled"] == 2
        assert "failed" not in found
    assert compiled == [(rows, *shape) for shape in ((128, 256), (256, 128)) for rows in (1, 256)]
    assert prefill_products.begin(MODEL) is None
    assert len(begun) == 2


@pytest.mark.parametrize("when", ["compiled", "run"])
def test_a_process_says_what_failed(gpu: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    calls: list[int] = []

    def second(*_: int) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("nvcc is\nnot there")

    monkeypatch.setattr(prefill_products, "multiply", lambda *_: None)
    if when == "compiled":
        monkeypatch.setattr(prefill_products, "multiply", second)
    else:
        monkeypatch.setattr(torch.cuda, "synchronize", second)
    found = prefill_products.compile_shape({"shape": [128, 256], "device": 0, "begun": 0.0})
    assert found["compiled"] == 1
    assert found["failed"] == "OSError: nvcc is not there"


@pytest.mark.parametrize(
    ("said", "whole", "why"),
    [
        ('{"compiled": 1, "failed": "OSError: no"}', 3, ": OSError: no"),
        (None, 2, ": not done after "),
        ("", 2, ": status 0"),
        ("Segmentation fault", 2, ": it answered 'Segmentation fault'"),
        ("139", 2, ": it answered '139'"),
    ],
)
def test_the_log_says_what_came_of_it_and_what_failed_is_tried_again(
    gpu: Path,
    begun: list[list[str]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    said: str | None,
    whole: int,
    why: str,
) -> None:
    caplog.set_level("INFO")
    compilers = prefill_products.begin(MODEL)
    assert compilers is not None
    bad: Any = Process(said)
    ended: list[int] = []

    def killed(group: int, number: int) -> None:
        ended.append(number)
        bad.returncode = -9

    monkeypatch.setattr("os.killpg", killed)
    processes = (compilers.processes[0], bad)
    prefill_products.finish(dataclasses.replace(compilers, processes=processes))
    assert f": {whole} of 4 kernels of DeepGEMM for prefills made ready in " in caplog.text
    assert f"(imports 3.5 s), waited 0.0 s{why}" in caplog.text
    assert ended == ([signal.SIGKILL] if said is None else [])
    assert not compilers.done.exists()
    assert prefill_products.begin(MODEL) is not None
    assert len(begun) == 4


def test_a_layer_of_each_shape_multiplies_before_the_first_request() -> None:
    model = torch.nn.ModuleList([Linear(256, 128), Linear(128, 256), Linear(256, 128)])
    used: list[tuple[Any, ...]] = []

    def apply(layer: Linear, row: torch.Tensor, bias: None) -> None:
        used.append((tuple(layer.weight.shape), tuple(row.shape), row.dtype, bias))

    methods: list[Any] = [layer.quant_method for layer in model]
    for method in methods:
        method.apply = apply
    prefill_products.use(model)
    bf16 = torch.bfloat16
    assert used == [((256, 128), (1, 128), bf16, None), ((128, 256), (1, 256), bf16, None)]
    for method in methods:
        method.apply = None
    prefill_products.use(model)


@pytest.mark.parametrize("why", ["no layer", "no room", "no folder", "no process"])
def test_nothing_is_begun_where_it_cannot_be(
    gpu: Path, begun: list[list[str]], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    model = torch.nn.ModuleList() if why == "no layer" else MODEL
    if why == "no room":
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 2**37))
    if why == "no folder":
        monkeypatch.delenv("DG_JIT_CACHE_DIR")
    running: Any = Process(None)
    if why == "no process":

        def popen(*_: Any, **__: Any) -> Any:
            if running.pid:
                raise OSError("no more processes")
            running.pid = 17
            return running

        monkeypatch.setattr(subprocess, "Popen", popen)
        monkeypatch.setattr("os.killpg", lambda *_: setattr(running, "returncode", -9))
    assert prefill_products.begin(model) is None
    assert begun == []
    # The one that was begun is not left behind.
    assert running.returncode == (-9 if why == "no process" else None)
    prefill_products.finish(None)
