"""The experts of a sparse block: gate and up, SwiGLU, quantization, down, weighted sum.

    normed row (e4m3 with scales, or bf16) x w13 [X, 2 I, D] -> SwiGLU -> bf16 [T, S, I]
    that, quantized in groups of 128, x w2 [X, D, I], times the slot's weight -> bf16 [T, S, D]
    the sum over slots in fp32 -> bf16 [T, D]

Two launches. A fixed number of programs walks the list of distinct experts that the router left
behind, so that a tile of weights is read once for all rows that chose its expert; tokens are the
narrow side of the product on the tensor cores. The last of a row's slots to arrive at a tile of
columns adds them up. A row's result does not depend on the rows beside it: the order of every sum
is fixed by the shapes and by the row's own slots.

Stock's rounding points (layers/moe/moe_runner/triton_utils/fused_moe.py): gate and up rounded to
bf16, silu(gate) * up computed in fp32 and rounded once, groups of 128 quantized, every slot's
output multiplied by its weight in fp32 and then rounded, their sum in fp32 and rounded.
"""

import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import GROUP, reference_quantize
from sglang_qwen3next_eagle3.overlay.fast.kernels.router import Routed


def experts(
    routed: Routed,
    w13: torch.Tensor,
    w13_scale: torch.Tensor | None,
    w2: torch.Tensor,
    w2_scale: torch.Tensor | None,
) -> torch.Tensor:
    """What the chosen experts make of the normed rows: [T, D] bf16.

    w13: [X, 2 I, D], gate above up; w2: [X, D, I]; X counts the shared expert. e4m3 with fp32
    scales [X, 2 I / 128, D / 128] and [X, D / 128, I / 128], or bf16 without. I may be the shard of
    one rank. Launches must follow one another in one stream: they share counters.
    """
    raise NotImplementedError


def reference_experts(
    routed: Routed,
    w13: torch.Tensor,
    w13_scale: torch.Tensor | None,
    w2: torch.Tensor,
    w2_scale: torch.Tensor | None,
) -> torch.Tensor:
    """`experts` in plain torch, products in float64 and everything else rounded as there."""
    ids, weights = routed.routing.ids.long(), routed.routing.weights
    rows, slots = ids.shape
    width = w2.shape[-1]
    x = routed.normed.double()
    if routed.codes is not None:
        assert routed.scales is not None
        x = _dequantized(routed.codes, routed.scales)
    out = torch.zeros(rows, slots, w2.shape[1], dtype=torch.bfloat16, device=x.device)
    for row in range(rows):
        for slot in range(slots):
            expert = int(ids[row, slot])
            up_weight = _weight(w13, w13_scale, expert)
            gate, up = (up_weight @ x[row]).bfloat16().float().split(width)
            act = (gate / (1 + torch.exp(-gate)) * up).bfloat16()
            if w2_scale is not None:
                codes, scales = reference_quantize(act[None])
                a = _dequantized(codes, scales)[0]
            else:
                a = act.double()
            partial = (_weight(w2, w2_scale, expert) @ a).float() * weights[row, slot]
            out[row, slot] = partial.bfloat16()
    total = torch.zeros(rows, w2.shape[1], device=x.device)
    for slot in range(slots):
        total = total + out[:, slot].float()
    return total.bfloat16()


def _dequantized(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """[T, K] e4m3 and [T, K / 128] -> float64 [T, K]."""
    return codes.double() * scales.double().repeat_interleave(GROUP, -1)


def _weight(weight: torch.Tensor, scale: torch.Tensor | None, expert: int) -> torch.Tensor:
    """One expert's weight as float64."""
    dense = weight[expert].double()
    if scale is None:
        return dense
    blocks = scale[expert].double().repeat_interleave(GROUP, 0)[: dense.shape[0]]
    return dense * blocks.repeat_interleave(GROUP, 1)[:, : dense.shape[1]]
