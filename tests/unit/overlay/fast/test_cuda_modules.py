"""SGLang's CUDA kernels are compiled by its own functions, beside one another."""

import os
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.fast import cuda_modules

ARCH = "TVM_FFI_CUDA_ARCH_LIST"


def target(dtype: torch.dtype) -> Any:
    model = torch.nn.Module()
    rotary = SimpleNamespace(is_neox_style=True, rotary_dim=64)
    layers = [
        SimpleNamespace(linear_attn=None),
        SimpleNamespace(rotary_emb=rotary, kv_size=512),
    ]
    model.model = SimpleNamespace(layers=layers)  # type: ignore[assignment]
    model.weight = torch.nn.Parameter(torch.empty(2, 2, dtype=dtype), requires_grad=False)
    return model


@pytest.fixture
def jit(monkeypatch: pytest.MonkeyPatch) -> None:
    utils: Any = ModuleType("sglang.kernels.jit.utils")
    utils.get_jit_cuda_arch = lambda: SimpleNamespace(target_name="9.0a")
    utils.is_arch_support_pdl = lambda: True
    monkeypatch.setitem(sys.modules, "sglang.kernels.jit.utils", utils)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_the_functions_are_those_of_the_default_release(jit: None) -> None:
    """By their sources: their modules need a GPU's libraries."""
    installed = contract.installed_sglang()
    assert installed is not None
    if installed.release != contract.DEFAULT_RELEASE:
        pytest.skip("another release compiles them where it calls them")
    for name, function, arguments in cuda_modules.builds(target(torch.float8_e4m3fn)):
        path = installed.root.joinpath(*name.split(".")).with_suffix(".py")
        source = path.read_text(encoding="utf-8")
        head = source.partition(f"\ndef {function}(")[2].partition(":\n")[0]
        positional = head.partition(") ->")[0].partition("*,")[0]
        assert head, (name, function)
        assert positional.count(": ") == len(arguments), (name, head)


def test_all_are_compiled_at_once(jit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ARCH, raising=False)
    began, built = threading.Barrier(7, timeout=30), list[tuple[str, str | None]]()

    def build(module: str, function: str, arguments: Any) -> None:
        began.wait()
        built.append((function, os.environ.get(ARCH)))

    monkeypatch.setattr(cuda_modules, "_build", build)
    cuda_modules.compile_side_by_side(target(torch.float8_e4m3fn))
    assert len(built) == 7
    assert {arch for _, arch in built} == {"9.0a"}
    assert ARCH not in os.environ
    assert len(cuda_modules.builds(target(torch.bfloat16))) == 5


def test_what_fails_is_left_to_its_call(jit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ARCH, "10.0")
    there: Any = ModuleType("made_up_module")

    def broken(*_: Any) -> None:
        raise RuntimeError("nvcc is not there")

    there.broken = broken
    monkeypatch.setitem(sys.modules, "made_up_module", there)
    names = [("made_up_module", "broken", ()), ("made_up_module", "missing", (1,)), ("no", "x", ())]
    monkeypatch.setattr(cuda_modules, "builds", lambda model: names)
    cuda_modules.compile_side_by_side(target(torch.bfloat16))
    assert os.environ[ARCH] == "10.0"
    monkeypatch.setattr(cuda_modules, "builds", broken)
    cuda_modules.compile_side_by_side(target(torch.bfloat16))
    assert os.environ[ARCH] == "10.0"
