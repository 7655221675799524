"""The tokens of a verify through Gated DeltaNet: chains and trees, without snapshots of states.

As gdn_decode for T = B * n rows of draft trees; the states stay as they are, and each node's inputs
of the recurrence are kept (`GdnKept`), until gdn_commit takes those of the accepted path.

One program walks from the committed state to one leaf of the tree (tree.py), for one
value head; it writes the outputs of the nodes that belong to that leaf. A chain is one walk. A step
is that of gdn_decode, the same function, so that outputs, and states after the commit, are bit for
bit those of decoding the path token by token.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import dependent_launch, launch_options
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_decode import (
    WARPS,
    GdnOutput,
    GdnShape,
    gdn_output,
    reference_gdn_decode,
)
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
    units,
)


@dataclass(frozen=True)
class GdnKept:
    """What gdn_verify keeps of every node until the commit, for L layers and up to `rows` rows.

    raw: [L, rows, channels] bf16, inputs of the convolution in the order of its channels (q, k, v).
    key: [L, rows, HK * DK] fp32, normalized. value: [L, rows, HV * DV] bf16.
    decay, beta: [L, rows, HV] fp32.
    """

    raw: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    decay: torch.Tensor
    beta: torch.Tensor

    @classmethod
    def empty(
        cls,
        layers: int,
        rows: int,
        key_heads: int,
        value_heads: int,
        dk: int,
        dv: int,
        device: torch.device | str,
    ) -> "GdnKept":
        """Buffers for `rows` nodes of `layers` layers; once, outside of any graph."""
        keys, values = key_heads * dk, value_heads * dv

        def make(width: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(layers, rows, width, dtype=dtype, device=device)

        return cls(
            raw=make(2 * keys + values, torch.bfloat16),
            key=make(keys, torch.float32),
            value=make(values, torch.bfloat16),
            decay=make(value_heads, torch.float32),
            beta=make(value_heads, torch.float32),
        )


@triton.jit
def _gdn_verify(
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
    paths,
    kept_raw,
    kept_key,
    kept_value,
    kept_decay,
    kept_beta,
    out,
    scales,
    eps,
    qkvz_stride,
    ba_stride,
    conv_stride,
    ssm_stride,
    N: tl.constexpr,
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
    HV: tl.constexpr = HK * R
    C: tl.constexpr = 2 * HK * DK + HV * DV
    head = tl.program_id(0)
    leaf = tl.program_id(1) % N
    request = tl.program_id(1) // N
    root = request * N
    key_head = head // R
    if PDL:
        if not EARLY:
            gdc_wait()
    path = paths + tl.program_id(1) * (N + 2)
    depth = tl.load(path)
    if tl.load(path + 1) == leaf:
        slot = tl.load(slots + request)
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

        # The inputs of the next step are requested before the current one is computed.
        row = root
        q_at = qkvz + key_head * (2 * DK + 2 * R * DV) + c
        v_at = qkvz + key_head * (2 * DK + 2 * R * DV) + 2 * DK + (head % R) * DV + d
        gate = ba + key_head * 2 * R + head % R
        q3 = tl.load(q_at + row * qkvz_stride)
        k3 = tl.load(q_at + row * qkvz_stride + DK)
        v3 = tl.load(v_at + row * qkvz_stride)
        z = tl.load(v_at + row * qkvz_stride + R * DV)
        b = tl.load(gate + row * ba_stride)
        a = tl.load(gate + row * ba_stride + R)
        walk = tl.load(paths + row * (N + 2) + 1)
        following = root + tl.load(path + 2 + tl.minimum(1, depth))
        for step in range(depth + 1):
            after = root + tl.load(path + 2 + tl.minimum(step + 2, depth))
            next_q = tl.load(q_at + following * qkvz_stride)
            next_k = tl.load(q_at + following * qkvz_stride + DK)
            next_v = tl.load(v_at + following * qkvz_stride)
            next_z = tl.load(v_at + following * qkvz_stride + R * DV)
            next_b = tl.load(gate + following * ba_stride)
            next_a = tl.load(gate + following * ba_stride + R)
            next_walk = tl.load(paths + following * (N + 2) + 1)

            query = convolve(q0, q1, q2, q3, qw0, qw1, qw2, qw3, conv_bias, q_channel, BIAS)
            key = convolve(k0, k1, k2, k3, kw0, kw1, kw2, kw3, conv_bias, k_channel, BIAS)
            value = convolve(v0, v1, v2, v3, vw0, vw1, vw2, vw3, conv_bias, v_channel, BIAS)
            decay, beta = gates(a.to(tl.float32), b.to(tl.float32), rate, shift)
            key, query = units(key, query)
            s0, s1, s2, s3 = advance(s0, s1, s2, s3, key, value, decay, beta, PARTS, W)
            o = read_out(s0, s1, s2, s3, query * (DK**-0.5), PARTS, W)
            if walk == leaf:
                y = gated_norm(o, z.to(tl.float32), weight, eps, DV)
                store_head(y, head, row, live, out, scales, HV, DV, QUANTIZE)
                tl.store(kept_raw + row * C + v_channel, v3)
                tl.store(kept_value + row * HV * DV + head * DV + d, value.to(tl.bfloat16))
                tl.store(kept_decay + row * HV + head, decay)
                tl.store(kept_beta + row * HV + head, beta)
                first = head % R == 0
                tl.store(kept_raw + row * C + q_channel, q3, mask=first)
                tl.store(kept_raw + row * C + k_channel, k3, mask=first)
                tl.store(kept_key + row * HK * DK + q_channel, key, mask=first)
            q0, q1, q2, q3 = q1, q2, q3, next_q
            k0, k1, k2, k3 = k1, k2, k3, next_k
            v0, v1, v2, v3 = v1, v2, v3, next_v
            z, b, a, walk = next_z, next_b, next_a, next_walk
            row, following = following, after
    else:
        if PDL:
            if EARLY:
                gdc_wait()
            gdc_launch_dependents()


def gdn_verify(
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
    paths: torch.Tensor,
    kept: GdnKept,
    layer: int,
    early_state: bool = False,
) -> GdnOutput:
    """The nodes of B draft trees of n tokens: T = B * n rows, request by request.

    slots: [B] int, -1 marks padding (its outputs are zero, nothing of it is kept).
    paths: [T, 2 + n] of tree_paths or chain_paths. kept, layer: where this layer's nodes are kept.
    early_state as in gdn_decode, and for paths as well: the commit must not run in the same graph
    before this, and tree_paths not immediately before.
    The rest as in gdn_decode.
    """
    rows, nodes, shape = qkvz.shape[0], paths.shape[1] - 2, GdnShape.of(conv_state, ssm_state)
    if rows != len(slots) * nodes or rows != len(paths):
        raise ValueError(f"{rows} rows are not {len(slots)} trees of {nodes} nodes")
    result = gdn_output(rows, shape, quantize, qkvz.device)
    _gdn_verify[(shape.value_heads, rows)](
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
        paths,
        kept.raw[layer],
        kept.key[layer],
        kept.value[layer],
        kept.decay[layer],
        kept.beta[layer],
        result.out,
        result.out if result.scales is None else result.scales,
        eps,
        qkvz.stride(0),
        ba.stride(0),
        conv_state.stride(0),
        ssm_state.stride(0),
        N=nodes,
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


def reference_gdn_verify(
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
    paths: torch.Tensor,
) -> torch.Tensor:
    """Every node by decoding its path from a copy of the states: [T, HV * DV] bf16."""
    nodes = paths.shape[1] - 2
    outputs = []
    for row, (depth, _, *path) in enumerate(paths.tolist()):
        request = row // nodes
        conv, ssm = conv_state.clone(), ssm_state.clone()
        for node in path[: depth + 1]:
            at = request * nodes + node
            out = reference_gdn_decode(
                qkvz[at : at + 1],
                ba[at : at + 1],
                conv,
                conv_weight,
                conv_bias,
                A_log,
                dt_bias,
                ssm,
                slots[request : request + 1],
                norm_weight,
                eps,
            )
        outputs.append(out)
    return torch.cat(outputs)
