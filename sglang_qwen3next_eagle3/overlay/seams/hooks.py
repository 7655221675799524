"""The SGLang symbols at the seams of a cycle."""

import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.overlay import contract, proofs, variants
from sglang_qwen3next_eagle3.overlay.hooks import Hook
from sglang_qwen3next_eagle3.overlay.seams import chains
from sglang_qwen3next_eagle3.overlay.seams.agreement import Agreement, size
from sglang_qwen3next_eagle3.overlay.seams.proved import PROVED
from sglang_qwen3next_eagle3.overlay.seams.seams import ALL, WITHIN, Seam

logger = logging.getLogger(__name__)

LOOP = "sglang.srt.managers.scheduler:Scheduler.run_event_loop"
BROADCAST = (
    "sglang.srt.managers.scheduler_components.request_receiver:"
    "SchedulerRequestReceiver._broadcast_reqs_across_ranks"
)
COMMIT_STEPS = "sglang.srt.speculative.spec_utils:_verify_commit_step_indices"
STASH = "sglang.srt.managers.overlap_utils:FutureMap.stash"
TREE = "sglang.srt.speculative.eagle_worker_common:build_tree_kernel_efficient"
CYCLE = "sglang.srt.speculative.eagle_worker_v2:EAGLEWorkerV2.forward_batch_generation"
REPLAY = (
    "sglang.srt.model_executor.runner_backend.full_cuda_graph_backend:FullCudaGraphBackend.replay"
)
CAPTURE = (
    "sglang.srt.model_executor.runner_backend.full_cuda_graph_backend:"
    "FullCudaGraphBackend.capture_one"
)
EXTEND = "sglang.srt.speculative.eagle_worker_v2:EagleDraftWorker._draft_extend_for_decode"
SAMPLE = "sglang.srt.speculative.eagle_worker_common:eagle_sample"
TRACKING = "sglang.srt.speculative.spec_utils:prepare_mamba_track_for_verify"
TO_HOST = "sglang.srt.managers.utils:GenerationBatchResult.copy_to_cpu"
RESOLVE = "sglang.srt.managers.overlap_utils:FutureMap._resolve_spec_extras"
SLOTS = "sglang.srt.speculative.eagle_utils:eagle_prepare_for_decode"
_TRITON = "sglang.srt.layers.attention.triton_backend:TritonAttnBackend"
_FULL_MASK = 0
"""Of SGLang's TreeMaskMode."""
_SHARED = Path("/dev/shm")


def served(wanted: frozenset[Seam], listed: frozenset[str]) -> frozenset[Seam]:
    """Of the seams that are wanted, those that the installed release is served with: all of their
    symbols are listed as hooked in its manifest."""
    found = frozenset(
        seam for seam in wanted if all(hook.target in listed for hook in hooks(frozenset({seam})))
    )
    return found if "cycle" in found else found - set(WITHIN)


def hooks(wanted: frozenset[Seam]) -> tuple[Hook, ...]:
    """Those of the seams that are wanted, on whatever release."""
    return tuple(hook for of_one in _by_seam(wanted).values() for hook in of_one)


class Proved:
    """Which seams serve that nobody asked for. That is settled when the first of their symbols is
    called, which is while graphs are captured: then the GPU and the ranks are known.

    reason: why none does, once that is settled.
    """

    def __init__(self, wanted: frozenset[Seam]) -> None:
        self._wanted = wanted
        self._seams: frozenset[Seam] | None = None
        self.reason: str | None = None

    @property
    def seams(self) -> frozenset[Seam]:
        if self._seams is None:
            self._seams, self.reason = self._settled()
        return self._seams

    def _settled(self) -> tuple[frozenset[Seam], str | None]:
        import torch

        if not torch.cuda.is_available():
            return frozenset(), "they are launches on a GPU"
        installed = contract.installed_sglang()
        release = "unknown" if installed is None else installed.release
        where = release, torch.cuda.get_device_capability(), _ranks()
        found = self._wanted & proofs.proved(PROVED, *where)
        if "relay" in self._wanted - found:
            found -= {"cycle"}  # It was made to take from the relay.
        if "cycle" not in found:
            found -= set(WITHIN)
        return found, proofs.why_not(PROVED, *where, torch.cuda.get_device_name)


def _ranks() -> int:
    from sglang.srt.distributed import get_tensor_model_parallel_world_size

    return int(get_tensor_model_parallel_world_size())


