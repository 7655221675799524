"""What SGLang does between its graphs, in fewer launches: which batches are ours, and what stays
SGLang's. The kernels are in kernels.py."""

from collections.abc import Callable
from typing import Any

from sglang_qwen3next_eagle3.overlay import variants

_FULL_MASK = 0
"""Of SGLang's TreeMaskMode."""


def slots(original: Callable[..., None], batch: Any) -> None:
    allocator, table = batch.token_to_kv_pool_allocator, batch.req_to_token_pool.req_to_token
    if (
        allocator.page_size != 1
        or not batch.reqs
        or table.stride(1) != 1
        or not _is_ours(batch.req_pool_indices)
    ):
        original(batch)
        return
    from sglang.srt.mem_cache.allocation import alloc_token_slots
    from sglang.srt.mem_cache.allocation_sizing import get_alloc_reserve_per_decode

    from sglang_qwen3next_eagle3.overlay.seams import kernels

    batch.maybe_evict_swa()
    if batch.sampling_info.penalizer_orchestrator.is_required:
        batch.cumulate_penalty_output_tokens()
    reserve = get_alloc_reserve_per_decode()
    host = variants.host()
    begins, counts = [], []
    for request in batch.reqs:
        held = request.kv.kv_allocated_len
        begins.append(held)
        counts.append(max(0, host.committed(request) + reserve - held))
        request.decode_batch_idx += 1
    host.tell_longest(batch, begins)
    needed = sum(counts)
    if needed:
        slots = alloc_token_slots(batch.tree_cache, needed)
        kernels.place_slots(table, batch.req_pool_indices, slots, begins, counts)
        for request, count in zip(batch.reqs, counts, strict=True):
            request.kv.kv_allocated_len += count


def commit_steps(
    original: Callable[..., Any],
    *,
    batch: Any,
    accept_index: Any,
    accept_lens: Any,
    draft_token_num: int,
) -> Any:
    same = accept_index.dtype == accept_lens.dtype
    if not same or not _is_ours(accept_index, accept_lens, batch.seq_lens):
        return original(
            batch=batch,
            accept_index=accept_index,
            accept_lens=accept_lens,
            draft_token_num=draft_token_num,
        )
    from sglang.srt.runtime_context import get_exec

    from sglang_qwen3next_eagle3.overlay.seams import kernels

    tracked = batch.mamba_track_indices is not None
    interval = get_exec().mamba.mamba_track_interval if tracked else None
    return kernels.commit_steps(
        accept_index, accept_lens, batch.seq_lens, draft_token_num, interval
    )


def stash(original: Callable[..., None], relay: Any, future_indices: Any, payload: Any) -> None:
    pairs = _pairs(relay, payload) if future_indices.shape[0] else None
    tensors = [] if pairs is None else [each for pair in pairs for each in pair]
    if pairs is None or not _is_ours(future_indices, *tensors):
        original(relay, future_indices, payload)
        return
    from sglang_qwen3next_eagle3.overlay.seams import kernels

    kernels.scatter_rows(future_indices, pairs)


def _pairs(relay: Any, payload: Any) -> list[tuple[Any, Any]] | None:
    """What is stashed and where, or None where it is SGLang's to do."""
    if (
        relay.spec_algo.is_ngram()
        or payload.draft_probs is not None
        or payload.dsa_topk_indices is not None
        or not variants.host().has_relay_rows(relay, payload)
    ):
        return None
    pairs = [(payload.bonus_tokens, relay.output_tokens_buf)]
    if relay.need_topk:
        pairs.append((payload.topk_p, relay.topk_p_buf))
        pairs.append((payload.topk_index, relay.topk_index_buf))
    if relay.need_hidden_states:
        pairs.append((payload.hidden_states, relay.hidden_states_buf))
    fits = all(
        source is not None and source.shape[1:] == target.shape[1:] for source, target in pairs
    )
    # A single one is as cheap with SGLang's own.
    return pairs if fits and len(pairs) > 1 else None


