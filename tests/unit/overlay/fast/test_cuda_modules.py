"""SGLang's CUDA kernels are compiled by its own functions, beside one another."""

import os
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import contract, served_head
from sglang_qwen3next_eagle3.overlay.fast import cuda_modules

ARCH = "TVM_FFI_CUDA_ARCH_LIST"


def target(dtype: torch.dtype, heads: int = 2) -> Any:
    model = torch.nn.Module()
    rotary = SimpleNamespace(is_neox_style=True, rotary_dim=64)
    layers = [
        SimpleNamespace(linear_attn=None),
        SimpleNamespace(rotary_emb=rotary, kv_size=512, num_kv_heads=2, total_num_kv_heads=heads),
    ]
    model.model = SimpleNamespace(layers=layers)  # type: ignore[assignment]
    model.weight = torch.nn.Parameter(torch.empty(2, 2, dtype=dtype), requires_grad=False)
    return model


HEAD: dict[str, Any] = {
    "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
}  # fmt: skip
"""Of the published head."""


@pytest.fixture
def jit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_head, "config", lambda: None)
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
    began, built = threading.Barrier(6, timeout=30), list[tuple[str, str | None]]()

    def build(one: Any) -> bool:
        began.wait()
        built.append((one[1], os.environ.get(ARCH)))
        return True

    monkeypatch.setattr(cuda_modules, "_build", build)
    cuda_modules.compile_side_by_side(target(torch.float8_e4m3fn))
    assert len(built) == 6
    assert {arch for _, arch in built} == {"9.0a"}
    assert ARCH not in os.environ
    assert len(cuda_modules.builds(target(torch.bfloat16))) == 4


def test_what_a_head_needs_beside_is_compiled_with_it(
    jit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = cuda_modules.builds(target(torch.bfloat16))

    def beside(head: dict[str, Any] | None, heads: int = 2) -> list[Any]:
        monkeypatch.setattr(served_head, "config", lambda: head)
        found = cuda_modules.builds(target(torch.bfloat16, heads))
        assert [one for one in found if one in alone] == alone
        return [one[1:] for one in found if one not in alone]

    bf16 = torch.bfloat16
    rotary = "_jit_fused_rope_module", (True, 128, bf16, bf16)
    # Its keys are as wide as the target's.
    assert beside(HEAD) == [rotary]
    wide = HEAD | {"num_key_value_heads": 8}
    assert beside(wide) == [("_jit_kvcache_module", (2048, 2048)), rotary]
    assert beside(HEAD | {"partial_rotary_factor": 0.5}) == []
    assert beside(None) == []
    # A config that cannot be read costs the head's alone.
    assert beside({"hidden_size": 2048}) == []
    # With several ranks each has a share of the heads.
    assert beside(HEAD, heads=4) == []


def test_a_head_s_config_is_read_as_sglang_reads_it() -> None:
    assert cuda_modules.of_head(HEAD) == ((True, 128), 1024)
    short = {"hidden_size": 2048, "num_attention_heads": 16}
    assert cuda_modules.of_head(short) == ((True, 128), 4096)
    assert cuda_modules.of_head(HEAD | {"rope_is_neox_style": False})[0] == (False, 128)
    with pytest.raises(KeyError):
        cuda_modules.of_head({"hidden_size": 2048})


def test_what_fails_is_left_to_its_call(
    jit: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
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
    assert "0 of 3 CUDA kernels of SGLang's made ready in " in caplog.text
    monkeypatch.setattr(cuda_modules, "builds", broken)
    cuda_modules.compile_side_by_side(target(torch.bfloat16))
    assert os.environ[ARCH] == "10.0"


class Sampling:
    """FlashInfer's description of a module."""

    def __init__(self, fails: bool = False, **there: bool) -> None:
        self.is_aot = there.get("aot", False)
        self.is_compiled = there.get("compiled", False)
        self.fails = fails
        self.began, self.may_end = threading.Event(), threading.Event()

    def build(self, verbose: bool, need_lock: bool = True) -> None:
        assert need_lock
        self.began.set()
        assert self.may_end.wait(60)
        if self.fails:
            raise RuntimeError("no nvcc")


def flashinfer(monkeypatch: pytest.MonkeyPatch, spec: Sampling) -> None:
    module: Any = ModuleType("flashinfer.jit.sampling")
    module.gen_sampling_module = lambda: spec
    monkeypatch.setitem(sys.modules, "flashinfer", ModuleType("flashinfer"))
    monkeypatch.setitem(sys.modules, "flashinfer.jit", ModuleType("flashinfer.jit"))
    monkeypatch.setitem(sys.modules, "flashinfer.jit.sampling", module)


@pytest.mark.parametrize("fails", [False, True])
def test_sampling_is_built_while_the_server_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    caplog.set_level("INFO")
    spec = Sampling(fails)
    flashinfer(monkeypatch, spec)
    args = SimpleNamespace(sampling_backend="flashinfer")
    thread = cuda_modules.build_sampling_meanwhile(args)
    assert thread is not None
    assert thread.daemon
    assert spec.began.wait(60), "and nobody waits for its end"
    spec.may_end.set()
    thread.join(60)
    assert not thread.is_alive()
    assert ("FlashInfer's sampling made ready in " in caplog.text) is not fails


def test_sampling_that_is_there_or_another_s_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    args = SimpleNamespace(sampling_backend="flashinfer")
    for spec in (Sampling(aot=True), Sampling(compiled=True)):
        flashinfer(monkeypatch, spec)
        assert cuda_modules.build_sampling_meanwhile(args) is None
    flashinfer(monkeypatch, Sampling())
    for other in (SimpleNamespace(sampling_backend="pytorch"), SimpleNamespace()):
        assert cuda_modules.build_sampling_meanwhile(other) is None
    # FlashInfer in another release than this was written for: left alone.
    monkeypatch.setattr(sys.modules["flashinfer.jit.sampling"], "gen_sampling_module", None)
    assert cuda_modules.build_sampling_meanwhile(args) is None
