"""The kernel that opens a layer, in the interpreter, against its reference and against float64."""

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import (
    add_norm_quantize,
    reference_add_norm_quantize,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import reference_quantize

EPS = 1e-6


def inputs(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(width)
    hidden = torch.randn(rows, width, generator=generator).bfloat16()
    residual = (torch.randn(rows, width, generator=generator) * 8).bfloat16()
    weight = (torch.randn(width, generator=generator) * 0.2).bfloat16()
    return hidden, residual, weight


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize("with_residual", [True, False])
def test_agrees_with_float64(with_residual: bool) -> None:
    hidden, residual, weight = inputs(3, 512)
    got = add_norm_quantize(hidden, residual if with_residual else None, weight, EPS)
    exact = hidden.double() + (residual.double() if with_residual else 0)
    assert same_bits(got.residual, exact.bfloat16())
    normed = exact / (exact.square().mean(-1, keepdim=True) + EPS).sqrt() * (1 + weight.double())
    torch.testing.assert_close(got.normed.double(), normed, rtol=2**-8, atol=0)
    assert got.codes is not None
    assert got.scales is not None
    back = got.codes.double().unflatten(-1, (-1, 128)) * got.scales.double()[..., None]
    # Half a step of e4m3: 2^-4 of the value, or 2^-10 of the scale among the subnormals.
    error = (back.flatten(-2) - got.normed.double()).abs()
    step = got.normed.double().abs() / 16 + got.scales.double().repeat_interleave(128, -1) / 1024
    assert bool((error <= step * 1.001).all())


def test_codes_are_those_of_the_reference() -> None:
    hidden, residual, weight = inputs(4, 512)
    got = add_norm_quantize(hidden, residual, weight, EPS)
    expected = reference_add_norm_quantize(hidden, residual, weight, EPS)
    assert same_bits(got.residual, expected.residual)
    # The order in which squares are summed may differ, which shows in the last bit of a few.
    torch.testing.assert_close(got.normed, expected.normed, rtol=2**-7, atol=0)
    codes, scales = reference_quantize(got.normed)
    assert got.codes is not None
    assert got.scales is not None
    assert same_bits(got.codes, codes)
    assert same_bits(got.scales, scales)


def test_a_row_does_not_know_its_neighbours() -> None:
    hidden, residual, weight = inputs(5, 256)
    together = add_norm_quantize(hidden, residual, weight, EPS)
    alone = add_norm_quantize(hidden[3:4].contiguous(), residual[3:4].contiguous(), weight, EPS)
    for whole, row in zip(together, alone, strict=True):
        assert whole is not None
        assert row is not None
        assert same_bits(whole[3:4], row)


def test_inputs_are_left_alone() -> None:
    hidden, residual, weight = inputs(2, 256)
    before = hidden.clone(), residual.clone()
    got = add_norm_quantize(hidden, residual, weight, EPS)
    assert same_bits(hidden, before[0])
    assert same_bits(residual, before[1])
    assert got.residual.data_ptr() not in (hidden.data_ptr(), residual.data_ptr())


def test_extremes_stay_finite() -> None:
    """Padding rows hold whatever was there; a code of NaN would spread through the GEMM."""
    hidden, residual, weight = inputs(4, 256)
    hidden[0], residual[0] = 0, 0
    hidden[1], residual[1] = 3e38, 3e38
    hidden[2, 7] = float("nan")
    got = add_norm_quantize(hidden, residual, weight, EPS)
    assert got.codes is not None
    assert got.scales is not None
    assert bool((got.codes[0].float() == 0).all())
    assert bool((got.scales[0] == torch.tensor(1e-10) * (1 / torch.tensor(448.0))).all())
    assert not bool(got.codes[:2].float().isnan().any())


def test_widths_of_the_demonstration_pair() -> None:
    hidden, residual, weight = inputs(2, 192)
    got = add_norm_quantize(hidden, residual, weight, EPS, quantize=False)
    expected = reference_add_norm_quantize(hidden, residual, weight, EPS, quantize=False)
    assert got.codes is None
    assert got.scales is None
    torch.testing.assert_close(got.normed, expected.normed, rtol=2**-7, atol=0)
    with pytest.raises(ValueError, match="128 times a power of two"):
        add_norm_quantize(hidden, residual, weight, EPS)
