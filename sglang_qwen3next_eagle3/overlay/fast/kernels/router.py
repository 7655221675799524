"""What opens the sparse block: add, norm, router, and the choice of experts behind it.

    hidden, residual [T, D] bf16 -> residual + hidden, normed row (bf16, or e4m3 with scales)
    normed [T, D] x router [E, D] bf16 -> logits [T, E] bf16 -> softmax, the top_k of every row
    normed [T, D] x shared gate [1, D] bf16 -> bf16 -> sigmoid in bf16: the weight of expert E
    what expert_choice makes of the logits

Three launches of little code each, and a fourth for more than 8 rows. A norm in every program of
the router instead took less time alone, and more among the other kernels.

Stock's rounding points (models/qwen2_moe.py, kernels/ops/moe/moe_fused_gate.py): logits in bf16,
softmax over all experts in fp32, equal logits to the lower expert, the shared expert's sigmoid in
bf16. Their division by their sum is left to whoever reads the weights.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from sglang_qwen3next_eagle3.overlay.fast.device import MOST_ROWS
from sglang_qwen3next_eagle3.overlay.fast.kernels.expert_choice import (
    FEW,
    RouterTiling,
    Routing,
    choose,
    reference_routing,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.expert_list import choose_many
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import (
    Normed,
    add_norm_quantize,
    reference_add_norm_quantize,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import GemmTiling, skinny_gemm


class Routed(NamedTuple):
    """What `experts` needs of a batch, and the stream it was taken from.

    residual: [T, D] bf16, a new tensor. normed: [T, D] bf16. codes: [T, D] e4m3 with
    scales: [T, D / 128] fp32, or None and None.
    """

    residual: torch.Tensor
    normed: torch.Tensor
    codes: torch.Tensor | None
    scales: torch.Tensor | None
    routing: Routing


def _divided(width: int) -> GemmTiling:
    """Four warps a program: 3.1 to 3.6 us with the norm at 1 to 8 rows, eight 3.4 to 3.8."""
    shares = 4
    while shares > 1 and width % (shares * 32):
        shares //= 2
    return GemmTiling(16, shares, registers=255)


def route(
    hidden: torch.Tensor,
    residual: torch.Tensor | None,
    norm_weight: torch.Tensor,
    eps: float,
    router_weight: torch.Tensor,
    shared_gate_weight: torch.Tensor | None,
    top_k: int,
    renormalize: bool,
    quantize: bool = True,
    tiling: RouterTiling | None = None,
    norm: Callable[..., Normed] = add_norm_quantize,
) -> Routed:
    """Norm, router and choice of experts of up to MOST_ROWS rows.

    hidden, residual: [T, D] bf16; norm_weight: [D]; router_weight: [E, D] bf16;
    shared_gate_weight: [1, D] bf16, or None where no shared expert is fused.
    quantize: whether the experts' weights are e4m3; D is then 128 times a power of two.
    norm: what opens the block, with the arguments of `add_norm_quantize`.
    """
    rows, width = hidden.shape
    if rows > MOST_ROWS:
        raise ValueError(f"{rows} rows, there is room for {MOST_ROWS}")
    shared = None
    if shared_gate_weight is not None:
        shared = torch.empty(rows, dtype=torch.bfloat16, device=hidden.device)
    normed = norm(hidden, residual, norm_weight, eps, quantize, shared_gate_weight, shared)
    logits, _ = skinny_gemm(normed.normed, router_weight, divided=_divided(width))
    if tiling is None and rows > FEW:
        return Routed(*normed, choose_many(logits, shared, top_k, renormalize))
    return Routed(*normed, choose(logits, shared, top_k, renormalize, tiling))


def reference_route(
    hidden: torch.Tensor,
    residual: torch.Tensor | None,
    norm_weight: torch.Tensor,
    eps: float,
    router_weight: torch.Tensor,
    shared_gate_weight: torch.Tensor | None,
    top_k: int,
    renormalize: bool,
    quantize: bool = True,
    norm: Callable[..., Normed] = reference_add_norm_quantize,
) -> Routed:
    """`route` in plain torch."""
    normed = norm(hidden, residual, norm_weight, eps, quantize)
    row = normed.normed.float()
    logits = (row @ router_weight.float().T).bfloat16()
    shared = None
    if shared_gate_weight is not None:
        shared = (row @ shared_gate_weight.float().T)[:, 0].bfloat16()
    return Routed(*normed, reference_routing(logits, shared, top_k, renormalize))
