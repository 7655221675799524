"""What stands between the draft head's linear layers, a launch each.

    enter    tokens [T], hidden [T, D]  -> normed embedding beside normed hidden [T, 2 D] bf16
    norm     hidden + residual [T, D]   -> the sum and its RMSNorm, [T, D] bf16 each
    choose   the largest logits of parts -> a draft token for every row

RMSNorm here has the gain `weight`, not 1 + weight as the target's. Stock's rounding points: sums
and norms in fp32, rounded to bf16 once; a sum is normed before it is rounded.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.head_linear import Largest

WARPS: Final = 8


@triton.jit
def _enter(
    tokens,
    table,
    embedding,
    hidden,
    embedding_weight,
    hidden_weight,
    first,
    out,
    eps,
    token_stride,
    first_stride,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    MAPPED: tl.constexpr,
    PDL: tl.constexpr,
):
    row, part = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < D
    if PDL:
        gdc_launch_dependents()
    weight = hidden_weight
    if part == 0:
        weight = embedding_weight
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    source = hidden + row.to(tl.int64) * D
    if part == 0:
        token = tl.load(tokens + row * token_stride)
        if MAPPED:
            token = tl.load(table + token)
            tl.store(first + row * first_stride, token)
        source = embedding + token.to(tl.int64) * D
    x = tl.load(source + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) / D + eps)
    at = out + (row.to(tl.int64) * 2 + part) * D + column
    tl.store(at, to_bfloat16(x * scale * gain), mask=inside)


def head_enter(
    tokens: torch.Tensor,
    embedding: torch.Tensor,
    embedding_weight: torch.Tensor,
    hidden: torch.Tensor,
    hidden_weight: torch.Tensor,
    eps: float,
    table: torch.Tensor | None = None,
    first: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the head's attention projects: [T, 2 D] bf16, the normed embedding first.

    tokens: [T] int64, with any stride. embedding: [V, D] bf16. hidden: [T, D] bf16.
    table: [draft vocabulary] int64, if tokens are the draft's: then their ids in the target's
    vocabulary are also left in `first` [T], with any stride.
    """
    rows, width = hidden.shape
    out = torch.empty(rows, 2 * width, dtype=torch.bfloat16, device=hidden.device)
    _enter[(rows, 2)](
        tokens,
        tokens if table is None else table,
        embedding,
        hidden,
        embedding_weight,
        hidden_weight,
        tokens if first is None else first,
        out,
        eps,
        tokens.stride(0),
        1 if first is None else first.stride(0),
        D=width,
        BLOCK=triton.next_power_of_2(width),
        MAPPED=table is not None,
        PDL=dependent_launch(),
        num_warps=WARPS,
        **launch_options(),
    )
    return out


@triton.jit
def _norm(
    hidden,
    residual,
    weight,
    accepted,
    residual_out,
    normed_out,
    eps,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    READ: tl.constexpr,
    WRITE: tl.constexpr,
    PDL: tl.constexpr,
):
    """READ, WRITE: 0, or how many rows of the residual a row chooses among."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    if PDL:
        gdc_launch_dependents()
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    source, to = row, row
    if READ > 0:
        source = row * READ + tl.load(accepted + row) - 1
    if WRITE > 0:
        to = row * WRITE + tl.load(accepted + row) - 1
    x = tl.load(hidden + row * D + column, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(residual + source * D + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(residual_out + to * D + column, to_bfloat16(x), mask=inside)
    scale = tl.rsqrt(tl.sum(x * x, 0) / D + eps)
    tl.store(normed_out + row * D + column, to_bfloat16(x * scale * gain), mask=inside)


def head_norm(
    hidden: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    accepted: torch.Tensor | None = None,
    read: int = 0,
    write: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden [T, D] + residual -> the sum, and its RMSNorm [T, D].

    accepted: [T] int32. read: n where the residual is [T * n, D] and row t * n + accepted[t] - 1
    belongs to row t. write: n where the sum is to lie so, in [T * n, D]; its other rows are left
    as they are.
    """
    rows, width = hidden.shape
    total = torch.empty(rows * max(1, write), width, dtype=torch.bfloat16, device=hidden.device)
    normed = torch.empty_like(hidden)
    _norm[(rows,)](
        hidden,
        residual,
        weight,
        weight if accepted is None else accepted,
        total,
        normed,
        eps,
        D=width,
        BLOCK=triton.next_power_of_2(width),
        READ=read,
        WRITE=write,
        PDL=dependent_launch(),
        num_warps=WARPS,
        **launch_options(),
    )
    return total, normed


@triton.jit
def _choose(
    values,
    places,
    table,
    positions,
    out,
    count,
    out_stride,
    BLOCK: tl.constexpr,
    MAPPED: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    part = tl.arange(0, BLOCK)
    inside = part < count
    value = tl.load(values + row * count + part, mask=inside, other=float("-inf"))
    place = tl.load(places + row * count + part, mask=inside, other=2147483647)
    best = tl.max(value, 0)
    token = tl.min(tl.where(value == best, place, 2147483647), 0).to(tl.int64)
    if MAPPED:
        token = tl.load(table + token)
    tl.store(out + row * out_stride, token)
    tl.store(positions + row, tl.load(positions + row) + 1)


def head_choose(
    largest: Largest, table: torch.Tensor | None, out: torch.Tensor, positions: torch.Tensor
) -> None:
    """The index of the largest logit of each row, the lowest among equals, by way of the table
    [draft vocabulary] int64 into `out` [T] int64 of any stride; positions [T] int64 go on by one.
    """
    rows, count = largest.values.shape
    _choose[(rows,)](
        largest.values,
        largest.places,
        out if table is None else table,
        positions,
        out,
        count,
        out.stride(0),
        BLOCK=triton.next_power_of_2(count),
        MAPPED=table is not None,
        PDL=dependent_launch(),
        num_warps=WARPS,
        **launch_options(),
    )


def plain_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm of x [..., D] in fp32, rounded to bf16."""
    x = x.float()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()).bfloat16()


def reference_head_enter(
    tokens: torch.Tensor,
    embedding: torch.Tensor,
    embedding_weight: torch.Tensor,
    hidden: torch.Tensor,
    hidden_weight: torch.Tensor,
    eps: float,
    table: torch.Tensor | None = None,
    first: torch.Tensor | None = None,
) -> torch.Tensor:
    if table is not None and first is not None:
        tokens = table[tokens]
        first.copy_(tokens)
    embedded = plain_norm(embedding[tokens], embedding_weight, eps)
    return torch.cat([embedded, plain_norm(hidden, hidden_weight, eps)], -1)


def reference_head_norm(
    hidden: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    accepted: torch.Tensor | None = None,
    read: int = 0,
    write: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    row = torch.arange(len(hidden), device=hidden.device)
    chosen = row if accepted is None else accepted.long() - 1
    x = hidden.float() + residual[row * read + chosen if read else row].float()
    total = torch.zeros(
        len(row) * max(1, write), x.shape[1], dtype=torch.bfloat16, device=x.device
    )  # fmt: skip
    total[row * write + chosen if write else row] = x.bfloat16()
    return total, plain_norm(x, weight, eps)
