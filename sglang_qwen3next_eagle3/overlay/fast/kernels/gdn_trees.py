"""gdn_verify of several requests in two launches: everything but the states for every node at once,
then one program a request and value head, which reads its state once and walks the whole tree.

    the operands and the result of `gdn_verify`, and the same bits

With many requests the multiprocessors' instructions are the time, and gdn_verify spends them three
times over: on the shared beginnings of walks, on convolutions and norms of queries and keys in
every value head and walk, and on programs of nodes that are no leaves. `_gdn_nodes` convolves,
normalizes and gates a node once a key head, and keeps it for the commit; `_gdn_walks` is left with
the recurrence, its answer and the gated norm.

A walk steps from the committed state to the root, and then depth first: at every node first its
leaves, whose answers are computed without giving up the node's state, then its other children. Of
these the first goes on from the node's state; for every further one the committed state is read
again and stepped to that node without answers. So chains, and trees in which no node has two
children that are no leaves, are one pass over their nodes. The first launch writes these plans.

Layouts of states and vectors, and with them the order of every sum, are those of gdn_verify
(tests/kernels/test_gdn_trees.py). Chains have nothing to share, so that a second launch costs more
than it saves there: they go through gdn_verify (`kernel_table`).
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import (
    dependent_launch,
    launch_options,
    to_bfloat16,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_decode import (
    WARPS,
    GdnOutput,
    GdnShape,
    gdn_output,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_step import (
    _along,
    convolve,
    gated_norm,
    gates,
    load_state,
    load_taps,
    store_head,
    units,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_verify import GdnKept

STEP = tl.constexpr(0)
"""Of a plan: one token on, with its answer."""
LEAF = tl.constexpr(1)
"""The answer one token on; the state stays."""
AGAIN = tl.constexpr(2)
"""One token on, whose answer was given before."""
RESTART = tl.constexpr(3)
"""The same from the committed state."""


def plan_width(nodes: int) -> int:
    """Columns of a request's plan: how many entries, and the entries, node * 4 + what to do.

    Where f of n nodes start anew, at most n - 2 f - 2 stand above one of them: it and its first
    sibling have children, and for every other of the f two nodes stand elsewhere.
    """
    return 1 + nodes + nodes * nodes // 8


@triton.jit
def _window(old, new, path, root, depth, stride):
    """The three inputs before the current one of each channel at a node: of the committed window
    `old` as far as the node's path is shorter, else of the rows `new`."""
    n0 = root + tl.load(path + tl.maximum(depth - 3, 0))
    n1 = root + tl.load(path + tl.maximum(depth - 2, 0))
    n2 = root + tl.load(path + tl.maximum(depth - 1, 0))
    x0 = tl.where(depth < 3, old[0], tl.load(new + n0 * stride))
    x1 = tl.where(depth < 2, old[1], tl.load(new + n1 * stride))
    x2 = tl.where(depth < 1, old[2], tl.load(new + n2 * stride))
    return x0, x1, x2


@triton.jit
def _committed(window, channel, depth):
    """What `_window` may need of the committed window."""
    x0 = tl.load(window + channel * 3 + tl.minimum(depth, 2))
    x1 = tl.load(window + channel * 3 + tl.minimum(depth + 1, 2))
    x2 = tl.load(window + channel * 3 + 2)
    return x0, x1, x2


