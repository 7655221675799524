"""After acceptance: what gdn_verify kept on the accepted path into the states of all layers, in one
launch. A step is that of gdn_decode, the same function.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_qwen3next_eagle3.overlay.fast.device import dependent_launch, launch_options
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_decode import WARPS, WINDOW, GdnShape
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_step import (
    advance,
    load_state,
    store_state,
    store_window,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_verify import GdnKept


@triton.jit
def _move_window(conv, target, raw, path, root, depth, channel, C: tl.constexpr, D: tl.constexpr):
    """The last three inputs of D channels after `depth + 1` nodes: from conv and raw to target."""
    at = channel + tl.arange(0, D)
    x0 = _windowed(conv, raw, path, root, depth + 1, at, C)
    x1 = _windowed(conv, raw, path, root, depth + 2, at, C)
    x2 = _windowed(conv, raw, path, root, depth + 3, at, C)
    tl.debug_barrier()
    store_window(target, at, x0, x1, x2, at >= 0)


@triton.jit
def _windowed(conv, raw, path, root, index, at, C: tl.constexpr):
    """Input `index` of the old window followed by the path's nodes."""
    node = tl.load(path + tl.maximum(index - 3, 0))
    old = tl.load(conv + at * 3 + tl.minimum(index, 2), mask=(at >= 0) & (index < 3), other=0.0)
    new = tl.load(raw + (root + node) * C + at, mask=(at >= 0) & (index >= 3), other=0.0)
    return tl.where(index < 3, old, new)


@triton.jit
def _gdn_commit(
    conv_states,
    ssm_states,
    slots,
    paths,
    last_nodes,
    track_slots,
    track_nodes,
    kept_raw,
    kept_key,
    kept_value,
    kept_decay,
    kept_beta,
    rows,
    conv_layer_stride,
    conv_stride,
    ssm_layer_stride,
    ssm_stride,
    N: tl.constexpr,
    HK: tl.constexpr,
    R: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    PARTS: tl.constexpr,
    TRACK: tl.constexpr,
    PDL: tl.constexpr,
):
    W: tl.constexpr = DK // PARTS
    HV: tl.constexpr = HK * R
    C: tl.constexpr = 2 * HK * DK + HV * DV
    key_head = tl.program_id(0)
    request = tl.program_id(1)
    layer = tl.program_id(2).to(tl.int64)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    slot = tl.load(slots + request).to(tl.int64)
    last = tl.load(last_nodes + request)
    if (slot >= 0) & (last >= 0):
        root = request * N
        path = paths + (root + last) * (N + 2)
        depth = tl.load(path)
        path += 2
        track = tl.full([], -1, tl.int64)
        tracked = tl.full([], -1, tl.int32)
        if TRACK:
            # A depth of the path, or -1 where nothing is tracked.
            track = tl.load(track_slots + request).to(tl.int64)
            node = tl.load(track_nodes + request).to(tl.int32)
            tracked = tl.load(paths + (root + tl.maximum(node, 0)) * (N + 2))
            tracked = tl.where((node >= 0) & (track >= 0), tracked, -1)
        states = ssm_states + layer * ssm_layer_stride
        raw = kept_raw + layer * rows * C
        c = tl.arange(0, DK)
        d = tl.arange(0, DV)
        for r in tl.static_range(R):
            head = key_head * R + r
            state = states + slot * ssm_stride + head * DV * DK
            key_at = kept_key + layer * rows * (HK * DK) + key_head * DK + c
            value_at = kept_value + layer * rows * (HV * DV) + head * DV + d
            decay_at = kept_decay + layer * rows * HV + head
            beta_at = kept_beta + layer * rows * HV + head
            s0, s1, s2, s3 = load_state(state, PARTS, DV, W)
            key = tl.load(key_at + root * (HK * DK))
            value = tl.load(value_at + root * (HV * DV))
            decay = tl.load(decay_at + root * HV)
            beta = tl.load(beta_at + root * HV)
            for step in range(depth + 1):
                following = root + tl.load(path + tl.minimum(step + 1, depth))
                next_key = tl.load(key_at + following * (HK * DK))
                next_value = tl.load(value_at + following * (HV * DV))
                next_decay = tl.load(decay_at + following * HV)
                next_beta = tl.load(beta_at + following * HV)
                s0, s1, s2, s3 = advance(
                    s0, s1, s2, s3, key, value.to(tl.float32), decay, beta, PARTS, W
                )
                if TRACK:
                    if step == tracked:
                        copy = states + track * ssm_stride + head * DV * DK
                        store_state(copy, s0, s1, s2, s3, step >= 0, PARTS, DV, W)
                key, value, decay, beta = next_key, next_value, next_decay, next_beta
            store_state(state, s0, s1, s2, s3, depth >= 0, PARTS, DV, W)

        windows = conv_states + layer * conv_layer_stride
        conv = windows + slot * conv_stride
        if TRACK:
            if tracked >= 0:
                copy = windows + track * conv_stride
                _move_window(conv, copy, raw, path, root, tracked, key_head * DK, C, DK)
                _move_window(conv, copy, raw, path, root, tracked, (HK + key_head) * DK, C, DK)
                for r in tl.static_range(R):
                    at = 2 * HK * DK + (key_head * R + r) * DV
                    _move_window(conv, copy, raw, path, root, tracked, at, C, DV)
        _move_window(conv, conv, raw, path, root, depth, key_head * DK, C, DK)
        _move_window(conv, conv, raw, path, root, depth, (HK + key_head) * DK, C, DK)
        for r in tl.static_range(R):
            at = 2 * HK * DK + (key_head * R + r) * DV
            _move_window(conv, conv, raw, path, root, depth, at, C, DV)


