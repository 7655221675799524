"""One step of Gated DeltaNet in registers: what decode, verify and commit have in common.

A head's state, fp32 [DV, DK], is held as up to four tensors [DV, W] of adjacent columns, so that a
thread has neighbours along a row and a sum over DK is mostly its own: of the ways of writing this
that were compiled, it needs the fewest shuffles. Sums are written out in fused multiply-adds, and
the kernels are compiled without the compiler's own fusion, so that a step has the same bits
wherever it is inlined.
"""

import triton
import triton.language as tl

from sglang_qwen3next_eagle3.overlay.fast.device import to_bfloat16, to_e4m3


@triton.jit
def load_taps(weight, channel):
    """The convolution's four taps of each channel, for the oldest input first."""
    w0 = tl.load(weight + channel * 4).to(tl.float32)
    w1 = tl.load(weight + channel * 4 + 1).to(tl.float32)
    w2 = tl.load(weight + channel * 4 + 2).to(tl.float32)
    w3 = tl.load(weight + channel * 4 + 3).to(tl.float32)
    return w0, w1, w2, w3


@triton.jit
def load_window(window, channel):
    """The three inputs before the current one of each channel, the oldest first."""
    x0 = tl.load(window + channel * 3)
    x1 = tl.load(window + channel * 3 + 1)
    x2 = tl.load(window + channel * 3 + 2)
    return x0, x1, x2


@triton.jit
def store_window(window, channel, x0, x1, x2, live):
    tl.store(window + channel * 3, x0, mask=live)
    tl.store(window + channel * 3 + 1, x1, mask=live)
    tl.store(window + channel * 3 + 2, x2, mask=live)


@triton.jit
def convolve(x0, x1, x2, x3, w0, w1, w2, w3, bias, channel, BIAS: tl.constexpr):
    """SiLU of the causal convolution of bf16 inputs [C], x3 the current one; fp32 exact in bf16."""
    if BIAS:
        total = tl.load(bias + channel).to(tl.float32)
    else:
        total = tl.zeros(x0.shape, tl.float32)
    total += to_bfloat16(x0.to(tl.float32) * w0).to(tl.float32)
    total += to_bfloat16(x1.to(tl.float32) * w1).to(tl.float32)
    total += to_bfloat16(x2.to(tl.float32) * w2).to(tl.float32)
    total += to_bfloat16(x3.to(tl.float32) * w3).to(tl.float32)
    return to_bfloat16(total / (1.0 + tl.exp(-total))).to(tl.float32)


@triton.jit
def _add_pairs(a, b, c, d):
    return a + c, b + d


@triton.jit
def units(x, y):
    """Two vectors over their L2 norms, which are summed together to wait for the warps once."""
    xx, yy = tl.reduce((x * x, y * y), 0, _add_pairs)
    return x / tl.sqrt(xx + 1e-6), y / tl.sqrt(yy + 1e-6)


@triton.jit
def gates(a, b, A_log, dt_bias):
    """What a head's state is multiplied by, and how much of the error is written."""
    x = a + dt_bias
    softplus = tl.where(x <= 20.0, tl.log(1.0 + tl.exp(x)), x)
    decay = tl.exp(-tl.exp(A_log) * softplus)
    beta = to_bfloat16(tl.sigmoid(b)).to(tl.float32)
    return decay, beta


@triton.jit
def columns(x, PARTS: tl.constexpr, W: tl.constexpr):
    """A vector of PARTS * W values as rows [1, W], to be multiplied with the parts of a state."""
    if PARTS == 4:
        low, high = tl.split(tl.permute(tl.reshape(x, [2, 2, W]), [2, 1, 0]))
        x0, x1 = tl.split(low)
        x2, x3 = tl.split(high)
    elif PARTS == 2:
        x0, x1 = tl.split(tl.permute(tl.reshape(x, [2, W]), [1, 0]))
        x2, x3 = x0, x1
    else:
        x0, x1, x2, x3 = x, x, x, x
    return x0[None, :], x1[None, :], x2[None, :], x3[None, :]


