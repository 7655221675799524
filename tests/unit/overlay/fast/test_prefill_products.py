"""The process that compiles what the first prefill needs."""

import json
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

    def __init__(self, said: str | None = "4 of 4 compiled in 30.0 s") -> None:
        self.said, self.returncode = said, 0

    def communicate(self, timeout: float) -> tuple[str, None]:
        if self.said is None:
            raise subprocess.TimeoutExpired("it", timeout)
        return self.said, None

    def kill(self) -> None:
        self.returncode = -9

    def wait(self) -> int:
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
    ((*_, module, job),) = begun
    assert module == "sglang_qwen3next_eagle3.overlay.fast.prefill_products"
    assert json.loads(job)["shapes"] == [[128, 256], [256, 128]]
    compiled: list[tuple[int, ...]] = []
    monkeypatch.setattr(prefill_products, "multiply", lambda *shape: compiled.append(shape))
    said = prefill_products.compile_all(json.loads(job))
    assert said.startswith("4 of 4 compiled in ")
    products = {(rows, *shape) for rows in (1, 256) for shape in ((128, 256), (256, 128))}
    assert set(compiled) == products
    assert prefill_products.begin(MODEL) is None
    assert len(begun) == 1


@pytest.mark.parametrize("when", ["compiled", "run"])
def test_what_fails_is_said_and_tried_again_at_the_next_start(
    gpu: Path, begun: list[list[str]], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    prefill_products.begin(MODEL)

    def failing(*_: int) -> None:
        raise OSError("nvcc is\nnot there")

    monkeypatch.setattr(prefill_products, "multiply", lambda *_: None)
    if when == "compiled":
        monkeypatch.setattr(prefill_products, "multiply", failing)
    else:
        monkeypatch.setattr(torch.cuda, "synchronize", failing)
    said = prefill_products.compile_all(json.loads(begun[0][3]))
    assert said.startswith(f"{0 if when == 'compiled' else 4} of 4 compiled in ")
    assert said.endswith("OSError: nvcc is not there")
    prefill_products.begin(MODEL)
    assert len(begun) == 2


@pytest.mark.parametrize(
    ("process", "said"),
    [
        (
            Process("3 of 4 compiled in 9.0 s; OSError: no\n"),
            "3 of 4 compiled in 9.0 s; OSError: no;",
        ),
        (Process(None), "it was ended after "),
        (Process(""), "its process ended with status 0;"),
    ],
)
def test_the_log_says_what_came_of_it(
    caplog: pytest.LogCaptureFixture, process: Any, said: str
) -> None:
    caplog.set_level("INFO")
    prefill_products.finish(prefill_products.PrefillCompiler(process))
    assert f"DeepGEMM's kernels for prefills: {said}" in caplog.text
    assert "waited 0.0 s" in caplog.text
    assert process.returncode == (-9 if process.said is None else 0)


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
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**31, 2**37))
    if why == "no folder":
        monkeypatch.delenv("DG_JIT_CACHE_DIR")
    if why == "no process":

        def popen(*_: Any, **__: Any) -> Any:
            raise OSError("no more processes")

        monkeypatch.setattr(subprocess, "Popen", popen)
    assert prefill_products.begin(model) is None
    assert begun == []
    prefill_products.finish(None)
