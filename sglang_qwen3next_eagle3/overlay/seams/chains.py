"""Between the graphs of a recorded cycle of chains: what SGLang launches, in fewer launches.

Only while a cycle is recorded: what SGLang keeps of these steps on the host besides is not read
again there, and the batch is put back as it was.
"""

from collections.abc import Callable
from typing import Any

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.seams import recording


def draft_extend(original: Callable[..., None], worker: Any, batch: Any, batch_result: Any) -> None:
    """Around a draft worker's draft extend after a verify."""
    if recording.current() is None or not _extends(worker, batch, batch_result):
        original(worker, batch, batch_result)
        return
    from sglang_qwen3next_eagle3.overlay.seams import chain_kernels

    runner, left = worker.cuda_graph_runner_for_draft_extend, batch_result.next_draft_input
    requests, rows = batch.seq_lens.shape[0], batch_result.next_token_ids.shape[0]
    padded = runner._pad_to_bucket(requests, runner.capture_bs)
    chain_kernels.prepare(
        runner.draft_extend_attn_backend,
        runner.buffers,
        padded,
        runner.seq_len_fill_value,
        batch.seq_lens,
        batch.req_pool_indices,
        batch_result.accept_lens,
        batch_result.next_token_ids,
        batch.out_cache_loc,
        batch_result.logits_output.hidden_states,
    )
    # From here on nothing that is shared with the scheduler is read.
    variants.host().say_read_done(runner.model_runner, True)
    out = runner.backend.replay(runner._make_graph_key(padded), None)
    left.topk_p, left.topk_index, left.hidden_states = chain_kernels.leave(
        out.next_token_logits[:rows], out.hidden_states[:rows], batch_result.accept_lens
    )


def _extends(worker: Any, batch: Any, result: Any) -> bool:
    runner, hidden = worker.cuda_graph_runner_for_draft_extend, result.logits_output.hidden_states
    if runner is None or hidden is None or batch.seq_lens_cpu is not None:
        return False
    from sglang.srt.layers.attention.triton_backend import TritonAttnBackend

    backend, buffers = runner.draft_extend_attn_backend, runner.buffers
    nodes, requests = worker.speculative_num_draft_tokens, batch.seq_lens.shape[0]
    given = [batch.seq_lens, batch.req_pool_indices, batch.out_cache_loc]
    given += [result.next_token_ids, result.accept_lens, hidden]
    window, target = backend.sliding_window_size, runner.model_runner
    return bool(
        worker.topk == 1
        and not worker.plan_stream
        and not worker.seed_dsa_topk_from_draft_extend
        and type(backend) is TritonAttnBackend
        and (window is None or window <= 0)
        and backend.num_draft_tokens == runner.captured_req_width == nodes
        and backend.req_to_token.stride(1) == 1
        and not runner.require_gathered_buffer
        and not runner.require_mlp_tp_gather
        and (requests in runner.capture_bs or not runner.disable_padding)
        and requests <= runner.capture_bs[-1]
        and not target.model_config.model_is_mrope
        and not target.ngram_embedding_manager.enabled
        and buffers.hidden_states is not None
        and buffers.hidden_states.shape[1] == hidden.shape[1]
        and buffers.hidden_states.dtype == hidden.dtype
        and getattr(buffers, "dsa_seed_topk_capture", None) is None
        and result.next_token_ids.shape[0] == hidden.shape[0] == requests * nodes
        and batch.out_cache_loc.shape[0] == requests * nodes
        and are_ours(*given, buffers.hidden_states)
    )


def sample(
    original: Callable[..., Any], verify_input: Any, batch: Any, logits_output: Any, *others: Any
) -> Any:
    """Around the choice of what a verify accepts."""
    logits = logits_output.next_token_logits
    greedy = batch.sampling_info.is_all_greedy and not any(each is not None for each in others)
    if (
        recording.current() is None
        or not greedy
        or verify_input.tree_topk != 1
        or verify_input.max_tree_depth != verify_input.draft_token_num
        or logits.dim() != 2
        or not are_ours(logits, verify_input.draft_token)
    ):
        return original(verify_input, batch, logits_output, *others)
    from sglang.srt.utils.async_probe import sanitize_nan_logits

    from sglang_qwen3next_eagle3.overlay.seams import chain_kernels

    sanitize_nan_logits(logits, "verify: target model logits")
    candidates = verify_input.draft_token.reshape(-1, verify_input.draft_token_num)
    return chain_kernels.accept(logits, candidates)


def are_ours(*tensors: Any) -> bool:
    """Whether kernels can read them: on a GPU, rows behind each other."""
    return all(tensor.is_cuda and tensor.is_contiguous() for tensor in tensors)
