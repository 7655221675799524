import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import contract, variants
from sglang_qwen3next_eagle3.overlay.contract import Installed
from sglang_qwen3next_eagle3.overlay.cpu_engine import ENVIRONMENT, SHIM_DIR, attention, hooks, ops

BY_TARGET = {hook.target: hook for hook in hooks.HOOKS}
AMX = "sglang.srt.layers.attention.intel_amx_backend:IntelAMXAttnBackend"


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_activation_names_the_variable_that_is_missing(monkeypatch, name):
    for other, value in ENVIRONMENT.items():
        monkeypatch.setenv(other, value)
    monkeypatch.delenv(name)
    with pytest.raises(SystemExit, match=f"{name}={ENVIRONMENT[name]}"):
        hooks.activate(BY_TARGET)


def test_activation_refuses_a_library_that_is_not_ours(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "sgl_kernel", SimpleNamespace())
    for name in ops.OPS:
        monkeypatch.setattr(torch.ops.sgl_kernel, name, print, raising=False)
    with pytest.raises(SystemExit, match=re.escape(str(SHIM_DIR))):
        hooks.activate(BY_TARGET)


@pytest.mark.parametrize(
    ("release", "others"),
    [
        ("0.5.17", {}),
        ("0.5.9", {}),
        (
            "0.5.23",
            {
                "decode_attention_cpu": attention.decode_scaled,
                "extend_attention_cpu": attention.extend_scaled,
            },
        ),
    ],
)
def test_the_shim_registers_every_operator_as_the_release_calls_it(monkeypatch, release, others):
    for name in ops.OPS:
        assert not hasattr(torch.ops.sgl_kernel, name), "another test left it behind"
    monkeypatch.setattr(contract, "installed_sglang", lambda: Installed(release, Path()))
    variants.has_layer_boundaries.cache_clear()
    try:
        runpy.run_path(str(SHIM_DIR / "common_ops.py"))
        for name, function in {**ops.OPS, **others}.items():
            assert getattr(torch.ops.sgl_kernel, name) is function
    finally:
        variants.has_layer_boundaries.cache_clear()
        for name in ops.OPS:
            vars(torch.ops.sgl_kernel).pop(name, None)


def test_no_symbol_is_replaced_twice_and_each_says_why_in_one_sentence():
    assert len(BY_TARGET) == len(hooks.HOOKS)
    for hook in hooks.HOOKS:
        assert hook.module.startswith(("sglang.", "sgl_kernel"))
        assert re.fullmatch(r"[A-Z][^\n]*\.", hook.why)


def test_buffers_asked_for_on_cuda_are_allocated_on_the_cpu():
    allocate = BY_TARGET["sglang.srt.mem_cache.memory_pool:MambaPool.__init__"].replacement
    for device in ("cuda", torch.device("cuda"), "cpu", None):
        tensor = allocate(lambda device=device: torch.zeros(2, device=device))
        assert tensor.device.type == "cpu"


def test_extending_reads_the_lengths_of_the_backends_metadata():
    hook = BY_TARGET[f"{AMX}.forward_extend"].replacement
    backend = SimpleNamespace(extend_metadata=(torch.tensor([9]), None, None, None))
    batch = SimpleNamespace(seq_lens=torch.tensor([5]), other="kept")

    def original(backend, q, k, v, layer, forward_batch, save_kv_cache=True):
        return forward_batch.seq_lens.item(), forward_batch.other, save_kv_cache

    assert hook(original, backend, 1, 2, 3, 4, batch, save_kv_cache=False) == (9, "kept", False)
    assert batch.seq_lens.item() == 5


def test_decoding_reads_the_lengths_of_the_branches_when_drafting():
    hook = BY_TARGET[f"{AMX}.forward_decode"].replacement
    batch = SimpleNamespace(seq_lens=torch.tensor([5]))

    def original(backend, q, k, v, layer, forward_batch):
        return forward_batch.seq_lens.tolist()

    drafting = SimpleNamespace(draft_decode_metadata=(None, torch.tensor([6, 6]), None))
    decoding = SimpleNamespace(draft_decode_metadata=None)
    assert hook(original, drafting, 1, 2, 3, 4, batch) == [6, 6]
    assert hook(original, decoding, 1, 2, 3, 4, batch) == [5]


def test_a_linear_layer_is_built_where_there_is_no_gpu():
    build = BY_TARGET["sglang.srt.models.qwen3_next:Qwen3GatedDeltaNet.__init__"].replacement
    before = torch.get_device_module
    assert build(lambda: torch.get_device_module().current_device()) == "cpu"
    assert torch.get_device_module is before


def test_of_the_platform_one_fact_is_another():
    ask = BY_TARGET["sglang.srt.arg_groups.overrides:get_platform"].replacement
    platform = ask(lambda: SimpleNamespace(has_amx=False, is_cuda=False))
    assert platform.has_amx
    assert not platform.is_cuda