def where_proved(wanted: frozenset[Seam], proved: Proved) -> tuple[Hook, ...]:
    """The same hooks, for seams that nobody asked for: SGLang's functions serve but where one is
    proved."""
    return tuple(
        replace(hook, replacement=_if_proved(hook.replacement, seam, proved))
        for seam, of_one in _by_seam(wanted).items()
        for hook in of_one
    )


def _if_proved(ours: Callable[..., Any], seam: Seam, proved: Proved) -> Callable[..., Any]:
    @functools.wraps(ours)
    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if seam in proved.seams:
            return ours(original, *args, **kwargs)
        return original(*args, **kwargs)

    return around


def _by_seam(wanted: frozenset[Seam]) -> dict[Seam, tuple[Hook, ...]]:
    every: dict[Seam, tuple[Hook, ...]] = {
        "requests": (
            Hook(
                BROADCAST,
                Broadcasts().around,
                "Ranks learn through shared memory that a turn has no requests.",
            ),
        ),
        "commit": (
            Hook(COMMIT_STEPS, _commit_steps, "Which states a verify commits, in one launch."),
        ),
        "relay": (Hook(STASH, _stash, "What a cycle leaves for the next, in one launch."),),
        "metadata": (
            Hook(
                f"{_TRITON}._update_target_verify_buffers",
                _verify_metadata,
                "What attention reads in a verify, in one launch.",
            ),
            Hook(
                f"{_TRITON}._update_draft_extend_buffers",
                _extend_metadata,
                "What attention reads in a draft extend, in one launch.",
            ),
        ),
        "chain": (Hook(TREE, Chains().around, "The tree of a chain, in one launch."),),
        "slots": (Hook(SLOTS, _slots, "Places for a cycle's tokens, without asking the GPU."),),
        "extend": (
            Hook(SAMPLE, chains.sample, "What a recorded verify accepts, in two launches."),
            Hook(EXTEND, chains.draft_extend, "A recorded draft extend, in three launches."),
        ),
        "cycle": _cycle_hooks(wanted) if "cycle" in wanted else (),
        "sampled": (),
    }
    return {seam: every[seam] for seam in ALL if seam in wanted}


def announcing(
    ours: frozenset[Seam], left: frozenset[Seam] = frozenset(), proved: Proved | None = None
) -> Hook:
    """The hook by which the log says which of them are on, once a scheduler is ready, and which
    were wanted and are left to the installed release.

    proved: where nobody asked for them.
    """
    others = ", ".join(_in_order(left))

    def run_event_loop(original: Callable[..., None], scheduler: Any) -> None:
        on = ours if proved is None else proved.seams
        reason = None if proved is None else proved.reason
        place = variants.place(scheduler)
        if place.tp_rank == 0 and reason is not None:
            logger.info("sglang-qwen3next-eagle3: seams off: %s", reason)
        elif place.tp_rank == 0:
            names = ", ".join(_in_order(on)) or "none"
            logger.info("sglang-qwen3next-eagle3: seams on: %s", names)
            if "sampled" in ours and place.tp_size > 1:
                logger.warning("sglang-qwen3next-eagle3: sampled is for one GPU: it is SGLang's")
            if others:
                logger.info("sglang-qwen3next-eagle3: seams that are SGLang's own: %s", others)
            if ours and (doubt := contract.not_on_gpus()):
                logger.warning("sglang-qwen3next-eagle3: seams: %s", doubt)
        if "extend" in on:
            _make_ready(scheduler)
        original(scheduler)

    return Hook(LOOP, run_event_loop, "Says which seams are on.")


def _make_ready(scheduler: Any) -> None:
    import torch

    if torch.cuda.is_available():
        from sglang_qwen3next_eagle3.overlay.seams import ready

        ready.make_ready(scheduler.draft_worker)


def _in_order(seams: frozenset[Seam]) -> Iterator[Seam]:
    return (seam for seam in ALL if seam in seams)


