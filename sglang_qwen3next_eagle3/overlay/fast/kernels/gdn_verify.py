"""The tokens of a verify through Gated DeltaNet: chains and trees, without snapshots of states.

    gdn_verify: as gdn_decode for T = B * n rows of draft trees; the states stay as they are, and
                each node's inputs of the recurrence are kept (`GdnKept`)
    gdn_commit: after acceptance, the kept inputs on the accepted path into the states of all
                layers in one launch

One program of gdn_verify walks from the committed state to one leaf of the tree (tree.py), for one
value head; it writes the outputs of the nodes that belong to that leaf. A chain is one walk. A step
is that of gdn_decode, the same function, so that outputs, and states after the commit, are bit for
bit those of decoding the path token by token.
"""

from dataclasses import dataclass

import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_decode import (
    WINDOW,
    GdnOutput,
    reference_gdn_decode,
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
    early_state as in gdn_decode: the commit must not run in the same graph before this.
    The rest as in gdn_decode.
    """
    raise NotImplementedError


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
    raise NotImplementedError


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