@triton.jit
def load_state(pointer, PARTS: tl.constexpr, DV: tl.constexpr, W: tl.constexpr):
    """A head's state as its four parts; with fewer than four the others are not used."""
    at = pointer + tl.arange(0, DV)[:, None] * (PARTS * W) + tl.arange(0, W)[None, :]
    s0 = tl.load(at)
    s1, s2, s3 = s0, s0, s0
    if PARTS > 1:
        s1 = tl.load(at + W)
    if PARTS > 2:
        s2 = tl.load(at + 2 * W)
        s3 = tl.load(at + 3 * W)
    return s0, s1, s2, s3


@triton.jit
def store_state(
    pointer, s0, s1, s2, s3, live, PARTS: tl.constexpr, DV: tl.constexpr, W: tl.constexpr
):
    at = pointer + tl.arange(0, DV)[:, None] * (PARTS * W) + tl.arange(0, W)[None, :]
    tl.store(at, s0, mask=live)
    if PARTS > 1:
        tl.store(at + W, s1, mask=live)
    if PARTS > 2:
        tl.store(at + 2 * W, s2, mask=live)
        tl.store(at + 3 * W, s3, mask=live)


@triton.jit
def _along(s0, s1, s2, s3, x0, x1, x2, x3, PARTS: tl.constexpr):
    """The state times a vector, [DV]."""
    total = s0 * x0
    if PARTS > 1:
        total = tl.fma(s1, tl.broadcast_to(x1, s1.shape), total)
    if PARTS > 2:
        total = tl.fma(s2, tl.broadcast_to(x2, s2.shape), total)
        total = tl.fma(s3, tl.broadcast_to(x3, s3.shape), total)
    return tl.sum(total, 1)


@triton.jit
def advance(s0, s1, s2, s3, key, value, decay, beta, PARTS: tl.constexpr, W: tl.constexpr):
    """The state one token on: decayed, then corrected towards value along key."""
    k0, k1, k2, k3 = columns(key, PARTS, W)
    s0 *= decay
    s1 *= decay
    s2 *= decay
    s3 *= decay
    error = (value - _along(s0, s1, s2, s3, k0, k1, k2, k3, PARTS)) * beta
    error = tl.broadcast_to(error[:, None], s0.shape)
    s0 = tl.fma(tl.broadcast_to(k0, s0.shape), error, s0)
    if PARTS > 1:
        s1 = tl.fma(tl.broadcast_to(k1, s0.shape), error, s1)
    if PARTS > 2:
        s2 = tl.fma(tl.broadcast_to(k2, s0.shape), error, s2)
        s3 = tl.fma(tl.broadcast_to(k3, s0.shape), error, s3)
    return s0, s1, s2, s3


@triton.jit
def read_out(s0, s1, s2, s3, query, PARTS: tl.constexpr, W: tl.constexpr):
    """The state's answer to a query, rounded to bf16: [DV]."""
    q0, q1, q2, q3 = columns(query, PARTS, W)
    return to_bfloat16(_along(s0, s1, s2, s3, q0, q1, q2, q3, PARTS)).to(tl.float32)


@triton.jit
def gated_norm(o, z, weight, eps, DV: tl.constexpr):
    """RMSNorm of a head's output times SiLU of its gate, in bf16."""
    scale = 1.0 / tl.sqrt(tl.sum(o * o, 0) / DV + eps)
    return to_bfloat16(o * scale * weight * z * tl.sigmoid(z))


@triton.jit
def store_head(
    y, head, row, live, out, scales, HV: tl.constexpr, DV: tl.constexpr, QUANTIZE: tl.constexpr
):
    """Write a head's output, bf16 [DV], or its codes and scale; zeros if it is not live."""
    at = out + (row * HV + head) * DV + tl.arange(0, DV)
    y = tl.where(live, y.to(tl.float32), 0.0)
    if QUANTIZE:
        # As quantize_groups, for one group and in the layout that y has.
        amax = tl.maximum(tl.max(tl.abs(y), 0), 1e-10)
        tl.store(at, to_e4m3(tl.minimum(y * (448.0 / amax), 448.0)))
        tl.store(scales + row * HV + head, amax * (1.0 / 448.0))
    else:
        tl.store(at, y.to(tl.bfloat16))
