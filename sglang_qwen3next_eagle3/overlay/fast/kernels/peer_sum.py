"""The sum over ranks with what opens the next block, in one launch, over the GPUs' own memory.

    a part of every rank [T, D] bf16 -> their sum [T, D], rounded to bf16 as an all-reduce leaves it
    that, residual [T, D], weight [D] -> `Normed`, as kernels/norm_quantize.py makes it

One program a row, the same rows on every rank. It writes its row into a place of its own in every
other rank's memory, tells them by a number that counts the sums of this row, waits for theirs, and
adds the parts up in order of rank, in fp32: all ranks have the same bits, and a row does not depend
on how many run beside it. One write over NVLink and one number is all that a row waits for; with
the 4 KiB of a row there is nothing to gain from dividing it among ranks (two shots), and no
multicast is asked of the switch.

A rank's places are there twice and taken in turn. A rank writes the (n + 2)th sum of a row only
behind its (n + 1)th, for which it has waited for everybody, who by then had read the nth. So nobody
has to say that it has read. The numbers are compared by their difference: they may run over.

Every rank has to run the same launches in the same order, as for any all-reduce: one that is
missing leaves the others waiting. In a CUDA graph nothing changes from replay to replay but what
the memory holds.
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
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import (
    WARPS,
    Normed,
    norm_and_store,
    reference_add_norm_quantize,
    room_for,
)


class Peers(NamedTuple):
    """One rank's view of everybody's memory.

    addresses: [N] int64, of every rank's space as this process sees it; `space` says how large one
    is and begins with zeros. counts: [MAX_ROWS] int32 of this rank, zeros: the sums of each row.
    rank: which of them this one is. width: D.
    """

    addresses: torch.Tensor
    counts: torch.Tensor
    rank: int
    width: int

    @property
    def ranks(self) -> int:
        return self.addresses.shape[0]


def space(ranks: int, width: int) -> int:
    """Bytes of a rank's space: rows [2, N, MAX_ROWS, D] bf16, then numbers [N, MAX_ROWS] int32."""
    return 2 * ranks * MAX_ROWS * width * 2 + ranks * MAX_ROWS * 4


@triton.jit
def _rows(address):
    """The rows at an address. That it is aligned lets a thread take 16 bytes at a time."""
    return tl.multiple_of(address.to(tl.pointer_type(tl.bfloat16)), 16)


@triton.jit(do_not_specialize=["rank"])
def _sum_norm(
    hidden,
    residual,
    weight,
    addresses,
    counts,
    residual_out,
    normed_out,
    codes_out,
    scales_out,
    gate,
    gated_out,
    eps,
    rank,
    RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    GROUPS: tl.constexpr,
    QUANTIZE: tl.constexpr,
    GATE: tl.constexpr,
    SEND: tl.constexpr,
    RECEIVE: tl.constexpr,
    PDL: tl.constexpr,
):
    NUMBERS: tl.constexpr = 2 * RANKS * ROWS * D * 2
    row = tl.program_id(0)
    column = tl.arange(0, GROUPS)[:, None] * 128 + tl.arange(0, 128)[None, :]
    inside = column < D
    at = row * D + column
    everybody = tl.load(addresses + tl.arange(0, RANKS))
    own = tl.load(addresses + rank)
    gain = 1.0 + tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    along = gain
    if GATE:
        along = tl.load(gate + column, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    count = tl.load(counts + row) + 1
    half = (count & 1) * (RANKS * ROWS * D)
    mine = tl.load(hidden + at, mask=inside, other=0.0)
    stream = tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    if SEND:
        for other in tl.static_range(RANKS):
            there = _rows(tl.load(addresses + other)) + half + (rank * ROWS + row) * D
            tl.store(there + column, mine, mask=inside & (rank != other))
        # All of the row has been written when one thread says so.
        tl.debug_barrier()
        told = (everybody + NUMBERS).to(tl.pointer_type(tl.int32)) + rank * ROWS + row
        tl.atomic_xchg(told, count, sem="release", scope="sys")
    if RECEIVE:
        numbers = (own + NUMBERS).to(tl.pointer_type(tl.int32))
        asked = numbers + tl.arange(0, RANKS) * ROWS + row
        nothing = tl.zeros([RANKS], tl.int32)
        behind = tl.min(tl.atomic_add(asked, nothing, sem="acquire", scope="sys") - count, 0)
        while behind < 0:
            behind = tl.min(tl.atomic_add(asked, nothing, sem="acquire", scope="sys") - count, 0)
        tl.debug_barrier()
        parts = _rows(own) + half + row * D
        total = tl.zeros([GROUPS, 128], tl.float32)
        for other in tl.static_range(RANKS):
            # Past the first-level cache, which does not know what others wrote.
            part = tl.load(
                parts + other * (ROWS * D) + column,
                mask=inside & (rank != other),
                other=0.0,
                volatile=True,
            )
            total += tl.where(rank == other, mine, part).to(tl.float32)
        # Rounded as an all-reduce leaves it.
        x = to_bfloat16(total).to(tl.float32) + stream
        norm_and_store(
            x, gain, along, row, column, inside, residual_out, normed_out, codes_out, scales_out,
            gated_out, eps, D, GROUPS, QUANTIZE, GATE,
        )  # fmt: skip
        tl.store(counts + row, count)


def sum_norm_quantize(
    peers: Peers,
    hidden: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    quantize: bool = True,
    gate: torch.Tensor | None = None,
    gated: torch.Tensor | None = None,
    steps: tuple[bool, bool] = (True, True),
) -> Normed:
    """RMSNorm of residual and the sum of all ranks' hidden, with the gain 1 + weight, and its
    quantization if asked for: `add_norm_quantize` behind an all-reduce.

    hidden: this rank's part [T, D] bf16, up to MAX_ROWS rows, and as many on every rank. The
    others as there, the same on every rank.
    steps: whether it sends its part, and whether it receives. A test that plays the ranks one after
    the other lets all send before the first receives.
    """
    rows, width = hidden.shape
    (residual_out, normed, codes, scales), groups = room_for(hidden, quantize)
    if rows > MAX_ROWS or width != peers.width:
        raise ValueError(f"{rows} rows of {width}, there is room for {MAX_ROWS} of {peers.width}")
    _sum_norm[(rows,)](
        hidden,
        residual,
        weight,
        peers.addresses,
        peers.counts,
        residual_out,
        normed,
        normed if codes is None else codes,
        normed if scales is None else scales,
        normed if gate is None else gate,
        normed if gated is None else gated,
        eps,
        peers.rank,
        RANKS=peers.ranks,
        ROWS=MAX_ROWS,
        D=width,
        GROUPS=groups,
        QUANTIZE=quantize,
        GATE=gate is not None,
        SEND=steps[0],
        RECEIVE=steps[1],
        PDL=dependent_launch(),
        num_warps=WARPS,
        **launch_options(),
    )
    return Normed(residual_out, normed, codes, scales)


def reference_sum_norm_quantize(
    parts: list[torch.Tensor],
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    quantize: bool = True,
) -> Normed:
    """The same in plain torch, of all ranks' parts."""
    total = torch.zeros_like(parts[0], dtype=torch.float32)
    for part in parts:
        total += part.float()
    return reference_add_norm_quantize(total.bfloat16(), residual, weight, eps, quantize)