def verify_metadata(original: Callable[..., Any], backend: Any, *asked: Any) -> Any:
    bs, seq_lens, req_pool_indices, spec_info = variants.host().of_verify(asked)
    mask = backend._verify_mask
    given = getattr(spec_info, "custom_mask", None)
    # The tree was written where it is read: copying a mask onto itself changes nothing.
    here = given is not None and mask is not None and _starts(given, mask.buffer)
    ours = _has_plain_places(backend, req_pool_indices, seq_lens)
    if not ours or not (given is None or here) or len(seq_lens) != bs:
        return original(backend, *asked)
    from sglang_qwen3next_eagle3.overlay.seams import kernels

    kernels.attention_metadata(
        backend.req_to_token,
        req_pool_indices,
        seq_lens,
        variants.host().verify_tokens(backend, spec_info),
        backend.qo_indptr,
        backend.kv_indptr,
        backend.cuda_graph_kv_indices,
        mask_indptr=backend.mask_indptr,
    )
    whole = bs + 1
    return (
        backend.qo_indptr[:whole],
        backend.kv_indptr[:whole],
        None if given is None else mask.buffer,
        backend.mask_indptr[:whole],
        backend.window_kv_indptr,
        None,
        None,
        None,
    )


def extend_metadata(original: Callable[..., Any], backend: Any, *asked: Any) -> Any:
    bs, seq_lens, req_pool_indices, spec_info, forward_mode = variants.host().of_draft_extend(asked)
    taken = getattr(spec_info, "extend_seq_lens_tensor", None)
    # A runner hands in its whole buffers.
    seq_lens, req_pool_indices = seq_lens[:bs], req_pool_indices[:bs]
    some = [] if taken is None else [taken]
    if not forward_mode.is_draft_extend_v2() or not _has_plain_places(
        backend, req_pool_indices, seq_lens, *some
    ):
        return original(backend, *asked)
    from sglang_qwen3next_eagle3.overlay.seams import kernels

    kernels.attention_metadata(
        backend.req_to_token,
        req_pool_indices,
        seq_lens,
        backend.num_draft_tokens,
        backend.qo_indptr,
        backend.kv_indptr,
        backend.cuda_graph_kv_indices,
        taken=taken,
    )
    whole = bs + 1
    return backend.qo_indptr[:whole], backend.kv_indptr[:whole], backend.num_draft_tokens


def _has_plain_places(backend: Any, *tensors: Any) -> bool:
    """Whether a backend keeps every token's place, and no window of them besides."""
    window = backend.sliding_window_size
    return (
        (window is None or window <= 0)
        and variants.host().reads_slots_as_they_are(backend)
        and _is_ours(backend.req_to_token, backend.qo_indptr, backend.kv_indptr, *tensors)
    )


class Chains:
    """What stands around the building of trees: a chain is built in one launch."""

    def __init__(self) -> None:
        # Nobody writes into links, so a batch size has the same ones in every cycle.
        self._links: dict[tuple[int, int], tuple[Any, ...]] = {}

    def around(
        self,
        original: Callable[..., Any],
        bonus_tokens: Any,
        parent_list: Any,
        top_scores_index: Any,
        draft_tokens: Any,
        seq_lens: Any,
        seq_lens_sum: int,
        topk: int,
        spec_steps: int,
        num_verify_tokens: int,
        tree_mask_mode: Any = 0,
        tree_mask_buf: Any = None,
        fill_prefix_mask: bool = True,
    ) -> Any:
        chain = topk == 1 and spec_steps + 1 == num_verify_tokens
        # A mask of rows over all tokens, in the buffer where it is read.
        fits = tree_mask_buf is not None and int(tree_mask_mode) == _FULL_MASK
        batch = seq_lens.shape[0]
        if (
            not (chain and fits and batch)
            or draft_tokens.shape != (batch, spec_steps)
            or not _is_ours(bonus_tokens, draft_tokens, seq_lens, tree_mask_buf)
        ):
            return original(
                bonus_tokens,
                parent_list,
                top_scores_index,
                draft_tokens,
                seq_lens,
                seq_lens_sum,
                topk,
                spec_steps,
                num_verify_tokens,
                tree_mask_mode,
                tree_mask_buf,
                fill_prefix_mask=fill_prefix_mask,
            )
        from sglang_qwen3next_eagle3.overlay.seams import kernels

        tokens, positions = kernels.chain(
            bonus_tokens, draft_tokens, seq_lens, tree_mask_buf, fills=fill_prefix_mask
        )
        size = batch, num_verify_tokens
        links = self._links.get(size)
        if links is None:
            links = self._links[size] = kernels.chain_links(*size, seq_lens.device)
        return tree_mask_buf, positions, *links, tokens


def _starts(part: Any, whole: Any) -> bool:
    """Whether a tensor is the beginning of another one's memory."""
    return bool(
        part.data_ptr() == whole.data_ptr()
        and part.dtype == whole.dtype
        and part.is_contiguous()
        and part.numel() <= whole.numel()
    )


def _is_ours(*tensors: Any) -> bool:
    return all(tensor.is_cuda and tensor.is_contiguous() for tensor in tensors)