@triton.jit
def _plan(paths, root, plan, N: tl.constexpr, NP: tl.constexpr, PDL: tl.constexpr):
    """The plan of a request's walk, from its paths."""
    u = tl.arange(0, NP)[:, None]
    v = tl.arange(0, NP)[None, :]
    at_u = paths + (root + tl.minimum(u, N - 1)) * (N + 2)
    at_v = paths + (root + tl.minimum(v, N - 1)) * (N + 2)
    inside = (u < N) & (v < N)
    depth_u, depth_v = tl.load(at_u), tl.load(at_v)
    inner_u, inner_v = tl.load(at_u + 1) != u, tl.load(at_v + 1) != v
    parent_u = tl.load(at_u + 2 + tl.maximum(depth_u - 1, 0))
    parent_v = tl.load(at_v + 2 + tl.maximum(depth_v - 1, 0))
    siblings = inside & (u != v) & (u > 0) & (v > 0) & (parent_u == parent_v)
    # One node is before another if it is above it, or where their paths part: there leaves come
    # first, otherwise the smaller number. A path's entries but the last are no leaves.
    before = tl.zeros([NP, NP], tl.int32)
    for i in range(N):
        on_u = tl.load(at_u + 2 + i) + tl.where((i < depth_u) | inner_u, N, 0) + 1
        on_v = tl.load(at_v + 2 + i) + tl.where((i < depth_v) | inner_v, N, 0) + 1
        on_u = tl.where(i <= depth_u, on_u, 0)
        on_v = tl.where(i <= depth_v, on_v, 0)
        parted = (on_u < on_v).to(tl.int32) - (on_u > on_v).to(tl.int32)
        before = tl.where(before == 0, parted, before)
    before = (before > 0) & inside
    # As columns v, and the same as rows u: `restarts` only of nodes that begin with the state.
    restarts_v = tl.sum((siblings & inner_u & inner_v & (u < v)).to(tl.int32), 0)[None, :] > 0
    restarts_u = tl.sum((siblings & inner_u & inner_v & (v < u)).to(tl.int32), 1)[:, None] > 0
    replayed = tl.where(restarts_u & (before | (inside & (u == v))), depth_u, 0)
    index = tl.sum(before.to(tl.int32) + replayed, 0)[None, :]
    needed = tl.sum((siblings & (inner_u | (u > v))).to(tl.int32), 0)[None, :]
    kind = tl.where(inner_v | (needed == 0), STEP, LEAF)
    if PDL:
        gdc_wait()
    within = v < N
    count = tl.sum(tl.where(within, 1 + tl.where(restarts_v, depth_v, 0), 0), 1)
    tl.store(plan + tl.arange(0, 1), count)
    tl.store(plan + 1 + index, v * 4 + kind, mask=within)
    for i in range(N):
        on_v = tl.load(at_v + 2 + i) * 4 + tl.where(i == 0, RESTART, AGAIN)
        at = plan + 1 + index - depth_v + i
        tl.store(at, on_v, mask=within & restarts_v & (i < depth_v))


