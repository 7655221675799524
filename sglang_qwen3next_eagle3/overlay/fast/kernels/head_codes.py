"""Weights of the draft head in 8 bits, and their products before scales; x stays in bf16.

A thread loads sixteen columns of a row at once and widens them in registers. The two halves of
eight become two operands of the tensor core, and x is read so that it has the same columns in them:
nothing changes threads. The sums are those of `head_linear` in the order that its tiling says.
"""

# Tuples of tiles grow in the kernels, which a type checker takes for an assignment of another type.
# mypy: disable-error-code="assignment,var-annotated"

from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import INTERPRETED
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import _BF16, _chunks, _divisor

CODES_WIDTH: Final = 64
"""Columns of a chunk of codes: 64 bytes."""
PIECE: Final = 2048
"""Rows of a weight that are rounded at a time."""
LARGEST: Final = 190
"""What the code of a row's largest weight stands for."""
_INTERPRETED = tl.constexpr(INTERPRETED)


class Codes(NamedTuple):
    """A weight [N, K] in 8 bits. codes: [N, K] uint8. scales: [N] fp32, of a row.

    A code c stands for 320 less than the bf16 with the bits 0x4300 + c, in units of its row's
    scale: from -192 to -65 in steps of 1, then to 190 in steps of 2. So two codes are widened by
    one permutation of bytes and one subtraction, where integers of 8 bits take twice that; and
    what is rounded is still less than half of what e4m3 rounds.
    """

    codes: torch.Tensor
    scales: torch.Tensor

    def values(self) -> torch.Tensor:
        """What it stands for, [N, K] fp32."""
        codes = self.codes.float()
        return (torch.where(codes < 128, codes + 128, 2 * codes) - 320) * self.scales[:, None]

    def bf16(self) -> torch.Tensor:
        """The same rounded once more, to bf16."""
        pieces = zip(self.codes.split(PIECE), self.scales.split(PIECE), strict=True)
        return torch.cat([Codes(*piece).values().bfloat16() for piece in pieces])

    def renew(self, weight: torch.Tensor) -> None:
        """In the same places the codes of another weight of the same shape."""
        pieces = zip(*(part.split(PIECE) for part in (*self, weight)), strict=True)
        for codes, scales, piece in pieces:
            made = _codes(piece)
            codes.copy_(made[0])
            scales.copy_(made[1])


def head_codes(weight: torch.Tensor) -> Codes:
    """The weight [N, K] in 8 bits, rounded to the nearest."""
    # Piece by piece: where a server has loaded its models, little memory is left.
    return Codes(*map(torch.cat, zip(*map(_codes, weight.split(PIECE)), strict=True)))


def _codes(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = weight.float().abs().amax(-1, keepdim=True).clamp(min=1e-30) / LARGEST
    scaled = weight.float() / scales
    fine, coarse = (scaled + 192).round(), (scaled / 2 + 160).round().clamp(128, 255)
    codes = torch.where(scaled < -64.5, fine, coarse)
    return codes.to(torch.uint8), scales[:, 0]


@triton.jit
def _halves(tile, SHARES: tl.constexpr):
    """A tile of codes [SHARES * 8, 64] as two [SHARES, 8, 4, 8], in which a thread has the half of
    the sixteen columns that it loaded: those of `_every_other`."""
    tile = tl.reshape(tile, [SHARES, 8, 4, 2, 8])
    return tl.split(tl.permute(tile, [0, 1, 2, 4, 3]))


@triton.jit
def _operand(upper, lower, SHARES: tl.constexpr):
    """Halves of two tiles of codes, one below the other, as the tensor core's operand
    [SHARES, 16, 32] in bf16."""
    tile = tl.join(_widened(upper), _widened(lower))
    return tl.reshape(tl.permute(tile, [0, 4, 1, 2, 3]), [SHARES, 16, 32])


@triton.jit
def _every_other(
    x,
    row,
    T,
    first,
    K: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    COUNT: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Eight rows of x for COUNT chunks of codes, two tiles [SHARES * 8, 32] a chunk: of every 16
    columns the first 8, then the others."""
    line = tl.arange(0, SHARES * 8)[:, None]
    column = tl.arange(0, 32)[None, :]
    r = tl.minimum(row + line % 8, T - 1)
    k = line // 8 * SHARE + column // 8 * 16 + column % 8 + first
    at = x + r * K + k
    tiles = ()
    for c in tl.static_range(COUNT):
        for half in tl.static_range(2):
            if MASKED:
                inside = k + c * 64 + half * 8 < K
                tiles += (tl.load(at + c * 64 + half * 8, mask=inside, other=0.0),)
            else:
                tiles += (tl.load(at + c * 64 + half * 8),)
    return tiles


@triton.jit
def _widened(codes):
    """What codes stand for in units of a scale, in the type of an operand."""
    if _INTERPRETED:
        code = codes.to(tl.float32)
        wide = tl.where(code < 128, code + 128, 2 * code) - 320.0
    else:
        wide = tl.inline_asm_elementwise(
            """
            {
            .reg .b32 low, high, middle;
            prmt.b32 low, $2, 0x43434343, 0x4140;
            prmt.b32 high, $2, 0x43434343, 0x4342;
            mov.b32 middle, 0x43a043a0;
            sub.bf16x2 $0, low, middle;
            sub.bf16x2 $1, high, middle;
            }
            """,
            "=r,=r,r",
            [codes],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=4,
        )
    return wide.to(_BF16)


@triton.jit
def _sums_of_codes(
    x,
    codes,
    upper,
    lower,
    T,
    N,
    K: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    PASSES: tl.constexpr,
    TILES: tl.constexpr,
    MASKED: tl.constexpr,
    PDL: tl.constexpr,
):
    """Products of the rows upper to upper + 8 and lower to lower + 8 of the codes, before their
    scales: TILES tiles [16, 8] of fp32, 8 rows of x each."""
    CHUNKS: tl.constexpr = SHARE // 64 // PASSES
    AHEAD: tl.constexpr = _divisor(CHUNKS, 8 // TILES)
    CACHE: tl.constexpr = "" if TILES == 1 else ".cg"
    acc = ()
    for _ in tl.static_range(TILES):
        acc += (tl.zeros([SHARES, 16, 8], tl.float32),)
    for p in tl.static_range(PASSES):
        first = p * CHUNKS * 64
        above = _chunks(codes, upper, N, first, K, SHARES, SHARE, 64, CHUNKS, MASKED, CACHE)
        below = _chunks(codes, lower, N, first, K, SHARES, SHARE, 64, CHUNKS, MASKED, CACHE)
        if PDL and p == 0:
            gdc_wait()
        for q in tl.static_range(CHUNKS // AHEAD):
            rows = ()
            for j in tl.static_range(TILES):
                start = first + q * AHEAD * 64
                rows += (_every_other(x, j * 8, T, start, K, SHARES, SHARE, AHEAD, MASKED),)
            for c in tl.static_range(AHEAD):
                high = _halves(above[q * AHEAD + c], SHARES)
                low = _halves(below[q * AHEAD + c], SHARES)
                for half in tl.static_range(2):
                    left = _operand(high[half], low[half], SHARES)
                    sums = ()
                    for j in tl.static_range(TILES):
                        right = tl.reshape(rows[j][2 * c + half], [SHARES, 8, 32]).to(_BF16)
                        sums += (tl.dot(left, tl.permute(right, [0, 2, 1]), acc[j]),)
                    acc = sums
    out = ()
    for j in tl.static_range(TILES):
        out += (tl.sum(acc[j], 0),)
    return out
