"""What our kernels derived from weights is that of the weights that are there after an update."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import head as heads
from sglang_qwen3next_eagle3.overlay.fast import hooks, preparation, updates
from sglang_qwen3next_eagle3.overlay.fast.conditions import Unsupported
from sglang_qwen3next_eagle3.overlay.fast.head import HeadWeights
from sglang_qwen3next_eagle3.overlay.fast.kernels.head_codes import PIECE, head_codes
from sglang_qwen3next_eagle3.overlay.fast.layers import Experts, Projection, Rows
from sglang_qwen3next_eagle3.overlay.fast.stages import STAGES, Wanted

NAMES = ("fc", "qkv", "o", "gate_up", "down", "lm_head")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def linear(*shape: int, seed: int = 0) -> Any:
    return SimpleNamespace(weight=torch.nn.Parameter(random(*shape, seed=seed)))


def draft() -> Any:
    """Where `HeadWeights` finds the weights of a head."""
    attn = SimpleNamespace(qkv_proj=linear(24, 64), o_proj=linear(32, 16, seed=1))
    mlp = SimpleNamespace(gate_up_proj=linear(48, 32, seed=2), down_proj=linear(32, 24, seed=3))
    layer = SimpleNamespace(self_attn=attn, mlp=mlp)
    inner = SimpleNamespace(layers=[layer], fc=linear(32, 96, seed=4))
    return SimpleNamespace(model=inner, lm_head=linear(PIECE + 8, 32, seed=5))


def head_of(rounded: bool) -> Any:
    model = draft()
    return SimpleNamespace(model=model, weights=HeadWeights.of(model, rounded))


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> updates.Updates:
    monkeypatch.setattr(heads, "check", lambda model: None)
    return updates.Updates()


def flushed(updated: updates.Updates, ended: bool = False) -> list[str]:
    """What the rest of an update is called with."""
    calls: list[str] = []

    def original(manager: str, request: str) -> str:
        calls.append(f"{manager} {request}")
        return "done"

    hook = updated.ended if ended else updated.loaded
    assert hook(original, "manager", "request") == "done"
    return calls


@pytest.mark.parametrize("ended", [False, True])
def test_codes_are_made_anew_where_graphs_read_them(
    around: updates.Updates, caplog: pytest.LogCaptureFixture, ended: bool
) -> None:
    head = around.head = head_of(rounded=True)
    codes = head.weights.codes
    places = {name: [part.data_ptr() for part in codes[name]] for name in NAMES}
    for turn in (1, 2):
        for number, name in enumerate(NAMES):
            weight = head.weights.bf16(name)
            weight.copy_(random(*weight.shape, seed=10 * turn + number))
            assert not torch.equal(codes[name].codes, head_codes(weight).codes)
        with caplog.at_level("INFO"):
            assert flushed(around, ended) == ["manager request"]
        for name in NAMES:
            made = head_codes(head.weights.bf16(name))
            assert all(map(torch.equal, codes[name], made))
            assert [part.data_ptr() for part in codes[name]] == places[name]
    (line,) = [record.message for record in caplog.records]
    assert line.endswith("fast path: head_w8: its codes are made anew of updated weights")


def test_a_head_without_codes_has_nothing_to_make_anew(
    around: updates.Updates, caplog: pytest.LogCaptureFixture
) -> None:
    around.head = head_of(rounded=False)
    with caplog.at_level("INFO"):
        assert flushed(around) == flushed(updates.Updates()) == ["manager request"]
    assert caplog.records == []


def test_codes_that_cannot_be_made_anew_are_told_of(
    around: updates.Updates, caplog: pytest.LogCaptureFixture
) -> None:
    """No exception of ours ends an update."""
    head = around.head = head_of(rounded=True)
    head.model.lm_head.weight = torch.nn.Parameter(random(PIECE, 32))
    assert flushed(around) == ["manager request"]
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "head_w8 has codes of the weights before the update" in record.message


@pytest.mark.parametrize("where", ["target", "head", "nowhere"])
def test_weights_that_our_kernels_are_not_for_are_told_of(
    around: updates.Updates,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """A checkpoint with scales of its KV cache, say, in the place of one without."""

    def with_stages(stages: frozenset[str]) -> None:
        if where == "target":
            raise Unsupported("attention", "it scales its KV cache by 2.0, 2.0")

    def check(model: Any) -> None:
        if where == "head":
            raise Unsupported("head", "a layer of the head has a bias")

    monkeypatch.setattr(heads, "check", check)
    layer = SimpleNamespace(stages=frozenset({"attention"}), with_stages=with_stages)
    path: Any = SimpleNamespace(layers={3: layer})
    around.path, around.head = path, head_of(rounded=False)
    assert flushed(around) == flushed(around) == ["manager request"]
    found = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(found) == (where != "nowhere")
    if where == "target":
        assert found[0].endswith("anew: attention: it scales its KV cache by 2.0, 2.0")


def test_the_hooks_know_what_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heads, "check", lambda model: None)
    monkeypatch.setattr(variants, "has_update_sessions", lambda: True)
    head = head_of(rounded=True)
    layer = SimpleNamespace(stages=frozenset(), with_stages=lambda stages: None)
    path = SimpleNamespace(lm_head=None, layers={0: layer})
    monkeypatch.setattr(preparation, "prepare", lambda runner, wanted: path)
    monkeypatch.setattr(preparation, "prepare_head", lambda worker, wanted: head)
    model = SimpleNamespace(model=SimpleNamespace(layers=[]))
    runner = SimpleNamespace(is_draft_worker=False, model=model, attn_backend=SimpleNamespace())
    worker = SimpleNamespace(draft_runner=SimpleNamespace(model=head.model))
    table = {hook.target: hook.replacement for hook in hooks.hooks(Wanted(frozenset(STAGES)))}
    table[hooks.CAPTURE_GRAPHS](lambda captured: None, runner)
    table[hooks.CAPTURE_DRAFTS](lambda captured: None, worker)
    head.weights.bf16("fc").zero_()
    table[hooks.LOADED](lambda manager, request: None, object(), object())
    assert torch.equal(head.weights.codes["fc"].codes, head_codes(torch.zeros(32, 96)).codes)
    head.weights.bf16("fc").fill_(1.0)
    table[hooks.ENDED](lambda manager, request: None, object(), object())
    assert torch.equal(head.weights.codes["fc"].codes, head_codes(torch.ones(32, 96)).codes)


def test_what_is_captured_anew_has_weights_that_moved() -> None:
    """Where SGLang puts a new tensor in the place of the old one."""
    seen: list[Any] = []

    def skinny_gemm(rows: Rows, weight: torch.Tensor, scale: Any, extra: Any) -> Any:
        seen.append(weight)
        return weight, None

    def route(*given: Any) -> Any:
        seen.extend(given[4:6])
        return SimpleNamespace(residual=None)

    def products(routed: Any, *weights: Any) -> None:
        seen.extend(weights)

    kernels: Any = SimpleNamespace(
        skinny_gemm=skinny_gemm, peers=None, summed=lambda part: part, route=route,
        experts=products,
    )  # fmt: skip
    module = linear(16, 32)
    projection = Projection(module, kernels, fast=True)
    projection(Rows(random(1, 32)))
    module.weight = torch.nn.Parameter(random(16, 32, seed=1))
    projection(Rows(random(1, 32)))
    assert torch.equal(seen[-1], random(16, 32, seed=1))
    config = SimpleNamespace(
        use_grouped_topk=False, correction_bias=None, top_k=2, renormalize=True
    )
    experts = SimpleNamespace(w13_weight=random(3, 8, 4), w2_weight=random(3, 4, 4))
    block = SimpleNamespace(
        experts=experts, topk=SimpleNamespace(topk_config=config), num_fused_shared_experts=1,
        gate=linear(2, 4), shared_expert_gate=linear(1, 4, seed=1),
    )  # fmt: skip
    ours = Experts(block, kernels)
    block.gate, block.shared_expert_gate = linear(2, 4, seed=2), linear(1, 4, seed=3)
    experts.w13_weight, experts.w2_weight = random(3, 8, 4, seed=4), random(3, 4, 4, seed=5)
    seen.clear()
    norm = SimpleNamespace(weight=random(4), variance_epsilon=1e-6)
    ours.fast(random(1, 4), random(1, 4), norm, False)
    assert (seen[3], seen[5]) == (None, None)
    wanted = [random(2, 4, seed=2), random(1, 4, seed=3), random(3, 8, 4, seed=4)]
    wanted.append(random(3, 4, 4, seed=5))
    assert all(map(torch.equal, [seen[n] for n in (0, 1, 2, 4)], wanted))
