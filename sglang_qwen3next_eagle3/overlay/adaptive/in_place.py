"""With 0 steps the states of Gated DeltaNet are updated where they are, as without speculation.

A verify keeps the state behind each of its nodes, and a commit copies that of the last accepted one
into the pool: of a state of 2 MiB a layer and request (fp32, 32 heads of 128 by 128) that is twice
the memory traffic of a decode step. With 0 steps a verify is of one node, the token that is known
already. It is always accepted, so nothing has to be kept: the layer takes its decode step, and the
commit has only to copy what a prefix cache tracks.

Where the fast path has a pass, neither is asked: its verify keeps inputs in place of states.
"""

import copy
import logging
from collections.abc import Callable
from typing import Any, Final

from sglang_qwen3next_eagle3.overlay.hooks import Hook

logger = logging.getLogger(__name__)

EXTEND: Final = "sglang.srt.layers.attention.linear.gdn_backend:GDNAttnBackend.forward_extend"
COMMIT: Final = (
    "sglang.srt.layers.attention.hybrid_linear_attn_backend:"
    "HybridLinearAttnBackend.update_mamba_state_after_mtp_verify"
)
_DONE: Final = "qwen3next_eagle3_in_place"
"""Of a backend: where the slots of passes lie whose states are updated. Each captured size has a
buffer of its own, which is the same when its graph is replayed."""


def _extend(
    original: Callable[..., Any], backend: Any, layer: Any, forward_batch: Any, **of: Any
) -> Any:
    if not forward_batch.forward_mode.is_target_verify():
        return original(backend, layer=layer, forward_batch=forward_batch, **of)
    done: set[int] = backend.__dict__.setdefault(_DONE, set())
    slots = backend.forward_metadata.mamba_cache_indices.data_ptr()
    if not _is_of_one_node(backend, layer, forward_batch):
        done.discard(slots)
        return original(backend, layer=layer, forward_batch=forward_batch, **of)
    if not done:
        line = "sglang-qwen3next-eagle3: with 0 steps stock's states are updated in place"
        logger.info(line)
    done.add(slots)
    # What is tracked is known behind the verify.
    step = copy.copy(forward_batch)
    step.mamba_track_mask = None
    return backend.forward_decode(layer=layer, forward_batch=step, **of)


def _is_of_one_node(backend: Any, layer: Any, batch: Any) -> bool:
    spec = batch.spec_info
    if getattr(spec, "draft_token_num", None) != 1 or spec.ragged_verify_layout is not None:
        return False
    if backend.forward_metadata.retrieve_parent_token is not None:
        return False
    if backend._track_pools() is None:
        return False
    states = backend.req_to_token_pool.mamba2_layer_cache(layer.layer_id)
    # With a ring of inputs decode and verify write it each in a way of its own.
    return states.replayssm_d is None and getattr(states, "replayssm_rawv", None) is None


def _commit(
    original: Callable[..., Any],
    backend: Any,
    last_correct_step_indices: Any,
    mamba_track_indices: Any,
    mamba_steps_to_track: Any,
    *args: Any,
    **of: Any,
) -> Any:
    linear, requests = backend.linear_attn_backend, last_correct_step_indices.shape[0]
    slots = linear.forward_metadata.mamba_cache_indices
    if slots.data_ptr() not in linear.__dict__.get(_DONE, ()):
        tracked = mamba_track_indices, mamba_steps_to_track
        return original(backend, last_correct_step_indices, *tracked, *args, **of)
    if mamba_track_indices is not None:
        from sglang.kernels.ops.mamba.mamba_state_scatter_triton import (
            track_mamba_states_all_layers,
        )

        windows, states, _ = linear._track_pools()
        track_mamba_states_all_layers(
            windows, states, slots[:requests], mamba_steps_to_track >= 0, mamba_track_indices,
            requests, check_freed_slots=True,
        )  # fmt: skip
    return None


def hooks() -> tuple[Hook, ...]:
    """To be put in place before those of the fast path, which ask for stock's verify and commit
    where a pass is not theirs."""
    return (
        Hook(EXTEND, _extend, "A verify of one token updates the states as a decode step does."),
        Hook(COMMIT, _commit, "What is up to date already needs no commit."),
    )
