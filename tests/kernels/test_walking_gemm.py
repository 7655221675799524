"""The walking product has the bits of the one that it stands for, in the interpreter."""

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import skinny_gemm
from sglang_qwen3next_eagle3.overlay.fast.kernels.walking_gemm import walking_gemm, walks


def codes(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(shape[0])
    bits = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) & 0xBE
    return bits.view(torch.float8_e4m3fn)


@pytest.mark.parametrize(("rows", "programs"), [(4, 5), (8, 4)], ids=["uneven", "even"])
def test_the_same_bits(rows: int, programs: int) -> None:
    """8 parts in 3 programs of 3 rounds or in 2 of 4, and two programs of the extra weight."""
    torch.manual_seed(rows)
    x, scales = codes(rows, 256), torch.rand(rows, 2) + 0.1
    weight, scale = codes(128, 256), torch.rand(1, 2) + 0.1
    extra = torch.randn(rows, 256).bfloat16(), torch.randn(32, 256).bfloat16()
    got, beside = walking_gemm((x, scales), weight, scale, extra, programs)
    want, expected = skinny_gemm((x, scales), weight, scale, extra)
    assert torch.equal(got, want)
    assert beside is not None
    assert expected is not None
    assert torch.equal(beside, expected)
    alone, nothing = walking_gemm((x[1:2], scales[1:2]), weight, scale, None, programs)
    assert nothing is None
    assert torch.equal(alone, want[1:2])


def test_which_weights_are_walked_over() -> None:
    large = torch.empty(12288, 2048, dtype=torch.float8_e4m3fn)
    assert walks(8, large, torch.empty(64, 2048))
    assert walks(1, large[:9216], None)
    assert not walks(9, large, None), "more rows than a part of x has"
    assert not walks(8, large[:3072], None), "fewer parts than programs"
    assert not walks(8, large, torch.empty(8, 2048)), "gates that are not whole tiles"
