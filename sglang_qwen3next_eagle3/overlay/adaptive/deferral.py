"""With 0 steps the head's cache is filled for several cycles at once.

With 0 steps SGLang has the head extend its cache by one token of each request in every cycle, for
drafts that may begin again. Nobody reads what that leaves until they do. So a cycle keeps what the
extend would have read, the target's hidden states, the token and where it lies, and the head's keys
and values are written for all that was kept at once (head_cache.py): with one layer those of a
token are of that token alone. That is when

- the number of steps changes: before the switch, so that the cache is whole when drafts begin,
- anything else is to be computed: a prefill, or a cycle of other requests. So it is done before
  what a request has left, its slots of the pool and its places in the caches, is written by others,
- so many cycles were kept as there is room for.

Before a switch and before a prefill SGLang's extend is run for the last of the cycles, as it would
have been: it leaves the first drafts. Otherwise none begin.

Which cycles are kept is a matter of their requests and of the steps, and the same on all ranks.
Texts are the target's either way.
"""

import copy
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.adaptive import head_cache
from sglang_qwen3next_eagle3.overlay.adaptive.head_cache import HeadCache
from sglang_qwen3next_eagle3.overlay.adaptive.policy import CostedSteps
from sglang_qwen3next_eagle3.overlay.environment import DEFER
from sglang_qwen3next_eagle3.overlay.hooks import Hook
from sglang_qwen3next_eagle3.overlay.seams.chains import are_ours
from sglang_qwen3next_eagle3.overlay.seams.recording import current

logger = logging.getLogger(__name__)

CYCLE = "sglang.srt.speculative.eagle_worker_v2:EAGLEWorkerV2.forward_batch_generation"
EXTEND = "sglang.srt.speculative.eagle_worker_v2:EagleDraftWorker._draft_extend_for_decode"
APPLY = "sglang.srt.speculative.eagle_worker_v2:EAGLEWorkerV2.apply_runtime_state"
RESOLVE = "sglang.srt.managers.overlap_utils:FutureMap._resolve_spec_extras"

TOKENS: Final = 2048
"""Of all requests that are filled at once: what of a prefill SGLang computes at once or less."""
_ROOM: Final = 2**28
"""Bytes of the GPU's memory that are taken for what is kept."""
_OF_PREFILLS: Final = (
    "mamba_cow_src_indices", "mamba_cow_dst_indices", "mamba_clear_indices",
    "extend_input_logprob_token_ids",
)  # fmt: skip


