"""What opens the sparse block: add, norm, router, top-k, and who reads which expert.

    hidden, residual [T, D] bf16 -> residual + hidden, normed row (bf16, or e4m3 with scales)
    normed [T, D] x router [E, D] bf16 -> logits [T, E] bf16 -> softmax -> top-k, renormalized
    normed [T, D] x shared gate [1, D] bf16 -> bf16 -> sigmoid in bf16: the weight of expert E

Every program of the first grid norms its rows again, from the second-level cache, and multiplies
them by a few rows of the router; one program more a block of rows stores what the rest of the
block needs. The last program to arrive chooses the experts of all rows, all in integers or in one
row at a time, so that a row's choice and weights do not depend on the rows beside it.

Stock's rounding points (models/qwen2_moe.py, kernels/ops/moe/moe_fused_gate.py): logits in bf16,
softmax over all experts in fp32, equal logits to the lower expert, weights divided by their sum,
the shared expert's sigmoid in bf16.
"""

from typing import Final, NamedTuple

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
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import (
    reference_add_norm_quantize,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import GROUP, quantize_groups

TILE: Final = 4
"""Rows of the router a program multiplies."""

WARPS: Final = 4


class Routing(NamedTuple):
    """Which expert every row goes to, and the rows of every expert.

    S is top_k, and one more where a shared expert stands as expert E behind the E routed ones.
    A pair is a row and one of its slots, written row * S + slot.

    ids: [T, S] int32, the experts of a row from the most to the least probable, the shared last.
    weights: [T, S] fp32, what a slot's output is multiplied by.
    work: [E + 2] int32. work[0] is the number of distinct experts in the batch; work[1:] are they,
    the shared one first and the others ascending, each as id + (number of its rows << 16).
    pairs: [E + 1, MAX_ROWS] int32; pairs[e] are the pairs of expert e, rows ascending.
    What lies behind the counts is undefined.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    work: torch.Tensor
    pairs: torch.Tensor


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
) -> Routed:
    """Norm, router and choice of experts of up to MAX_ROWS rows.

    hidden, residual: [T, D] bf16; norm_weight: [D]; router_weight: [E, D] bf16;
    shared_gate_weight: [1, D] bf16, or None where no shared expert is fused.
    quantize: whether the experts' weights are e4m3; D is then 128 times a power of two.
    Launches must follow one another in one stream: they share a counter.
    """
    raise NotImplementedError


def reference_routing(
    logits: torch.Tensor, shared_logits: torch.Tensor | None, top_k: int, renormalize: bool
) -> Routing:
    """The choice alone, in plain torch: logits [T, E] bf16, shared_logits [T, 1] bf16."""
    rows, experts = logits.shape
    scores = logits.float()
    ids = torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = torch.softmax(scores, -1).gather(1, ids)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    if shared_logits is not None:
        ids = torch.cat([ids, torch.full_like(ids[:, :1], experts)], 1)
        weights = torch.cat([weights, torch.sigmoid(shared_logits).float()], 1)
    slots = ids.shape[1]
    work = torch.zeros(experts + 2, dtype=torch.int32)
    pairs = torch.zeros(experts + 1, MAX_ROWS, dtype=torch.int32)
    by_expert: dict[int, list[int]] = {}
    for pair, expert in enumerate(ids.flatten().tolist()):
        by_expert.setdefault(expert, []).append(pair)
    order = sorted(by_expert, key=lambda expert: (expert != experts, expert))
    work[0] = len(order)
    for place, expert in enumerate(order):
        mine = by_expert[expert]
        work[1 + place] = expert + (len(mine) << 16)
        pairs[expert, : len(mine)] = torch.tensor(mine)
    to = logits.device
    assert slots * rows >= len(order)
    return Routing(ids.int(), weights, work.to(to), pairs.to(to))


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
