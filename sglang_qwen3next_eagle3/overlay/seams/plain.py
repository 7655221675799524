"""Of which batches, workers and relays of SGLang's a cycle can be recorded."""

from typing import Any, Final

import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.requests.penalties import wants_penalties

_NOT_HELD: Final = (
    "input_embeds", "replace_embeds", "replace_positions", "ne_token_table",
    "ne_skip_token_table_update", "out_cache_loc_dsv4", "encoder_lens", "encoder_out_cache_loc",
    "seq_lens_cpu", "seq_lens_sum", "global_num_tokens", "dllm_config", "engram_history",
    "engram_staged_rows", "dp_spec_prefill_coordination_metadata", "draft_global_num_tokens",
    "beam_tail",
)  # fmt: skip
"""Of SGLang's `ScheduleBatch`: what a recording holds no place for."""
_NEEDS: Final = ("need_top_k_sampling", "need_top_p_sampling", "need_min_p_sampling")
"""Which of them it reads: batches that differ in it launch other kernels."""


def is_plain(batch: Any) -> bool:
    """Whether a cycle of this `ScheduleBatch` depends on its size, on `inputs_of` and on what is
    asked of sampling only."""
    info, spec = batch.sampling_info, batch.spec_info
    return bool(
        batch.forward_mode.is_decode()
        and not batch.is_extend_in_batch
        and not batch.has_grammar
        and not batch.return_logprob
        and not batch.return_hidden_states
        and info.acc_additive_penalties is None
        and info.acc_scaling_penalties is None
        and info.logit_bias is None
        and not info.has_custom_logit_processor
        and not getattr(info, "has_watermark_candidates", False)
        and spec is not None
        and spec.topk_p is not None
        and spec.topk_index is not None
        and spec.hidden_states is not None
        and spec.bonus_tokens is not None
        and spec.draft_probs is None
        and spec.dsa_topk_indices is None
        and all(getattr(batch, name, None) is None for name in _NOT_HELD)
        and not any(wants_penalties(request.sampling_params) for request in batch.reqs)
    )


def drawn(batch: Any) -> tuple[bool, ...] | None:
    """What is asked of sampling; None where nothing is drawn."""
    info = batch.sampling_info
    return None if info.is_all_greedy else tuple(bool(getattr(info, name)) for name in _NEEDS)


def hindrance(worker: Any) -> str | None:
    from sglang.srt.environ import envs
    from sglang.srt.model_executor.runner_backend.full_cuda_graph_backend import (
        FullCudaGraphBackend,
    )
    from sglang.srt.speculative import spec_utils
    from sglang.srt.speculative.eagle_worker_v2 import EAGLEWorkerV2

    host = variants.host()
    args, draft = variants.arguments_of(worker), worker.draft_worker
    target = worker.target_worker.model_runner
    graphs = [draft.cuda_graph_runner_for_draft_extend, target.decode_cuda_graph_runner]
    if worker.speculative_num_steps > 1:
        graphs.append(draft.cuda_graph_runner)
    backends = [getattr(runner, "backend", None) for runner in graphs]
    reasons = {
        "this worker": type(worker) is not EAGLEWorkerV2,
        "another device": not target.device.startswith("cuda"),
        "graphs of another kind": any(type(each) is not FullCudaGraphBackend for each in backends),
        "the default stream": torch.cuda.current_stream() == torch.cuda.default_stream(),
        "a stream for plans": bool(worker.plan_stream) or bool(draft.plan_stream),
        "DP attention": host.has_dp_attention(),
        "--pp-size": args.pp_size > 1,
        "--enable-lora": bool(args.enable_lora),
        "--enable-two-batch-overlap": args.enable_two_batch_overlap,
        "--enable-pdmux": args.enable_pdmux,
        "--enable-unified-memory": bool(getattr(args, "enable_unified_memory", False)),
        "--enable-memory-saver": args.enable_memory_saver,
        "--speculative-use-rejection-sampling": args.speculative_use_rejection_sampling,
        "--disaggregation-mode": args.disaggregation_mode != "null",
        "returned routings": bool(getattr(args, "enable_return_routed_experts", False)),
        "timers on the device": target.device_timer is not None,
        "--enable-eplb": bool(args.enable_eplb),
        "--expert-distribution-recorder-mode": args.expert_distribution_recorder_mode is not None,
        "--msprobe-dump-config": args.msprobe_dump_config is not None,
        "a canary": target.canary_manager is not None
        or draft.draft_runner.canary_manager is not None,
        "SGLANG_SIMULATE_ACC_LEN": envs.SGLANG_SIMULATE_ACC_LEN.get() > 0
        or spec_utils.SIMULATE_ACC_TOKEN_MODE != "fixed",
        **host.hindrances(worker),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def holds_all(relay: Any) -> bool:
    """Whether this relay holds all that a cycle takes and leaves, and nothing else."""
    from sglang.srt.managers import overlap_utils

    return bool(
        relay is not None
        and variants.host().is_relay_made(relay)
        and relay.publish_ready is not None
        and relay.need_topk
        and relay.need_hidden_states
        and not relay.needs_confidence_relay
        and not relay.spec_algo.is_ngram()
        and relay.draft_probs_buf is None
        and relay.dsa_topk_indices_buf is None
        and not overlap_utils._DEBUG_ASSERT
    )