def _cycle_hooks(wanted: frozenset[Seam]) -> tuple[Hook, ...]:
    from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles, prepare_tracking
    from sglang_qwen3next_eagle3.overlay.seams.joining import Joins
    from sglang_qwen3next_eagle3.overlay.seams.plans import copy_to_cpu

    relayed = "relay" in wanted
    cycles = Cycles(relayed=relayed, sampled="sampled" in wanted, joins=Joins())
    relay = (
        Hook(RESOLVE, cycles.resolve, "A recorded cycle takes from the relay by itself."),
        Hook(STASH, cycles.stash, "A recorded cycle leaves in the relay by itself."),
    )
    return (
        Hook(CYCLE, cycles.around, "A plain batch's cycle is handed over as it was recorded."),
        Hook(REPLAY, cycles.replay, "A graph of SGLang's is a step of what is recorded."),
        Hook(
            CAPTURE,
            cycles.capture,
            "A graph of SGLang's is kept, to be a part of a recorded cycle's.",
        ),
        Hook(TRACKING, prepare_tracking, "A recorded cycle was told what is tracked."),
        Hook(TO_HOST, copy_to_cpu, "What a recorded cycle gave is copied at once."),
        *(relay if relayed else ()),
    )


class Broadcasts:
    """What stands around the broadcast of requests: it is left out where there are none."""

    def __init__(self) -> None:
        self._receiver: Any = None
        self._agreement: Agreement | None = None

    def around(
        self,
        original: Callable[..., list[Any]],
        receiver: Any,
        recv_reqs: list[Any] | None,
        *decided: list[Any] | None,
    ) -> list[Any]:
        """decided: of a newer SGLang, aborts that the rank has decided on itself."""
        if receiver is not self._receiver:
            # In the first turn of all ranks alike.
            self._receiver, self._agreement = receiver, _agree(receiver)
        agreement = self._agreement
        if agreement is None:
            return original(receiver, recv_reqs, *decided)
        if agreement.rank == 0:
            some = bool(recv_reqs) or any(decided)
            agreement.tell(some)
            if not some:
                return [] if recv_reqs is None else recv_reqs
            found = original(receiver, recv_reqs, *decided)
            agreement.received_by_all()
            return found
        if not agreement.ask():
            return []
        found = original(receiver, recv_reqs, *decided)
        agreement.received()
        return found


def _agree(receiver: Any) -> Agreement | None:
    """The ranks' agreement, or None on all of them where one of them cannot have it."""
    host = variants.host()
    ps = host.ranks(receiver)
    if ps.tp_size == 1 or host.has_dp_attention():
        return None
    if ps.pp_size > 1 or receiver.server_args.nnodes > 1:
        logger.warning(
            "sglang-qwen3next-eagle3: requests are broadcast in every turn: that is left out on "
            "one node without pipeline stages only"
        )
        return None
    import torch
    from torch import distributed

    group, first = host.requests_group(receiver)
    path = _shared_file(ps.tp_size) if ps.tp_rank == 0 else None
    told = [None if path is None else str(path)]
    distributed.broadcast_object_list(told, src=first, group=group)
    agreement = None
    if told[0] is not None:
        with suppress(OSError, ValueError):
            agreement = Agreement(Path(told[0]), ps.tp_rank, ps.tp_size)
    all_have = torch.tensor([agreement is not None], dtype=torch.int64)
    distributed.all_reduce(all_have, op=distributed.ReduceOp.MIN, group=group)
    if path is not None:
        # All have mapped it, or none needs it: nothing is left behind, whatever ends the server
        # from here on.
        path.unlink(missing_ok=True)
    if not all_have.item():
        if ps.tp_rank == 0:
            logger.warning(
                "sglang-qwen3next-eagle3: requests are broadcast in every turn: the ranks share "
                "no memory"
            )
        return None
    if ps.tp_rank == 0:
        logger.info("sglang-qwen3next-eagle3: requests are broadcast only where there are some")
    return agreement


def _shared_file(ranks: int) -> Path | None:
    folder = _SHARED if os.access(_SHARED, os.W_OK) else None
    name = None
    try:
        handle, name = tempfile.mkstemp(prefix="qwen3next-eagle3-", dir=folder)
        with os.fdopen(handle, "wb") as stream:
            stream.write(bytes(size(ranks)))
    except OSError:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        return None
    return Path(name)


def _slots(original: Callable[..., None], batch: Any) -> None:
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


def _commit_steps(
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


def _stash(original: Callable[..., None], relay: Any, future_indices: Any, payload: Any) -> None:
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


def _verify_metadata(original: Callable[..., Any], backend: Any, *asked: Any) -> Any:
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


def _extend_metadata(original: Callable[..., Any], backend: Any, *asked: Any) -> Any:
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
