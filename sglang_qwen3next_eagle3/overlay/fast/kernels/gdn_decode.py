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
layer_norm_gated_fwd, per_token_group_quant): products of the convolution and its result in bf16, beta
in bf16, the recurrence in fp32, its result and the gated norm's in bf16. Only the order of sums in
fp32 is this kernel's own.
"""

from typing import NamedTuple

import torch

WINDOW = 3
"""Earlier inputs that the convolution keeps for a channel (its kernel is one longer)."""


class GdnOutput(NamedTuple):
    """What the output projection multiplies.

    out: [T, HV * DV], bf16 or (quantized) e4m3. scales: [T, HV * DV / 128] fp32, or None.
    """

    out: torch.Tensor
    scales: torch.Tensor | None


def gdn_arrivals(rows: int, key_heads: int, device: torch.device | str) -> torch.Tensor:
    """Counters of `gdn_decode`, zero between launches: [rows, key_heads] int32.

    Allocate them once, outside of any graph; all layers of a stream share them.
    """
    return torch.zeros(rows, key_heads, dtype=torch.int32, device=device)


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
    raise NotImplementedError


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
