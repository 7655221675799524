"""A row alone and among up to 32 has the same bits, in Triton's interpreter: in every kernel
of a stage that serves few rows, as it is launched."""

import ast
import inspect
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import (
    experts,
    norm_quantize,
    router,
    skinny_gemm,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.lm_head import lm_head

ROWS, PLACE = (1, 8, 9, 16, 32), 5
"""How many rows run, and which of 32 is looked at; alone it is the first."""
SERVED = (1, 2, 4, 8, 9, 17)
"""Of the sparse block: at each bound of a tiling and beyond it, with the list of two launches (more
than 8) and without; what is looked at is the last of fewer than six."""
D, EXPERTS, TOP_K = 512, 4, 2


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some(rows: int, whole: torch.Tensor) -> torch.Tensor:
    """The first so many rows, or the one that is looked at."""
    chosen = slice(max(0, PLACE + 1 - rows), max(PLACE + 1, rows))
    return whole[chosen].contiguous()


def looked_at(rows: int, out: torch.Tensor) -> torch.Tensor:
    return out[min(rows - 1, PLACE)]


def equal(results: Sequence[tuple[torch.Tensor, ...]]) -> None:
    first = results[0]
    assert all(float(part.float().abs().max()) > 0 for part in first)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_projections_in_fp8_with_gates() -> None:
    plain, residual = random(32, 2048).bfloat16(), random(32, 2048, seed=1).bfloat16()
    weight = random(64, 2048, seed=2).to(torch.float8_e4m3fn)
    scale, gates = torch.rand(1, 16) + 0.5, random(16, 2048, seed=3).bfloat16()
    results = []
    for rows in ROWS:
        normed = norm_quantize.add_norm_quantize(
            some(rows, plain), some(rows, residual), torch.zeros(2048).bfloat16(), 1e-6, True
        )
        assert normed.codes is not None
        assert normed.scales is not None
        got, beside = skinny_gemm.skinny_gemm(
            (normed.codes, normed.scales), weight, scale, (normed.normed, gates)
        )
        assert beside is not None
        results.append((looked_at(rows, got), looked_at(rows, beside)))
    equal(results)


def test_logits() -> None:
    x, weight = random(32, 2048).bfloat16(), random(48, 2048, seed=1).bfloat16()
    equal([(looked_at(rows, lm_head(some(rows, x), weight)),) for rows in ROWS])


def test_the_sparse_block(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, residual = random(32, D).bfloat16(), random(32, D, seed=1).bfloat16()
    gate, shared = random(EXPERTS, D, seed=2).bfloat16(), random(1, D, seed=3).bfloat16() * 0.1
    w13 = (random(EXPERTS + 1, 256, D, seed=4) * 0.1).to(torch.float8_e4m3fn)
    w2 = (random(EXPERTS + 1, D, 128, seed=5) * 0.1).to(torch.float8_e4m3fn)
    s13 = torch.rand(EXPERTS + 1, 2, D // 128) + 0.5
    s2 = torch.rand(EXPERTS + 1, D // 128, 1) + 0.5
    for name in ("UP", "DOWN"):  # larger tiles than on a GPU, which the interpreter is faster with
        tilings = {rows: replace(one, tile=128) for rows, one in getattr(experts, name).items()}
        monkeypatch.setattr(experts, name, tilings)
    results = []
    for rows in SERVED:
        routed = router.route(
            some(rows, hidden),
            some(rows, residual),
            torch.zeros(D).bfloat16(),
            1e-6,
            gate,
            shared,
            TOP_K,
            True,
        )
        out = experts.experts(routed, w13, s13, w2, s2)
        results.append((looked_at(rows, routed.residual), looked_at(rows, out)))
    equal(results)


def test_the_first_product_starts_nothing_before_it_has_waited() -> None:
    """`_down` reads ahead of its wait what was chosen; the interpreter shows no race."""
    (kernel,) = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(experts)))
        if isinstance(node, ast.FunctionDef) and node.name == "_gate_up"
    ]
    calls = [
        (node.lineno, node.func.id)
        for node in ast.walk(kernel)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    waits = [line for line, name in calls if name == "gdc_wait"]
    starts = [line for line, name in calls if name == "gdc_launch_dependents"]
    assert len(waits) == 1
    assert starts
    assert min(starts) > waits[0]
