"""The short causal convolution before Qwen3-Next's linear attention.

D channels, W taps. The state of a request is its last W - 1 inputs, oldest first: [D, W - 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def prefill(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv_states: Tensor,
    query_start_loc: Tensor,
    cache_indices: Tensor,
    has_initial_state: Tensor,
    silu: bool,
    pad_slot_id: int,
    is_vnni: bool,
) -> Tensor:
    """Whole sequences, one after the other.

    Args:
        x: [D, L], the sequences side by side.
        weight: [D, W]; bias: [D] or None.
        conv_states: [slots, D, W - 1]; the slots of the sequences are overwritten.
        query_start_loc: [B + 1], where each sequence starts among the L columns.
        cache_indices: [B], slots; `pad_slot_id` marks padding, which is skipped.
        has_initial_state: [B], whether a sequence continues from its slot or starts from zeros.
        is_vnni: a memory layout of the AMX kernel; without meaning here.

    Returns:
        [D, L], zeros for padding.
    """
    inputs = x.mT
    out = torch.zeros_like(inputs)
    bounds = query_start_loc.tolist()
    sequences = zip(
        cache_indices.tolist(), has_initial_state.tolist(), bounds, bounds[1:], strict=False
    )
    for slot, continues, start, end in sequences:
        if slot == pad_slot_id or start == end:
            continue
        past = conv_states[slot].mT.to(x.dtype)
        history = torch.cat((past if continues else torch.zeros_like(past), inputs[start:end]))
        windows = history.unfold(0, weight.shape[1], 1).mT
        out[start:end] = _convolve(windows, weight, bias, silu)
        conv_states[slot] = history[-past.shape[0] :].mT.to(conv_states.dtype)
    return out.mT


def decode_or_verify(
    x: Tensor,
    conv_states: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: bool | str | None = None,
    *,
    conv_state_indices: Tensor,
    intermediate_conv_window: Tensor | None = None,
    intermediate_state_indices: Tensor | None = None,
    retrieve_next_token: Tensor | None = None,
    retrieve_next_sibling: Tensor | None = None,
    retrieve_parent_token: Tensor | None = None,
) -> Tensor:
    """T tokens of each request: one when decoding, a draft chain or tree when verifying.

    Args:
        x: [B, D] (T = 1) or [B, D, T].
        conv_states: [slots, D, W - 1]. When decoding, the slots of the requests move on by T
            tokens. When verifying they stay: the caller commits one of the intermediate windows.
        weight: [D, W]; bias: [D] or None.
        activation: "silu" or "swish" (or True), or None.
        conv_state_indices: [>= B], slots; a negative one marks padding, whose state is not kept.
        intermediate_conv_window: [rows, >= T, D, W - 1]; given means verify, and it receives the
            state after every token.
        intermediate_state_indices: [>= B], the row of that buffer for each request.
        retrieve_next_token, retrieve_next_sibling: [>= B, T], the links of a draft tree; None for a
            chain.
        retrieve_parent_token: [>= B, T], written for a draft tree: the parent of every token. The
            gated delta rule of the same layer reads it.

    Returns:
        A tensor of x's shape.
    """
    inputs = x.unsqueeze(1) if x.dim() == 2 else x.mT
    batch, steps, _ = inputs.shape
    slots = conv_state_indices[:batch].long()
    past = conv_states[slots.clamp(min=0)].mT.to(x.dtype)

    parents = torch.arange(-1, steps - 1).expand(batch, steps)
    if retrieve_next_token is not None:
        assert retrieve_next_sibling is not None
        assert retrieve_parent_token is not None
        parents = parents_from_links(retrieve_next_token[:batch], retrieve_next_sibling[:batch])
        retrieve_parent_token[:batch] = parents

    history = torch.cat((past, inputs), 1)
    positions = _window_positions(parents, past.shape[1])
    windows = history[torch.arange(batch)[:, None, None], positions]
    out = _convolve(windows, weight, bias, activation in (True, "silu", "swish"))

    after = windows[:, :, 1:].mT
    if intermediate_conv_window is not None:
        assert intermediate_state_indices is not None
        rows = intermediate_state_indices[:batch].long()
        intermediate_conv_window[rows, :steps] = after.to(intermediate_conv_window.dtype)
    else:
        real = slots >= 0
        conv_states[slots[real]] = after[real, -1].to(conv_states.dtype)
    return out.squeeze(1) if x.dim() == 2 else out.mT


def parents_from_links(next_token: Tensor, next_sibling: Tensor) -> Tensor:
    """Invert the links of a draft tree.

    Args:
        next_token, next_sibling: [B, T], first child and next sibling of every token, -1 for none.

    Returns:
        [B, T], the parent of every token. The root's own entry is 0, and so is that of a token
        that nothing links to: it can never be accepted, and only has to be computed without harm.
    """
    parents = torch.zeros_like(next_token)
    links = zip(next_token.tolist(), next_sibling.tolist(), strict=True)
    for row, (children, siblings) in enumerate(links):
        for parent, child in enumerate(children):
            while child != -1:
                parents[row, child] = parent
                child = siblings[child]
    return parents


def _window_positions(parents: Tensor, past: int) -> Tensor:
    """Where the inputs of every token's window are in (state, draft tokens).

    Args:
        parents: [B, T]; a token comes after its parent, and the first token follows the state.
        past: W - 1, the inputs in the state.

    Returns:
        [B, T, W]: the parent's window without its oldest input, then the token itself.
    """
    batch, steps = parents.shape
    requests = torch.arange(batch)
    windows = torch.empty(batch, steps, past + 1, dtype=torch.long)
    for t in range(steps):
        windows[:, t, :past] = windows[requests, parents[:, t], 1:] if t else torch.arange(past)
        windows[:, t, past] = past + t
    return windows


def _convolve(windows: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """[..., W, D] -> [..., D], summed in float32, in the windows' dtype."""
    out = (windows.float() * weight.float().mT).sum(-2)
    if bias is not None:
        out = out + bias.float()
    return (F.silu(out) if silu else out).to(windows.dtype)
