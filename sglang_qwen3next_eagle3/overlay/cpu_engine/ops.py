"""The operators that SGLang's CPU path expects in `torch.ops.sgl_kernel`."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from sglang_qwen3next_eagle3.overlay.cpu_engine import attention, cache_locs, conv, gdn, tree

OPS: Final[dict[str, Callable[..., Any]]] = {
    "fused_gdn_gating_cpu": gdn.gating,
    "chunk_gated_delta_rule_cpu": gdn.prefill,
    "fused_sigmoid_gating_delta_rule_update_cpu": gdn.decode_or_verify,
    "causal_conv1d_fwd_cpu": conv.prefill,
    "decode_attention_cpu": attention.decode,
    "extend_attention_cpu": attention.extend,
    "build_tree_kernel_efficient_cpu": tree.build,
    "verify_tree_greedy_cpu": tree.verify_greedy,
    "assign_req_to_token_pool_cpu": cache_locs.assign_req_to_token_pool,
    "assign_extend_cache_locs_cpu": cache_locs.assign_extend_cache_locs,
    "assign_draft_cache_locs_contiguous_cpu": cache_locs.assign_draft_cache_locs_contiguous,
    "build_draft_decode_metadata_cpu": cache_locs.build_draft_decode_metadata,
    "fill_bonus_tokens_cpu": cache_locs.fill_bonus_tokens,
    "fill_accept_out_cache_loc_cpu": cache_locs.fill_accept_out_cache_loc,
}
"""Name in the namespace -> function with the compiled operator's parameters (0.5.17)."""


def register(operators: Mapping[str, Callable[..., Any]]) -> None:
    """Put operators into `torch.ops.sgl_kernel`, by their names.

    As attributes: nothing here is compiled or traced, so that schemas and a pass through the
    dispatcher on every call would buy nothing.
    """
    for name, function in operators.items():
        setattr(torch.ops.sgl_kernel, name, function)