class Deferral:
    """What stands around a worker's cycle, its draft extend and its switches."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._worker: Any = None
        self._relay: Any = None
        self._tokens: int | None = None
        """That may be kept; None: not asked yet."""
        self._cache: Any = None
        self._keeps = self._fills = False
        """Whether the cycle under way keeps its extend; whether kept ones are made up for."""
        self._count = 0
        """Cycles that are kept, all of `_batch`."""
        self._batch: Any = None
        self._rids: tuple[str, ...] = ()
        self._slots: Any = None
        self._lengths: Any = None
        """Of the last cycle on the host, where SGLang has them there."""
        self._hidden: Any = None
        self._others: Any = None
        """By slot of the pool and cycle: hidden states, and token, position and place."""
        self._drafts: tuple[dict[str, int], tuple[Any, Any, Any]] | None = None
        """Where drafts begin: by request its row."""

    def cycle(
        self, original: Callable[..., Any], worker: Any, batch: Any, *args: Any, **of: Any
    ) -> Any:
        mode = batch.forward_mode
        if mode.is_extend() or batch.is_extend_in_batch or mode.is_idle():
            self._fill()
            return original(worker, batch, *args, **of)
        # It is what the original begins with. What is kept is made up for before a switch.
        worker.activate_step_by_batch(batch.seq_lens.shape[0])
        rids = tuple(request.rid for request in batch.reqs)
        if self._count and (rids != self._rids or self._count >= self._room(len(rids))):
            # No drafts begin: for them the steps would have changed.
            self._fill(first_drafts=False)
        self._keeps = worker.speculative_num_steps == 0 and self._room(len(rids), worker) > 1
        if self._keeps and not self._count:
            self._worker, self._rids, self._batch = worker, rids, copy.copy(batch)
            # On the stream that will read it.
            self._slots = batch.req_pool_indices.clone()
        if worker.speculative_num_steps:
            self._begin(batch, rids)
        self._drafts = None
        try:
            result = original(worker, batch, *args, **of)
            self._count += self._keeps
            return result
        finally:
            self._keeps = False

    def extend(
        self, original: Callable[..., None], draft_worker: Any, batch: Any, result: Any
    ) -> None:
        if not self._keeps or self._fills:
            original(draft_worker, batch, result)
            return
        recording, hidden = current(), result.logits_output.hidden_states
        if self._hidden is None:
            self._make(batch.req_to_token_pool.req_to_token.shape[0], hidden)
        # A recorded cycle asks at each run.
        if recording is None:
            at = torch.full((1,), self._count, dtype=torch.int32, device=hidden.device)
        else:
            at = recording.number(lambda: self._count)
        others = result.next_token_ids, batch.seq_lens, batch.out_cache_loc
        self._keep(batch.req_pool_indices, at, others, hidden)
        self._lengths = None if batch.seq_lens_cpu is None else batch.seq_lens_cpu.clone()
        # The next cycle of 0 steps reads the last token only.
        self._worker._stub_skipped_draft_extend(batch, result)
        if recording is not None:
            recording.passed()
        elif hidden.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            variants.host().say_read_done(variants.host().last_reader(self._worker), event)

    def apply(self, original: Callable[..., None], worker: Any, state: Any) -> None:
        if state.speculative_num_steps != worker.speculative_num_steps:
            self._fill()
        original(worker, state)

    def resolve(self, original: Callable[..., None], relay: Any, batch: Any) -> None:
        # A switch within may leave drafts there, before they are taken.
        self._relay = relay
        original(relay, batch)

    def _room(self, requests: int, worker: Any = None) -> int:
        """Cycles of so many requests that may be kept."""
        if worker is not None and self._tokens is None:
            self._most = most = min(self._most, cycles_in_memory(worker))
            why = hindrance(worker, most)
            self._tokens = TOKENS if why is None else 0
            said = f"in each cycle, with {why}"
            if why is None:
                self._cache = HeadCache(worker.draft_worker.draft_runner)
                said = f"up to {most} cycles of 0 steps at once"
            logger.info("sglang-qwen3next-eagle3: extends of the head: %s", said)
        return min(self._most, (self._tokens or 0) // max(1, requests))

    def _make(self, slots: int, hidden: torch.Tensor) -> None:
        shape, device = (slots * self._most, hidden.shape[1]), hidden.device
        self._hidden = torch.zeros(shape, dtype=hidden.dtype, device=device)
        self._others = torch.zeros((shape[0], 3), dtype=torch.int64, device=device)

    def _keep(self, slots: Any, at: Any, others: tuple[Any, Any, Any], hidden: Any) -> None:
        if are_ours(slots, hidden, *others):
            from sglang_qwen3next_eagle3.overlay.seams import chain_kernels

            kept = self._hidden, self._others
            chain_kernels.put_off(slots, at, self._most, others, hidden, *kept)
            return
        places = slots.long() * self._most + at
        self._hidden.index_copy_(0, places, hidden)
        self._others.index_copy_(0, places, torch.stack([one.long() for one in others], 1))

    def _fill(self, first_drafts: bool = True) -> None:
        """Make up for all that is kept. first_drafts: leave those, too."""
        count, self._count = self._count, 0
        if not count:
            return
        draft = self._worker.draft_worker
        cycles = torch.arange(count, device=self._slots.device)
        # A cycle of all requests behind the other, so that the last one's are in one piece.
        rows = (self._slots.long() * self._most + cycles[:, None]).reshape(-1)
        hidden = self._hidden[rows]
        # Each in one piece, too, as SGLang's kernels read them.
        tokens, lengths, places = self._others[rows].t().contiguous().unbind(0)
        last = slice((count - first_drafts) * self._slots.shape[0], None)
        with draft.draft_tp_context(draft.draft_runner.tp_group):
            if last.start:
                of = slice(0, last.start)
                self._cache.fill(tokens[of], lengths[of], places[of], hidden[of])
            if first_drafts:
                self._extend_last(tokens[last], lengths[last], places[last], hidden[last])
        # Both have read what is kept here; what runs next has not.
        variants.host().say_read_done(variants.host().last_reader(self._worker), None)

    def _extend_last(self, tokens: Any, lengths: Any, places: Any, hidden: Any) -> None:
        """SGLang's extend of a cycle of the kept batch, and the drafts that it leaves."""
        slots, batch = self._slots, copy.copy(self._batch)
        vars(batch).update(dict.fromkeys(_OF_PREFILLS))
        batch.mamba_track_indices = batch.mamba_track_mask = batch.mamba_track_seqlens = None
        batch.seq_lens, batch.out_cache_loc = lengths.to(self._batch.seq_lens.dtype), places
        batch.req_pool_indices = slots
        batch.seq_lens_cpu, batch.seq_lens_sum = self._lengths, None
        if self._lengths is not None:
            batch.seq_lens_sum = int(self._lengths.sum())
        given = SimpleNamespace(
            logits_output=SimpleNamespace(hidden_states=hidden),
            accept_lens=torch.ones(slots.shape[0], dtype=torch.int32, device=slots.device),
            next_token_ids=tokens,
            next_draft_input=SimpleNamespace(),
        )
        self._fills = True
        try:
            self._worker.draft_worker._draft_extend_for_decode(batch, given)
        finally:
            self._fills = False
        left = given.next_draft_input
        drafts = left.topk_p, left.topk_index, left.hidden_states
        if (relay := self._relay) is not None:
            buffers = relay.topk_p_buf, relay.topk_index_buf, relay.hidden_states_buf
            for buffer, values in zip(buffers, drafts, strict=True):
                buffer[slots] = values.to(buffer.dtype)
        self._drafts = {rid: row for row, rid in enumerate(self._rids)}, drafts

    def _begin(self, batch: Any, rids: tuple[str, ...]) -> None:
        """The first drafts, where they were taken from the relay before they were there."""
        spec = batch.spec_info
        if self._drafts is None or spec is None or spec.topk_p is None:
            return
        of, drafts = self._drafts
        found = [(place, of[rid]) for place, rid in enumerate(rids) if rid in of]
        if not found or spec.topk_p.shape[0] != len(rids):
            return
        of_both = torch.tensor(found)
        if spec.topk_p.is_cuda:
            # The host would wait for all that is launched.
            of_both = of_both.pin_memory().to(spec.topk_p.device, non_blocking=True)
        places, rows = of_both.unbind(1)
        names = "topk_p", "topk_index", "hidden_states"
        for name, values in zip(names, drafts, strict=True):
            known = getattr(spec, name)
            setattr(spec, name, known.index_copy(0, places, values[rows].to(known.dtype)))