def gdn_commit(
    conv_states: torch.Tensor,
    ssm_states: torch.Tensor,
    slots: torch.Tensor,
    paths: torch.Tensor,
    last_nodes: torch.Tensor,
    kept: GdnKept,
    track_slots: torch.Tensor | None = None,
    track_nodes: torch.Tensor | None = None,
) -> None:
    """Advance the states of B requests in all L layers to the last accepted node.

    conv_states: [L, slots, channels, 3]; ssm_states: [L, slots, HV, DV, DK]: the pools of stock's
    `get_speculative_mamba2_params_all_layers()` (conv[0] and temporal), layers in the order in
    which gdn_verify numbered them. slots: [B] int, -1 marks padding. last_nodes: [B] int, node of
    the request's tree, -1: leave its states. paths: those of the verify.
    track_slots, track_nodes: [B] int: where stock's prefix cache wants the states as they are after
    a node of the accepted path (its `mamba_track_indices`, `mamba_steps_to_track`); -1: nowhere.
    """
    shape, track = GdnShape.of(conv_states, ssm_states), track_slots is not None
    if track != (track_nodes is not None):
        raise ValueError("slots and nodes to track are given together or not at all")
    _gdn_commit[(shape.key_heads, len(slots), len(ssm_states))](
        conv_states,
        ssm_states,
        slots,
        paths,
        last_nodes,
        slots if track_slots is None else track_slots,
        slots if track_nodes is None else track_nodes,
        kept.raw,
        kept.key,
        kept.value,
        kept.decay,
        kept.beta,
        kept.raw.shape[1],
        conv_states.stride(0),
        conv_states.stride(1),
        ssm_states.stride(0),
        ssm_states.stride(1),
        N=paths.shape[1] - 2,
        **shape.constants(),
        TRACK=track,
        PDL=dependent_launch(),
        num_warps=WARPS,
        enable_fp_fusion=False,
        **launch_options(),
    )


def reference_gdn_commit(
    conv_states: torch.Tensor,
    ssm_states: torch.Tensor,
    slots: torch.Tensor,
    paths: torch.Tensor,
    last_nodes: torch.Tensor,
    kept: GdnKept,
    track_slots: torch.Tensor | None = None,
    track_nodes: torch.Tensor | None = None,
) -> None:
    """`gdn_commit` in plain torch."""
    layers, _, value_heads, dv, dk = ssm_states.shape
    nodes = paths.shape[1] - 2
    for layer in range(layers):
        for request, (slot, last) in enumerate(
            zip(slots.tolist(), last_nodes.tolist(), strict=True)
        ):
            if slot < 0 or last < 0:
                continue
            depth, _, *path = paths[request * nodes + last].tolist()
            window, state = conv_states[layer, slot], ssm_states[layer, slot]
            for node in path[: depth + 1]:
                row = request * nodes + node
                raw = kept.raw[layer, row, :, None]
                window = torch.cat([window, raw], 1)[:, -WINDOW:]
                key = kept.key[layer, row].view(-1, 1, dk)
                key = key.repeat_interleave(value_heads // len(key), 0)
                value = kept.value[layer, row].view(value_heads, dv).float()
                state = state * kept.decay[layer, row, :, None, None]
                error = (value - (state * key).sum(2)) * kept.beta[layer, row, :, None]
                state = state + error[:, :, None] * key
                if track_slots is not None and track_nodes is not None:
                    track = int(track_slots[request])
                    if track >= 0 and int(track_nodes[request]) == node:
                        conv_states[layer, track] = window
                        ssm_states[layer, track] = state
            conv_states[layer, slot] = window
            ssm_states[layer, slot] = state
