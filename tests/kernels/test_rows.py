"""A row alone and among up to 32 has the same bits, in Triton's interpreter: in every kernel
of a stage that serves few rows, as it is launched, with and without what is on trial."""

import ast
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import (
    experts,
    norm_quantize,
    quantize,
    router,
    skinny_gemm,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.lm_head import lm_head
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import GemmTiling, tiling
from sglang_qwen3next_eagle3.overlay.fast.trials import TRY

ROWS, PLACE = (1, 8, 9, 16, 32), 5
"""How many rows run, and which of 32 is looked at; alone it is the first."""
SERVED = (1, 2, 4, 8, 9, 17)
"""Of the sparse block without trials: at each bound of a tiling and beyond it, with the list of two
launches (more than 8) and without; what is looked at is the last of fewer than six."""
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


def launched(monkeypatch: pytest.MonkeyPatch, trials: str) -> None:
    monkeypatch.setenv(TRY, trials)


def divided(rows: int, trials: str) -> GemmTiling:
    """As a weight of 12,288 rows is, of which the test has 64."""
    return tiling(2048, True, 12288, rows, parts="parts" in trials)


@pytest.mark.parametrize("trials", ["", "parts"])
def test_projections_in_fp8_with_gates(monkeypatch: pytest.MonkeyPatch, trials: str) -> None:
    launched(monkeypatch, trials)
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
            (normed.codes, normed.scales), weight, scale, (normed.normed, gates),
            divided(rows, trials),
        )  # fmt: skip
        assert beside is not None
        results.append((looked_at(rows, got), looked_at(rows, beside)))
    equal(results)


@pytest.mark.parametrize("trials", ["", "parts"])
def test_logits(monkeypatch: pytest.MonkeyPatch, trials: str) -> None:
    launched(monkeypatch, trials)
    assert tiling(2048, False, 64, 32).passes == (4 if trials else 1), "as it is launched below"
    x, weight = random(32, 2048).bfloat16(), random(48, 2048, seed=1).bfloat16()
    equal([(looked_at(rows, lm_head(some(rows, x), weight)),) for rows in ROWS])


@pytest.mark.parametrize("trials", ["", "parts,prefetch"])
def test_the_sparse_block(monkeypatch: pytest.MonkeyPatch, trials: str) -> None:
    launched(monkeypatch, trials)
    hidden, residual = random(32, D).bfloat16(), random(32, D, seed=1).bfloat16()
    gate, shared = random(EXPERTS, D, seed=2).bfloat16(), random(1, D, seed=3).bfloat16() * 0.1
    w13 = (random(EXPERTS + 1, 256, D, seed=4) * 0.1).to(torch.float8_e4m3fn)
    w2 = (random(EXPERTS + 1, D, 128, seed=5) * 0.1).to(torch.float8_e4m3fn)
    s13 = torch.rand(EXPERTS + 1, 2, D // 128) + 0.5
    s2 = torch.rand(EXPERTS + 1, D // 128, 1) + 0.5
    for name in ("UP", "DOWN"):  # larger tiles than on a GPU, which the interpreter is faster with
        tilings = {rows: replace(one, tile=128) for rows, one in getattr(experts, name).items()}
        monkeypatch.setattr(experts, name, tilings)
    asked: list[bool] = []
    quantize_rows = quantize.quantize_rows

    def seen(values: torch.Tensor, early: bool = False) -> Any:
        asked.append(early)
        return quantize_rows(values, early)

    monkeypatch.setattr(experts, "quantize_rows", seen)
    results, counts = [], ROWS if trials else SERVED
    for rows in counts:
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
    assert asked == [bool(trials)] * len(counts)


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


@pytest.mark.parametrize("width", [128, 256, 384, 512, 64, 200])
def test_what_is_asked_for_early_is_a_power_of_two_of_lines(width: int) -> None:
    assert experts._prefetches(width) == (width in (128, 256, 512))
