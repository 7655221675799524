"""Quantization of activations to e4m3 in groups of 128, bit for bit as stock SGLang does it.

Stock 0.5.17 launches `per_token_group_quant` (kernels/jit/csrc/gemm/per_token_group_quant.cuh) for
a linear layer and for both halves of the MoE. Here a producer quantizes what is in its registers
(`quantize_groups`), or a launch what lies in memory (`quantize_rows`):

    amax  = max(|x|, 1e-10)                     over the 128 values, x rounded to bf16 before
    scale = amax * fp32(1 / 448)                what the GEMM multiplies by
    code  = e4m3(min(x * (448 / amax), 448))    nearest even, saturating; a NaN becomes 448

Stock compiles its division with fast math, which is a multiplication by the approximate reciprocal;
Triton's division of fp32 is the same instruction for values of this range.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import dependent_launch, launch_options, to_e4m3

GROUP: Final = 128
FLOOR: Final = 1e-10
LARGEST: Final = 448.0


@triton.jit
def quantize_groups(values):
    """fp32 values [G, 128] that are exact in bf16 -> codes [G, 128] in e4m3, scales [G] in fp32."""
    amax = tl.maximum(tl.max(tl.abs(values), 1), 1e-10)
    codes = tl.minimum(values * (448.0 / amax)[:, None], 448.0)
    return to_e4m3(codes), amax * (1.0 / 448.0)


@triton.jit
def _quantize_rows(
    values_in,
    codes_out,
    scales_out,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    GROUPS: tl.constexpr = WIDTH // 128
    row = tl.program_id(0)
    group = tl.program_id(1) * 4 + tl.arange(0, 4)
    at = row * WIDTH + group[:, None] * 128 + tl.arange(0, 128)[None, :]
    mask = group < GROUPS
    values = tl.load(values_in + at, mask=mask[:, None], other=0.0).to(tl.float32)
    codes, scales = quantize_groups(values)
    tl.store(codes_out + at, codes, mask=mask[:, None])
    tl.store(scales_out + row * GROUPS + group, scales, mask=mask)


def quantize_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """bf16 [T, K] -> e4m3 [T, K] and fp32 scales [T, K / 128], in a launch of its own."""
    rows, width = values.shape
    groups = width // GROUP
    codes = torch.empty_like(values, dtype=torch.float8_e4m3fn)
    scales = torch.empty(rows, groups, dtype=torch.float32, device=values.device)
    _quantize_rows[(rows, triton.cdiv(groups, 4))](
        values,
        codes,
        scales,
        WIDTH=width,
        PDL=dependent_launch(),
        num_warps=1,
        **launch_options(),
    )
    return codes, scales


def reference_quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """bf16 [T, K] -> e4m3 [T, K] and fp32 scales [T, K / 128], with an exact division."""
    groups = x.float().unflatten(-1, (-1, GROUP))
    amax = groups.abs().amax(-1).clamp(min=FLOOR)
    largest = torch.tensor(LARGEST, dtype=torch.float32, device=x.device)
    codes = (groups * (largest / amax)[..., None]).clamp(max=LARGEST)
    return codes.flatten(-2).to(torch.float8_e4m3fn), amax * (1 / largest)
