"""The interpreter's conversions are mended so that tests on the CPU see the GPU's rounding."""

import pytest
import torch
import triton
import triton.language as tl

from sglang_qwen3next_eagle3.overlay.fast import device
from sglang_qwen3next_eagle3.overlay.fast.device import to_bfloat16, to_e4m3


@triton.jit
def _convert(x, out, N: tl.constexpr, E4M3: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.load(x + at)
    tl.store(out + at, to_e4m3(value) if E4M3 else to_bfloat16(value))


@triton.jit
def _widen(codes, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(codes + at).to(tl.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_rounds_to_the_nearest_even(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    exact = codes[codes.isfinite()]
    between = torch.cat([(exact[:, None] + exact[None, :]).flatten() / 2, exact])
    generator = torch.Generator().manual_seed(0)
    exponent = torch.randint(-12, 9, (1 << 13,), generator=generator).exp2()
    x = torch.cat([between, torch.randn(1 << 13, generator=generator) * exponent])
    x = x.clamp(-448, 448)[: 1 << 16]
    x = torch.nn.functional.pad(x, (0, (1 << 17) - len(x)))
    out = torch.empty(len(x), dtype=dtype)
    _convert[(1,)](x, out, N=len(x), E4M3=dtype != torch.bfloat16)
    torch.testing.assert_close(out.float(), x.to(dtype).float(), rtol=0, atol=0)


def test_every_finite_e4m3_code_is_read_as_it_is() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    out = torch.empty(256)
    _widen[(1,)](codes, out, N=256)
    finite = codes.float().isfinite()
    torch.testing.assert_close(out[finite], codes.float()[finite], rtol=0, atol=0)


def test_no_dependent_launch_in_the_interpreter() -> None:
    assert device.dependent_launch() is False
    assert device.launch_options() == {}