@triton.jit
def _gdn_nodes(
    qkvz,
    ba,
    conv_state,
    conv_weight,
    conv_bias,
    A_log,
    dt_bias,
    slots,
    paths,
    kept_raw,
    kept_key,
    kept_value,
    kept_decay,
    kept_beta,
    queries,
    plans,
    qkvz_stride,
    ba_stride,
    conv_stride,
    N: tl.constexpr,
    NP: tl.constexpr,
    WIDTH: tl.constexpr,
    HK: tl.constexpr,
    R: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    BIAS: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    HV: tl.constexpr = HK * R
    C: tl.constexpr = 2 * HK * DK + HV * DV
    key_head = tl.program_id(0)
    row = tl.program_id(1)
    request = row // N
    root = request * N
    if PDL:
        # `_gdn_walks` reads nothing but states before its own wait, and those only where they may
        # be read at any time.
        gdc_launch_dependents()
        if not EARLY:
            gdc_wait()
    if key_head == HK:
        if row == root:
            _plan(paths, root, plans + request * WIDTH, N, NP, PDL and EARLY)
    else:
        path = paths + row * (N + 2)
        depth = tl.load(path)
        path += 2
        slot = tl.maximum(tl.load(slots + request), 0).to(tl.int64)
        window = conv_state + slot * conv_stride
        c = tl.arange(0, DK)
        d = tl.arange(0, DV)
        q_channel = key_head * DK + c
        k_channel = HK * DK + q_channel
        old_q = _committed(window, q_channel, depth)
        old_k = _committed(window, k_channel, depth)
        qw0, qw1, qw2, qw3 = load_taps(conv_weight, q_channel)
        kw0, kw1, kw2, kw3 = load_taps(conv_weight, k_channel)
        if PDL:
            if EARLY:
                gdc_wait()

        group = qkvz + key_head * (2 * DK + 2 * R * DV)
        q3 = tl.load(group + row * qkvz_stride + c)
        k3 = tl.load(group + row * qkvz_stride + DK + c)
        q0, q1, q2 = _window(old_q, group + c, path, root, depth, qkvz_stride)
        k0, k1, k2 = _window(old_k, group + DK + c, path, root, depth, qkvz_stride)
        query = convolve(q0, q1, q2, q3, qw0, qw1, qw2, qw3, conv_bias, q_channel, BIAS)
        key = convolve(k0, k1, k2, k3, kw0, kw1, kw2, kw3, conv_bias, k_channel, BIAS)
        key, query = units(key, query)
        tl.store(kept_raw + row * C + q_channel, q3)
        tl.store(kept_raw + row * C + k_channel, k3)
        tl.store(kept_key + row * HK * DK + q_channel, key)
        tl.store(queries + row * HK * DK + q_channel, query * (DK**-0.5))
        for r in tl.static_range(R):
            head = key_head * R + r
            v_channel = 2 * HK * DK + head * DV + d
            vw0, vw1, vw2, vw3 = load_taps(conv_weight, v_channel)
            old_v = _committed(window, v_channel, depth)
            v_at = group + 2 * DK + r * DV + d
            v3 = tl.load(v_at + row * qkvz_stride)
            v0, v1, v2 = _window(old_v, v_at, path, root, depth, qkvz_stride)
            value = convolve(v0, v1, v2, v3, vw0, vw1, vw2, vw3, conv_bias, v_channel, BIAS)
            tl.store(kept_raw + row * C + v_channel, v3)
            tl.store(kept_value + row * HV * DV + head * DV + d, value.to(tl.bfloat16))
            gate = ba + row * ba_stride + key_head * 2 * R + r
            b = tl.load(gate).to(tl.float32)
            a = tl.load(gate + R).to(tl.float32)
            rate = tl.load(A_log + head).to(tl.float32)
            shift = tl.load(dt_bias + head).to(tl.float32)
            decay, beta = gates(a, b, rate, shift)
            tl.store(kept_decay + row * HV + head, decay)
            tl.store(kept_beta + row * HV + head, beta)


@triton.jit
def _load_columns(pointer, PARTS: tl.constexpr, W: tl.constexpr):
    """As `columns` of PARTS * W values in memory."""
    at = pointer + tl.arange(0, W)[None, :]
    x0 = tl.load(at)
    x1, x2, x3 = x0, x0, x0
    if PARTS > 1:
        x1 = tl.load(at + W)
    if PARTS > 2:
        x2 = tl.load(at + 2 * W)
        x3 = tl.load(at + 3 * W)
    return x0, x1, x2, x3


@triton.jit
def _advance(s0, s1, s2, s3, k0, k1, k2, k3, value, decay, beta, PARTS: tl.constexpr):
    """`advance` along a key in columns."""
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
def _error_ahead(s0, s1, s2, s3, k0, k1, k2, k3, value, decay, beta, PARTS: tl.constexpr):
    """What `_advance` adds along the key; part by part, so that no second state is held."""
    total = (s0 * decay) * k0
    if PARTS > 1:
        total = tl.fma(s1 * decay, tl.broadcast_to(k1, s0.shape), total)
    if PARTS > 2:
        total = tl.fma(s2 * decay, tl.broadcast_to(k2, s0.shape), total)
        total = tl.fma(s3 * decay, tl.broadcast_to(k3, s0.shape), total)
    return (value - tl.sum(total, 1)) * beta


@triton.jit
def _answer_ahead(
    s0, s1, s2, s3, k0, k1, k2, k3, q0, q1, q2, q3, error, decay, PARTS: tl.constexpr
):
    """`_read_out` of what `_advance` would make of the state."""
    error = tl.broadcast_to(error[:, None], s0.shape)
    total = tl.fma(tl.broadcast_to(k0, s0.shape), error, s0 * decay) * q0
    if PARTS > 1:
        t1 = tl.fma(tl.broadcast_to(k1, s0.shape), error, s1 * decay)
        total = tl.fma(t1, tl.broadcast_to(q1, s0.shape), total)
    if PARTS > 2:
        t2 = tl.fma(tl.broadcast_to(k2, s0.shape), error, s2 * decay)
        total = tl.fma(t2, tl.broadcast_to(q2, s0.shape), total)
        t3 = tl.fma(tl.broadcast_to(k3, s0.shape), error, s3 * decay)
        total = tl.fma(t3, tl.broadcast_to(q3, s0.shape), total)
    return to_bfloat16(tl.sum(total, 1)).to(tl.float32)


@triton.jit
def _read_out(s0, s1, s2, s3, q0, q1, q2, q3, PARTS: tl.constexpr):
    """`read_out` to a query in columns."""
    return to_bfloat16(_along(s0, s1, s2, s3, q0, q1, q2, q3, PARTS)).to(tl.float32)


@triton.jit
def _gdn_walks(
    qkvz,
    ssm_state,
    slots,
    norm_weight,
    keys,
    values,
    decays,
    betas,
    queries,
    plans,
    out,
    scales,
    eps,
    qkvz_stride,
    ssm_stride,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    HK: tl.constexpr,
    R: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    PARTS: tl.constexpr,
    QUANTIZE: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    W: tl.constexpr = DK // PARTS
    HV: tl.constexpr = HK * R
    head = tl.program_id(0)
    request = tl.program_id(1)
    root = request * N
    key_head = head // R
    if PDL:
        if not EARLY:
            gdc_wait()
    slot = tl.load(slots + request)
    live = slot >= 0
    state = ssm_state + tl.maximum(slot, 0).to(tl.int64) * ssm_stride + head * DV * DK
    s0, s1, s2, s3 = load_state(state, PARTS, DV, W)
    d = tl.arange(0, DV)
    weight = tl.load(norm_weight + d).to(tl.float32)
    if PDL:
        if EARLY:
            gdc_wait()
        gdc_launch_dependents()

    z_at = qkvz + key_head * (2 * DK + 2 * R * DV) + 2 * DK + (R + head % R) * DV + d
    key_at = keys + key_head * DK
    query_at = queries + key_head * DK
    value_at = values + head * DV + d
    plan = plans + request * WIDTH
    count = tl.load(plan)
    entry = tl.load(plan + 1)
    following = tl.load(plan + tl.minimum(2, count))
    row = root + entry // 4
    k0, k1, k2, k3 = _load_columns(key_at + row * HK * DK, PARTS, W)
    value = tl.load(value_at + row * HV * DV)
    # Three times, so that the compiler sees three values: otherwise it would hold the decayed state
    # beside the other.
    decay = tl.load(decays + row * HV + head, volatile=True)
    decay_1 = tl.load(decays + row * HV + head, volatile=True)
    decay_2 = tl.load(decays + row * HV + head, volatile=True)
    beta = tl.load(betas + row * HV + head)
    z = tl.load(z_at + row * qkvz_stride)
    # The inputs of the next step are requested before the current one is computed.
    for step in range(count):
        after = tl.load(plan + tl.minimum(step + 3, count))
        then = root + following // 4
        n0, n1, n2, n3 = _load_columns(key_at + then * HK * DK, PARTS, W)
        next_value = tl.load(value_at + then * HV * DV)
        next_decay = tl.load(decays + then * HV + head, volatile=True)
        next_decay_1 = tl.load(decays + then * HV + head, volatile=True)
        next_decay_2 = tl.load(decays + then * HV + head, volatile=True)
        next_beta = tl.load(betas + then * HV + head)
        q0, q1, q2, q3 = _load_columns(query_at + row * HK * DK, PARTS, W)
        kind = entry % 4
        if kind == RESTART:
            s0, s1, s2, s3 = load_state(state, PARTS, DV, W)
        next_z = tl.load(z_at + then * qkvz_stride)
        v = value.to(tl.float32)
        if kind == LEAF:
            error = _error_ahead(s0, s1, s2, s3, k0, k1, k2, k3, v, decay_1, beta, PARTS)
            o = _answer_ahead(s0, s1, s2, s3, k0, k1, k2, k3, q0, q1, q2, q3, error, decay_2, PARTS)
            y = gated_norm(o, z.to(tl.float32), weight, eps, DV)
            store_head(y, head, row, live, out, scales, HV, DV, QUANTIZE)
        else:
            s0, s1, s2, s3 = _advance(s0, s1, s2, s3, k0, k1, k2, k3, v, decay, beta, PARTS)
            if kind == STEP:
                o = _read_out(s0, s1, s2, s3, q0, q1, q2, q3, PARTS)
                y = gated_norm(o, z.to(tl.float32), weight, eps, DV)
                store_head(y, head, row, live, out, scales, HV, DV, QUANTIZE)
        k0, k1, k2, k3 = n0, n1, n2, n3
        value, beta, z = next_value, next_beta, next_z
        decay, decay_1, decay_2 = next_decay, next_decay_1, next_decay_2
        entry, following, row = following, after, then


def gdn_trees(
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
    """As `gdn_verify`, in all its operands, results and bits."""
    rows, nodes, shape = qkvz.shape[0], paths.shape[1] - 2, GdnShape.of(conv_state, ssm_state)
    if rows != len(slots) * nodes or rows != len(paths):
        raise ValueError(f"{rows} rows are not {len(slots)} trees of {nodes} nodes")
    result = gdn_output(rows, shape, quantize, qkvz.device)
    constants = shape.constants()
    parts = constants.pop("PARTS")
    width = plan_width(nodes)
    queries = torch.empty(rows, shape.key_heads * shape.dk, dtype=torch.float32, device=qkvz.device)
    plans = torch.empty(len(slots), width, dtype=torch.int32, device=qkvz.device)
    own = kept.key[layer], kept.value[layer], kept.decay[layer], kept.beta[layer]
    _gdn_nodes[(shape.key_heads + 1, rows)](
        qkvz,
        ba,
        conv_state,
        conv_weight,
        conv_weight if conv_bias is None else conv_bias,
        A_log,
        dt_bias,
        slots,
        paths,
        kept.raw[layer],
        *own,
        queries,
        plans,
        qkvz.stride(0),
        ba.stride(0),
        conv_state.stride(0),
        N=nodes,
        NP=max(2, triton.next_power_of_2(nodes)),
        WIDTH=width,
        **constants,
        BIAS=conv_bias is not None,
        EARLY=early_state,
        PDL=dependent_launch(),
        num_warps=WARPS,
        enable_fp_fusion=False,
        **launch_options(),
    )
    _gdn_walks[(shape.value_heads, len(slots))](
        qkvz,
        ssm_state,
        slots,
        norm_weight,
        *own,
        queries,
        plans,
        result.out,
        result.out if result.scales is None else result.scales,
        eps,
        qkvz.stride(0),
        ssm_state.stride(0),
        N=nodes,
        WIDTH=width,
        **constants,
        PARTS=parts,
        QUANTIZE=quantize,
        EARLY=early_state,
        PDL=dependent_launch(),
        num_warps=WARPS,
        enable_fp_fusion=False,
        **launch_options(),
    )
    return result