def cycles_in_memory(worker: Any) -> int:
    """How many there is room for of all requests that a worker may have."""
    config = worker.draft_worker.draft_runner.model_config
    slots = worker.target_worker.model_runner.req_to_token_pool.req_to_token.shape[0]
    # The target's states of a token: three layers', as heads read them.
    return int(_ROOM // (slots * config.hidden_size * 3 * config.dtype.itemsize))


def hindrance(worker: Any, most: int) -> str | None:
    """Why nothing is kept, or None."""
    from sglang.srt.environ import envs
    from sglang.srt.speculative.eagle_worker_v2 import EAGLEWorkerV2

    args, draft = variants.arguments_of(worker), worker.draft_worker
    target, controller = worker.target_worker.model_runner, worker.adaptive_controller
    slots = target.req_to_token_pool.req_to_token.shape[0]
    reasons = {
        f"{slots} slots for requests": cycles_in_memory(worker) < 2,
        f"{DEFER}={most}": most < 2,
        "this worker": type(worker) is not EAGLEWorkerV2,
        # It calls no extend then.
        "SGLANG_SPEC_SKIP_ZERO_STEP_DRAFT_EXTEND": (
            envs.SGLANG_SPEC_SKIP_ZERO_STEP_DRAFT_EXTEND.get()
        ),
        # By its own rule it switches while it reads results, on the scheduler's stream.
        "steps that SGLang chooses": not isinstance(
            getattr(controller, "params", None), CostedSteps
        ),
        "a tree": worker.topk != 1,
        "DP attention": variants.host().has_dp_attention(),
        "--pp-size": args.pp_size > 1,
        "a stream for plans": bool(worker.plan_stream) or bool(draft.plan_stream),
        "--enable-lora": bool(args.enable_lora),
        "--enable-hierarchical-cache": args.enable_hierarchical_cache,
        "--enable-memory-saver": args.enable_memory_saver,
        "--disaggregation-mode": args.disaggregation_mode != "null",
        "--speculative-use-rejection-sampling": args.speculative_use_rejection_sampling,
        "a canary": target.canary_manager is not None
        or draft.draft_runner.canary_manager is not None,
    }
    found = next((reason for reason, holds in reasons.items() if holds), None)
    return head_cache.hindrance(worker) if found is None else found


def hooks(most: int) -> tuple[Hook, ...]:
    kept = Deferral(most)
    return (
        Hook(CYCLE, kept.cycle, "What the head has put off is made up for before others compute."),
        Hook(EXTEND, kept.extend, "With 0 steps the head's cache is filled for cycles at once."),
        Hook(APPLY, kept.apply, "The head's cache is whole before the steps change."),
        Hook(RESOLVE, kept.resolve, "Where first drafts are taken from is where they are left."),
    )
