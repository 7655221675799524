"""Elementwise operations that SGLang has in Triton only."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def gated_rms_norm(
    module: Any,
    x: Tensor,
    g: Tensor,
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
) -> Tensor:
    """RMS norm of x, times an activation of the gate: the forward of SGLang's `FusedRMSNormGated`.

    Args:
        module: has `weight` [D] or None, `bias` (None), `eps` and `activation`.
        x, g: [L, D].
        residual, prenorm, residual_in_fp32: Qwen3-Next passes none of them, nor is any served.

    Returns:
        [L, D] in x's dtype, computed in float32.
    """
    if residual is not None or prenorm or module.bias is not None:
        raise NotImplementedError("the CPU gated RMS norm has no residual and no bias")
    y = F.rms_norm(x.float(), x.shape[-1:], eps=module.eps)
    if module.weight is not None:
        y = y * module.weight.float()
    gate = g.float()
    return (y * (gate.sigmoid() if module.activation == "sigmoid" else F.silu(gate))).to(x.dtype)


def add_gated_shared_expert(
    hidden_states: Tensor, gate_weight: Tensor, shared_output: Tensor, final_hidden_states: Tensor
) -> None:
    """Add the shared expert's output, weighted by a sigmoid gate, to the routed experts' in place.

    Args:
        hidden_states: [L, D], the input of the block; gate_weight: [D].
        shared_output: [L, D].
        final_hidden_states: [L, D], changed in place.
    """
    gate = torch.sigmoid(hidden_states.float() @ gate_weight.float()).unsqueeze(-1)
    final_hidden_states.add_((gate * shared_output.float()).to(final_hidden_states.dtype))
