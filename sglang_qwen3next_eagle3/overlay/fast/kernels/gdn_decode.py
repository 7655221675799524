"""A decode step of Gated DeltaNet after its projections, in one launch: convolution, recurrence,
gated norm, quantization.

    qkvz [T, HK * (2 DK + 2 R DV)] bf16, ba [T, HK * 2 R] bf16          R = HV / HK
        -> out [T, HV * DV] bf16, or e4m3 codes with scales [T, HV * DV / 128]
    conv_state [slots, 2 HK DK + HV DV, 3] bf16, ssm_state [slots, HV, DV, DK] fp32: in place

The projections are interleaved by key head, as the checkpoint and SGLang have them:
q, k, v x R, z x R of key head 0, then of key head 1; b x R, a x R likewise.

One program a row and value head: it holds its head's state in registers, so that the gated norm and
the quantization group of the head are local. The query and key channels of a key head are convolved
by each of its R value heads. Their windows are shifted by the last of the R programs to have read
them, which a counter tells (`gdn_arrivals`); nobody waits.

Stock's rounding points (causal_conv1d_update, fused_recurrent_gated_delta_rule_packed_decode,
layer_norm_gated_fwd, per_token_group_quant): products of the convolution and its result in bf16,
beta in bf16, the recurrence in fp32, its result and the gated norm's in bf16. Only the order of
sums in fp32 is this kernel's own.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import dependent_launch, launch_options
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_step import (
    advance,
    convolve,
    gated_norm,
    gates,
    load_state,
    load_taps,
    load_window,
    read_out,
    store_head,
    store_state,
    store_window,
    units,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import GROUP

WARPS = 4

WINDOW = 3
"""Earlier inputs that the convolution keeps for a channel (its kernel is one longer)."""


class GdnOutput(NamedTuple):
    """What the output projection multiplies.

    out: [T, HV * DV], bf16 or (quantized) e4m3. scales: [T, HV * DV / 128] fp32, or None.
    """

    out: torch.Tensor
    scales: torch.Tensor | None


class GdnShape(NamedTuple):
    """Heads and their sizes, as a layer's pools and inputs have them."""

    key_heads: int
    value_heads: int
    dk: int
    dv: int

    @classmethod
    def of(cls, conv_state: torch.Tensor, ssm_state: torch.Tensor) -> "GdnShape":
        """conv_state: [..., channels, 3]; ssm_state: [..., HV, DV, DK]."""
        value_heads, dv, dk = ssm_state.shape[-3:]
        return cls((conv_state.shape[-2] - value_heads * dv) // (2 * dk), value_heads, dk, dv)

    def constants(self) -> dict[str, int]:
        """The compile-time parameters of the kernels."""
        parts = min(4, self.dk // 16)
        return {
            "HK": self.key_heads,
            "R": self.value_heads // self.key_heads,
            "DK": self.dk,
            "DV": self.dv,
            "PARTS": parts,
        }


def gdn_arrivals(rows: int, key_heads: int, device: torch.device | str) -> torch.Tensor:
    """Counters of `gdn_decode`, zero between launches: [rows, key_heads] int32.

    Allocate them once, outside of any graph; all layers of a stream share them.
    """
    return torch.zeros(rows, key_heads, dtype=torch.int32, device=device)


@triton.jit
def _gdn_decode(
    qkvz,
    ba,
    conv_state,
    conv_weight,
    conv_bias,
    A_log,
    dt_bias,
    ssm_state,
    slots,
    norm_weight,
    arrivals,
    out,
    scales,
    eps,
    qkvz_stride,
    ba_stride,
    conv_stride,
    ssm_stride,
    HK: tl.constexpr,
    R: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    PARTS: tl.constexpr,
    BIAS: tl.constexpr,
    QUANTIZE: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    W: tl.constexpr = DK // PARTS
    head = tl.program_id(0)
    row = tl.program_id(1)
    key_head = head // R
    if PDL:
        if not EARLY:
            gdc_wait()
    slot = tl.load(slots + row)
    live = slot >= 0
    slot = tl.maximum(slot, 0).to(tl.int64)
    state = ssm_state + slot * ssm_stride + head * DV * DK
    s0, s1, s2, s3 = load_state(state, PARTS, DV, W)
    c = tl.arange(0, DK)
    d = tl.arange(0, DV)
    q_channel = key_head * DK + c
    k_channel = HK * DK + q_channel
    v_channel = 2 * HK * DK + head * DV + d
    window = conv_state + slot * conv_stride
    q0, q1, q2 = load_window(window, q_channel)
    k0, k1, k2 = load_window(window, k_channel)
    v0, v1, v2 = load_window(window, v_channel)
    qw0, qw1, qw2, qw3 = load_taps(conv_weight, q_channel)
    kw0, kw1, kw2, kw3 = load_taps(conv_weight, k_channel)
    vw0, vw1, vw2, vw3 = load_taps(conv_weight, v_channel)
    weight = tl.load(norm_weight + d).to(tl.float32)
    rate = tl.load(A_log + head).to(tl.float32)
    shift = tl.load(dt_bias + head).to(tl.float32)
    if PDL:
        if EARLY:
            gdc_wait()
        gdc_launch_dependents()

    group = qkvz + row * qkvz_stride + key_head * (2 * DK + 2 * R * DV)
    q3 = tl.load(group + c)
    k3 = tl.load(group + DK + c)
    v3 = tl.load(group + 2 * DK + (head % R) * DV + d)
    z = tl.load(group + 2 * DK + R * DV + (head % R) * DV + d).to(tl.float32)
    gate = ba + row * ba_stride + key_head * 2 * R + head % R
    b = tl.load(gate).to(tl.float32)
    a = tl.load(gate + R).to(tl.float32)

    query = convolve(q0, q1, q2, q3, qw0, qw1, qw2, qw3, conv_bias, q_channel, BIAS)
    key = convolve(k0, k1, k2, k3, kw0, kw1, kw2, kw3, conv_bias, k_channel, BIAS)
    value = convolve(v0, v1, v2, v3, vw0, vw1, vw2, vw3, conv_bias, v_channel, BIAS)
    decay, beta = gates(a, b, rate, shift)
    key, query = units(key, query)
    s0, s1, s2, s3 = advance(s0, s1, s2, s3, key, value, decay, beta, PARTS, W)
    o = read_out(s0, s1, s2, s3, query * (DK**-0.5), PARTS, W)
    y = gated_norm(o, z, weight, eps, DV)
    store_head(y, head, row, live, out, scales, HK * R, DV, QUANTIZE)
    store_state(state, s0, s1, s2, s3, live, PARTS, DV, W)

    # All of this program's reads of the windows lie behind the barrier, and so before the count.
    tl.debug_barrier()
    store_window(window, v_channel, v1, v2, v3, live)
    if R > 1:
        counter = arrivals + row * HK + key_head
        last = tl.atomic_add(counter, 1, sem="acq_rel") == R - 1
        tl.store(counter, 0, mask=last)
        live = live & last
    store_window(window, q_channel, q1, q2, q3, live)
    store_window(window, k_channel, k1, k2, k3, live)


def gdn_decode(
    qkvz: torch.Tensor,
    ba: torch.Tensor,
    conv_state: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor | None,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    ssm_state: torch.Tensor,
    slots: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    quantize: bool,
    arrivals: torch.Tensor,
    early_state: bool = False,
) -> GdnOutput:
    """One token for each of T requests.

    conv_weight: [channels, 4] bf16; conv_bias: [channels] or None; A_log, dt_bias: [HV];
    norm_weight: [DV]. conv_state and ssm_state are one layer's pools with any stride over slots.
    slots: [T] int, the pool rows; -1 marks padding, whose states stay and whose output is zero.
    arrivals: `gdn_arrivals` of at least T rows.
    early_state: read the states before the preceding kernels have ended. Only where nothing that
    was launched since the start of the graph writes this layer's states, which is so for one
    decode pass captured as one graph, but not for steps launched one behind the other.
    """
    rows, shape = qkvz.shape[0], GdnShape.of(conv_state, ssm_state)
    result = gdn_output(rows, shape, quantize, qkvz.device)
    _gdn_decode[(shape.value_heads, rows)](
        qkvz,
        ba,
        conv_state,
        conv_weight,
        conv_weight if conv_bias is None else conv_bias,
        A_log,
        dt_bias,
        ssm_state,
        slots,
        norm_weight,
        arrivals,
        result.out,
        result.out if result.scales is None else result.scales,
        eps,
        qkvz.stride(0),
        ba.stride(0),
        conv_state.stride(0),
        ssm_state.stride(0),
        **shape.constants(),
        BIAS=conv_bias is not None,
        QUANTIZE=quantize,
        EARLY=early_state,
        PDL=dependent_launch(),
        num_warps=WARPS,
        enable_fp_fusion=False,
        **launch_options(),
    )
    return result


def gdn_output(rows: int, shape: GdnShape, quantize: bool, device: torch.device) -> GdnOutput:
    """Space for the outputs of `rows` rows."""
    width = shape.value_heads * shape.dv
    if not quantize:
        return GdnOutput(torch.empty(rows, width, dtype=torch.bfloat16, device=device), None)
    if shape.dv != GROUP:
        raise ValueError(f"a value head of {shape.dv} is not a quantization group of {GROUP}")
    return GdnOutput(
        torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=device),
        torch.empty(rows, width // GROUP, dtype=torch.float32, device=device),
    )


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def reference_gdn_decode(
    qkvz: torch.Tensor,
    ba: torch.Tensor,
    conv_state: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor | None,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    ssm_state: torch.Tensor,
    slots: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """`gdn_decode` without quantization in plain torch: out [T, HV * DV] bf16, states in place."""
    rows = qkvz.shape[0]
    _, value_heads, dv, dk = ssm_state.shape
    key_heads = (conv_state.shape[1] - value_heads * dv) // (2 * dk)
    ratio = value_heads // key_heads
    grouped = qkvz.view(rows, key_heads, -1)
    q, k, v, z = grouped.split([dk, dk, ratio * dv, ratio * dv], dim=2)
    raw = torch.cat([part.reshape(rows, -1) for part in (q, k, v)], 1)
    b, a = ba.view(rows, key_heads, -1).split([ratio, ratio], dim=2)
    b, a = b.reshape(rows, -1).float(), a.reshape(rows, -1).float()
    out = torch.zeros(rows, value_heads * dv, dtype=torch.bfloat16, device=qkvz.device)
    for row, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        window = torch.cat([conv_state[slot], raw[row, :, None]], 1)
        mixed = torch.zeros(len(raw[row]), device=qkvz.device)
        if conv_bias is not None:
            mixed = conv_bias.float()
        for tap in range(WINDOW + 1):
            mixed = mixed + (window[:, tap] * conv_weight[:, tap]).float()
        mixed = silu(mixed).bfloat16().float()
        conv_state[slot] = window[:, 1:]
        q_, k_, v_ = mixed.split([key_heads * dk, key_heads * dk, value_heads * dv])
        q_, k_ = q_.view(key_heads, dk), k_.view(key_heads, dk)
        q_ = q_ / torch.sqrt(q_.square().sum(1, keepdim=True) + 1e-6) * dk**-0.5
        k_ = k_ / torch.sqrt(k_.square().sum(1, keepdim=True) + 1e-6)
        q_, k_ = q_.repeat_interleave(ratio, 0), k_.repeat_interleave(ratio, 0)
        x = a[row] + dt_bias.float()
        softplus = torch.where(x <= 20.0, torch.log(1 + torch.exp(x)), x)
        decay = torch.exp(-torch.exp(A_log.float()) * softplus)
        beta = torch.sigmoid(b[row]).bfloat16().float()
        state = ssm_state[slot] * decay[:, None, None]
        error = (v_.view(value_heads, dv) - (state * k_[:, None, :]).sum(2)) * beta[:, None]
        state = state + error[:, :, None] * k_[:, None, :]
        ssm_state[slot] = state
        o = (state * q_[:, None, :]).sum(2).bfloat16().float()
        o = o * (1 / torch.sqrt(o.square().mean(1, keepdim=True) + eps)) * norm_weight.float()
        gate = z[row].reshape(value_heads, dv).float()
        out[row] = (o * gate * torch.sigmoid(gate)).bfloat16().flatten()
    return out
