"""What opens the sparse block: add, norm, router, and the choice of experts behind it.

    hidden, residual [T, D] bf16 -> residual + hidden, normed row (bf16, or e4m3 with scales)
    normed [T, D] x router [E, D] bf16 -> logits [T, E] bf16 -> softmax, the top_k of every row
    normed [T, D] x shared gate [1, D] bf16 -> bf16 -> sigmoid in bf16: the weight of expert E
    what expert_choice makes of the logits

Every program norms its rows again, from the second-level cache, and multiplies them by a few rows
of the router; one program more stores what the rest of the block needs.

Stock's rounding points (models/qwen2_moe.py, kernels/ops/moe/moe_fused_gate.py): logits in bf16,
softmax over all experts in fp32, equal logits to the lower expert, the shared expert's sigmoid in
bf16. Their division by their sum is left to whoever reads the weights.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    MAX_ROWS,
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.expert_choice import (
    RouterTiling,
    Routing,
    choose,
    reference_routing,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import (
    reference_add_norm_quantize,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import GROUP, quantize_groups


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


@triton.jit
def _logits(
    hidden,
    residual,
    norm_weight,
    router,
    shared_gate,
    residual_out,
    normed_out,
    codes_out,
    scales_out,
    logits,
    shared_logits,
    eps,
    T,
    D: tl.constexpr,
    E: tl.constexpr,
    ADD: tl.constexpr,
    SHARED: tl.constexpr,
    QUANTIZE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    PER_PROGRAM: tl.constexpr,
    PDL: tl.constexpr,
):
    tile = tl.program_id(0)
    d = tl.arange(0, BLOCK_D)
    inside = d < D
    e = tile * TILE + tl.arange(0, TILE)
    if PDL:
        gdc_launch_dependents()
    gain = 1.0 + tl.load(norm_weight + d, mask=inside, other=0.0).to(tl.float32)
    # The last tile lies behind the router: its only row is the shared expert's gate.
    row = tl.where(tile < TILES, e * D, 0)[:, None]
    real = (e < E) & (tile < TILES)
    weight = tl.load(router + row + d[None, :], mask=real[:, None] & inside[None, :], other=0.0)
    if PDL:
        gdc_wait()
    for r in tl.static_range(PER_PROGRAM):
        t = tl.program_id(1) * PER_PROGRAM + r
        live = inside & (t < T)
        x = tl.load(hidden + t * D + d, mask=live, other=0.0).to(tl.float32)
        if ADD:
            x += tl.load(residual + t * D + d, mask=live, other=0.0).to(tl.float32)
        mean = tl.sum(x * x, 0) / D
        normed = to_bfloat16(x * tl.rsqrt(mean + eps) * gain)
        if tile < TILES:
            product = tl.sum(weight.to(tl.float32) * normed.to(tl.float32)[None, :], 1)
            tl.store(logits + t * E + e, to_bfloat16(product), mask=(e < E) & (t < T))
        else:
            tl.store(residual_out + t * D + d, to_bfloat16(x), mask=live)
            tl.store(normed_out + t * D + d, normed, mask=live)
            if SHARED:
                gate = tl.load(shared_gate + d, mask=inside, other=0.0).to(tl.float32)
                chance = tl.sum(gate * normed.to(tl.float32), 0)
                tl.store(shared_logits + t, to_bfloat16(chance), mask=t < T)
            if QUANTIZE:
                GROUPS: tl.constexpr = BLOCK_D // 128
                codes, scales = quantize_groups(tl.reshape(normed.to(tl.float32), [GROUPS, 128]))
                g = tl.arange(0, GROUPS)
                at = g[:, None] * 128 + tl.arange(0, 128)[None, :]
                tl.store(codes_out + t * D + at, codes, mask=(at < D) & (t < T))
                tl.store(scales_out + t * GROUPS + g, scales, mask=(g < GROUPS) & (t < T))


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
) -> Routed:
    """Norm, router and choice of experts of up to MAX_ROWS rows.

    hidden, residual: [T, D] bf16; norm_weight: [D]; router_weight: [E, D] bf16;
    shared_gate_weight: [1, D] bf16, or None where no shared expert is fused.
    quantize: whether the experts' weights are e4m3; D is then 128 times a power of two.
    """
    tiling = tiling or RouterTiling()
    rows, width = hidden.shape
    count = router_weight.shape[0]
    block = triton.next_power_of_2(width)
    if rows > MAX_ROWS:
        raise ValueError(f"{rows} rows, there is room for {MAX_ROWS}")
    if quantize and block != width:
        raise ValueError(f"a row of {width} values is not 128 times a power of two")
    shared = shared_gate_weight is not None
    device = hidden.device
    residual_out, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    codes = scales = None
    if quantize:
        codes = torch.empty_like(hidden, dtype=torch.float8_e4m3fn)
        scales = torch.empty(rows, width // GROUP, dtype=torch.float32, device=device)
    logits = torch.empty(rows, count, dtype=torch.bfloat16, device=device)
    shared_logits = torch.empty(rows, dtype=torch.bfloat16, device=device)
    per_program = min(tiling.rows, triton.next_power_of_2(rows))
    tiles = triton.cdiv(count, tiling.tile)
    _logits[(tiles + 1, triton.cdiv(rows, per_program))](
        hidden,
        hidden if residual is None else residual,
        norm_weight,
        router_weight,
        router_weight if shared_gate_weight is None else shared_gate_weight,
        residual_out,
        normed,
        normed if codes is None else codes,
        normed if scales is None else scales,
        logits,
        shared_logits,
        eps,
        rows,
        D=width,
        E=count,
        ADD=residual is not None,
        SHARED=int(shared),
        QUANTIZE=quantize,
        BLOCK_D=block,
        TILE=tiling.tile,
        TILES=tiles,
        PER_PROGRAM=per_program,
        PDL=dependent_launch(),
        num_warps=tiling.warps,
        **launch_options(),
    )
    routing = choose(logits, shared_logits if shared else None, top_k, renormalize, tiling)
    return Routed(residual_out, normed, codes, scales, routing)


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
) -> Routed:
    """`route` in plain torch."""
    normed = reference_add_norm_quantize(hidden, residual, norm_weight, eps, quantize)
    row = normed.normed.float()
    logits = (row @ router_weight.float().T).bfloat16()
    shared = None
    if shared_gate_weight is not None:
        shared = (row @ shared_gate_weight.float().T).bfloat16()
    return Routed(*normed, reference_routing(logits, shared, top_k, renormalize))
