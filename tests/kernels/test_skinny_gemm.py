"""Linear layers of few rows, in the interpreter, against float64."""

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import reference_quantize
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import (
    GemmTiling,
    reference_skinny_gemm,
    skinny_gemm,
    tiling,
)

Quantized = tuple[torch.Tensor, torch.Tensor]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fp8_layer(rows: int, n: int, k: int) -> tuple[Quantized, torch.Tensor, torch.Tensor]:
    x = reference_quantize(random(rows, k, seed=1).bfloat16())
    weight = (random(n, k, seed=2) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
    scale = random(-(-n // 128), k // 128, seed=3).abs() * 1e-3 + 1e-4
    return x, weight, scale


def close(got: torch.Tensor, exact: torch.Tensor) -> None:
    # One rounding to bf16, and sums in fp32 whose error follows the size of the terms.
    size = exact.square().mean().sqrt().item()
    torch.testing.assert_close(got.double(), exact, rtol=2**-8, atol=size * 1e-4)


@pytest.mark.parametrize(
    ("rows", "n", "divided"),
    [
        (1, 144, None),
        (11, 32, GemmTiling(16, 2)),
        (32, 32, None),
        (3, 64, GemmTiling(32, 4)),
        (32, 64, GemmTiling(32, 2)),
    ],
)
def test_fp8_agrees_with_float64(rows: int, n: int, divided: GemmTiling | None) -> None:
    x, weight, scale = fp8_layer(rows, n, 512)
    got, nothing = skinny_gemm(x, weight, scale, divided=divided)
    assert nothing is None
    close(got, reference_skinny_gemm(x, weight, scale))


@pytest.mark.parametrize("rows", [5, 11])
def test_more_rows_of_a_weight_a_program_give_the_same_bits(rows: int) -> None:
    """So that passes of many rows may be divided otherwise than those of few."""
    x, weight, scale = fp8_layer(rows, 64, 512)
    want, _ = skinny_gemm(x, weight, scale, divided=GemmTiling(16, 2))
    for divided in (GemmTiling(32, 2), GemmTiling(64, 2)):
        assert torch.equal(skinny_gemm(x, weight, scale, divided=divided)[0], want)
    y, plain = random(rows, 512).bfloat16(), random(64, 512, seed=3).bfloat16()
    want, _ = skinny_gemm(y, plain, divided=GemmTiling(16, 2))
    got, _ = skinny_gemm(y, plain, divided=GemmTiling(32, 2))
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("n", "k"),
    [(64, 512), (48, 192), (40, 192), (16, 32), (24, 80)],
    ids=lambda size: str(size),
)
def test_bf16_agrees_with_float64(n: int, k: int) -> None:
    """Whole tiles, the widths of the demonstration pair, and widths that end within a tile."""
    x, weight = random(3, k).bfloat16(), random(n, k, seed=1).bfloat16()
    got, _ = skinny_gemm(x, weight)
    close(got, reference_skinny_gemm(x, weight))


@pytest.mark.parametrize("passes", [1, 2])
def test_extra_rows_are_of_the_row_before_its_quantization(passes: int) -> None:
    normed, second = random(5, 512, seed=7).bfloat16(), random(32, 512, seed=8).bfloat16()
    _, weight, scale = fp8_layer(5, 32, 512)
    x = reference_quantize(normed)
    got, extra = skinny_gemm(x, weight, scale, (normed, second), GemmTiling(16, 4, passes))
    assert extra is not None
    close(got, reference_skinny_gemm(x, weight, scale))
    close(extra, reference_skinny_gemm(normed, second))


def test_a_small_extra_weight_is_a_launch_of_its_own() -> None:
    """The gates of a small model: 8 rows, in no whole tile."""
    x, weight, extra = random(5, 192).bfloat16(), random(48, 192, seed=2), random(8, 192, seed=3)
    got, beside = skinny_gemm(x, weight.bfloat16(), None, (x, extra.bfloat16()))
    assert beside is not None
    close(got, reference_skinny_gemm(x, weight.bfloat16()))
    close(beside, reference_skinny_gemm(x, extra.bfloat16()))


def test_a_row_does_not_know_how_many_run_beside_it() -> None:
    """One tile shape for all row counts: the bits of row 5 alone, among 8, 16 and 32 are one."""
    (codes, scales), weight, scale = fp8_layer(32, 32, 256)
    plain, bf16_weight = random(32, 256).bfloat16(), random(16, 256, seed=4).bfloat16()
    alone = codes[5:6].contiguous(), scales[5:6].contiguous()
    expected, extra = skinny_gemm(alone, weight, scale, (plain[5:6].contiguous(), bf16_weight))
    assert extra is not None
    for rows in (8, 13, 32):
        x = codes[:rows].contiguous(), scales[:rows].contiguous()
        got, beside = skinny_gemm(x, weight, scale, (plain[:rows].contiguous(), bf16_weight))
        assert beside is not None
        assert torch.equal(got[5:6], expected)
        assert torch.equal(beside[5:6], extra)


def test_the_division_fits_the_weight() -> None:
    assert tiling(2048, True) == GemmTiling(16, 4, extra_passes=2)
    assert tiling(4096, True) == GemmTiling(16, 4, extra_passes=4, registers=168)
    assert tiling(4096, True, 32).shares == 4, "as few rows: the order of summation is one"
    assert tiling(256, True).shares == 2
    assert tiling(192, False).shares == 2
    assert tiling(80, False).shares == 1


def test_what_does_not_fit_is_refused() -> None:
    x, weight, scale = fp8_layer(65, 32, 256)
    with pytest.raises(ValueError, match="65 rows"):
        skinny_gemm(x, weight, scale)
    x, weight, scale = fp8_layer(1, 32, 256)
    with pytest.raises(ValueError, match="both operands"):
        skinny_gemm(x[0], weight, scale)
    with pytest.raises(ValueError, match="whole tiles of 16 x 128"):
        skinny_gemm(x, weight[:8], scale)
