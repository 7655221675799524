"""A whole cycle of speculation of a plain batch, recorded once for each batch size.

SGLang makes each cycle of three graphs and, between them, of a hundred small launches that Python
prepares anew. Where a batch is plain (greedy, without grammar, penalties, logprobs), these depend
on the batch's size and on tensors only. So what SGLang itself launches for a batch of a size is
recorded the third time, as graphs between its own, and handed over from then on: the same kernels
on the same memory in the same order, without the host's work. Where CUDA and torch allow it, its
own graphs become parts of one with what is between them (joining.py): then a cycle is one launch.

A batch with sampled requests depends on their temperatures and limits besides, and on numbers that
are drawn in it. torch draws in a graph what it would have drawn without: a graph asks the generator
at each replay where it stands, and leaves it where the same draws would have.

Ranks of tensor parallelism decide alone what they record: memory, an error or a refusal may be one
rank's. A greedy cycle's sums over ranks are all within SGLang's graphs, which both kinds of cycle
run once each and in one order, so that ranks of both kinds meet and have the same tokens; they wait
for the slowest.
"""

import copy
import gc
import logging
import operator
import traceback
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.cycle.phases import GRAPH_OF
from sglang_qwen3next_eagle3.overlay.requests.penalties import wants_penalties
from sglang_qwen3next_eagle3.overlay.seams.joining import Joins, NotJoinable, keep
from sglang_qwen3next_eagle3.overlay.seams.recording import (
    Graph,
    GraphRecording,
    NotRecordable,
    current,
)

logger = logging.getLogger(__name__)

_SEEN: Final = 2
"""Cycles of a size that are SGLang's before one is recorded: its kernels are compiled in them."""
_MOST: Final = 32
"""Sizes beyond which no more are recorded, of each state of a worker: each takes memory."""
_FLOOR: Final = 2**30
"""Bytes of the GPU's memory that have to be free before a cycle is recorded. SGLang does not reckon
with what recordings take, and its next prefill must not be what finds nothing left."""
_KEPT: Final = 4
"""Cycles of a size whose tokens are kept, so that none waits until the last one's are copied."""
_TO_HOST: Final = "_qwen3next_eagle3_to_host"
_NOT_HELD: Final = (
    "input_embeds", "replace_embeds", "replace_positions", "ne_token_table",
    "ne_skip_token_table_update", "out_cache_loc_dsv4", "encoder_lens", "encoder_out_cache_loc",
    "seq_lens_cpu", "seq_lens_sum", "global_num_tokens", "dllm_config", "engram_history",
    "engram_staged_rows", "dp_spec_prefill_coordination_metadata", "draft_global_num_tokens",
    "beam_tail",
)  # fmt: skip
"""Of SGLang's `ScheduleBatch`: what a recording holds no place for."""
_OF_PREFILLS: Final = (
    "mamba_cow_src_indices", "mamba_cow_dst_indices", "mamba_clear_indices",
    "extend_input_logprob_token_ids",
)  # fmt: skip
"""What a prefill leaves in a batch until its size changes, so that a request which is served alone
keeps it to its end; SGLang applies it in prefills only."""

_SAMPLING: Final = ("temperatures", "top_ps", "top_ks", "min_ps")
"""Tensors [B, ...] of SGLang's `SamplingBatchInfo` that sampling reads."""
_NEEDS: Final = ("need_top_k_sampling", "need_top_p_sampling", "need_min_p_sampling")
"""Which of them it reads: batches that differ in it launch other kernels."""
_SAMPLED_ROWS: Final = 64
"""Rows that are verified in a sampled batch at most: the graphs' memory holds some five tensors of
fp32 over the vocabulary, 0.6 MB a row each, that SGLang would hold for a moment only."""
_OF_STEPS: Final = ("_topk1_parents_prealloc", "_topk1_score_indices_prealloc")


class CyclePlan:
    """A recorded cycle of batches of one size."""

    def __init__(
        self, recording: GraphRecording, given: list[torch.Tensor], draft_tokens: int
    ) -> None:
        """given: tensors by which a batch differs from others, the first [B]."""
        self.recording = recording
        self.requests = given[0].shape[0]
        self._count = self.requests * draft_tokens
        # What the host copies is read on another stream: no graph's memory, which others write in.
        shape = _KEPT, self._count + self.requests
        self._outs = torch.empty(shape, dtype=torch.int32, device=given[0].device)
        self._turn = 0
        """Where the next cycle writes; told with what it is given."""
        places = torch.arange(_KEPT, device=given[0].device)
        self._places = [places[turn : turn + 1] for turn in range(_KEPT)]
        self._place = torch.zeros_like(self._places[0])
        self.inputs = [torch.clone(tensor) for tensor in given]
        by_type: dict[torch.dtype, list[int]] = {}
        every = [*self.inputs, self._place]
        for place, tensor in enumerate(every):
            by_type.setdefault(tensor.dtype, []).append(place)
        self._groups = [([every[place] for place in group], group) for group in by_type.values()]
        self.relay: Any = None
        """SGLang's `FutureMap`, where the recording takes from it and leaves in it."""
        self.published: Callable[[Any], None] = _nobody
        """Whom the run tells the new lengths."""
        self.held: tuple[Any, ...] = ()
        """What the recorded launches read and nobody else may keep."""
        self._runners: list[Callable[[], Any]] = []
        """Each either a weak reference, or what stands for None."""
        self._result: Any = None
        self._given: list[Any] = [None] * _KEPT
        self.tells: list[Callable[[], None]] = []
        """What the host does once a cycle is launched."""
        self.awaited = False
        """Whether the lengths are there for all from the next graph of SGLang's on."""

    def of(self, runners: Sequence[Any]) -> None:
        """Whose graphs and places are in it; it does not keep them."""
        self._runners = [_weakly(runner) for runner in runners]

    def is_of(self, runners: Sequence[Any]) -> bool:
        """Whether it is still theirs: SGLang may have captured anew, with a runner that lies where
        another lay."""
        held = [runner() for runner in self._runners]
        return len(held) == len(runners) and all(map(operator.is_, held, runners))

    def is_orphaned(self) -> bool:
        """Whether a runner that it was made of is gone: nobody can ask for it any more."""
        weak = (runner for runner in self._runners if isinstance(runner, weakref.ref))
        return any(runner() is None for runner in weak)

    def drop(self) -> None:
        """It is not run any more. What it gave may still be copied to the host."""
        self.recording.drop()
        self._given = [None] * _KEPT
        self._result, self.held, self.relay = None, (), None
        self.tells.clear()

    def run(self, given: list[torch.Tensor], publish: Callable[[Any], None]) -> Any:
        """One cycle; SGLang's `GenerationBatchResult`."""
        every = [*given, self._places[self._turn]]
        for places, group in self._groups:
            torch._foreach_copy_(places, [every[place] for place in group])
        if self._outs.is_cuda:
            self.wait_for_copies(torch.cuda.current_stream())
        self.published = publish
        self.recording.run()
        self.published = _nobody
        for tell in self.tells:
            tell()
        return self.fresh()

    def keep(self, result: Any) -> None:
        """The result that all runs have; while they are recorded."""
        if result.routed_experts_output is not None or result.indexer_topk_output is not None:
            raise NotRecordable("it gives routings")
        logits, others = result.logits_output, ("auxiliary_device_output", "sampling_mask_output")
        if any(getattr(logits, name, None) is not None for name in others):
            raise NotRecordable("it gives more than tokens")
        given = result.next_token_ids, result.accept_lens
        for place, tensor in zip(self.split(self._outs[0]), given, strict=True):
            if tensor.dtype != place.dtype or tensor.shape != place.shape:
                raise NotRecordable(f"it gives {tensor.dtype} {tuple(tensor.shape)}")
        if self._outs.is_cuda:
            from sglang_qwen3next_eagle3.overlay.seams import chain_kernels

            chain_kernels.keep(self._place, *given, self._outs)
        else:
            self._outs.index_copy_(0, self._place, torch.cat(given)[None])
        # They are read where the host finds them.
        result.next_token_ids = result.accept_lens = None
        # They were for tensors that are made anew in each cycle.
        result.extra_keep_alive_refs = None
        self._result = result

    def split(self, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B x N] and lengths [B], which lie side by side."""
        return out[: self._count], out[self._count :]

    def fresh(self) -> Any:
        """The result as SGLang makes it anew in every cycle: it writes into it."""
        made = copy.copy(self._result)
        made.logits_output = copy.copy(self._result.logits_output)
        made.next_draft_input = copy.copy(self._result.next_draft_input)
        out = self._outs[self._turn]
        made.next_token_ids, made.accept_lens = self.split(out)
        setattr(made, _TO_HOST, partial(self.to_host, out))
        self._given[self._turn] = made
        self._turn = (self._turn + 1) % _KEPT
        return made

    def left(self, payload: Any) -> bool:
        """Whether this is what the recording has stashed itself."""
        kept = self._result.next_draft_input.bonus_tokens
        return self.relay is not None and payload.bonus_tokens is kept

    def to_host(self, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and lengths on the host, once what is launched now is done."""
        host = torch.empty(out.shape, dtype=torch.int32, pin_memory=out.is_cuda)
        host.copy_(out, non_blocking=True)
        return self.split(host)

    def wait_for_copies(self, stream: Any) -> None:
        """What is copied to the host on another stream is not written over before it is there."""
        given = self._given[self._turn]
        done = None if given is None else given.copy_done
        if done is not None:
            stream.wait_event(done)


def inputs_of(batch: Any) -> list[torch.Tensor]:
    """The tensors by which a plain batch differs from another one of its size."""
    spec = batch.spec_info
    given = [
        batch.seq_lens,
        batch.req_pool_indices,
        spec.bonus_tokens,
        spec.topk_index,
        spec.topk_p,
        spec.hidden_states,
    ]
    return given + _others(batch)


def put(batch: Any, tensors: list[torch.Tensor]) -> None:
    """These in place of what `inputs_of` gives."""
    spec = batch.spec_info
    (
        batch.seq_lens,
        batch.req_pool_indices,
        spec.bonus_tokens,
        spec.topk_index,
        spec.topk_p,
        spec.hidden_states,
        *others,
    ) = tensors
    _put_others(batch, others)


def places_of(batch: Any) -> list[torch.Tensor]:
    """The same where all else is taken from SGLang's relay."""
    return [batch.spec_info.future_indices, batch.req_pool_indices, *_others(batch)]


def put_places(batch: Any, tensors: list[torch.Tensor]) -> None:
    batch.spec_info.future_indices, batch.req_pool_indices, *others = tensors
    _put_others(batch, others)


def _others(batch: Any) -> list[torch.Tensor]:
    """How it is sampled, if it is, and which states are tracked, if any are."""
    tracked = [] if batch.mamba_track_indices is None else [batch.mamba_track_indices]
    if batch.sampling_info.is_all_greedy:
        return tracked
    return [*(getattr(batch.sampling_info, name) for name in _SAMPLING), *tracked]


def _put_others(batch: Any, tensors: list[torch.Tensor]) -> None:
    if not batch.sampling_info.is_all_greedy:
        # The batch's own stays as it is.
        batch.sampling_info = copy.copy(batch.sampling_info)
        for name in _SAMPLING:
            setattr(batch.sampling_info, name, tensors.pop(0))
    batch.mamba_track_indices = tensors[0] if tensors else None


class Cycles:
    """What stands around a worker's cycle, and what it needs to be told meanwhile."""

    def __init__(
        self,
        graph: Graph | None = None,
        device: str = "cuda",
        *,
        relayed: bool = False,
        sampled: bool = False,
        joins: Joins | None = None,
    ) -> None:
        """relayed: what a cycle takes from the one before and leaves for the next is recorded,
        too. sampled: so are batches with sampled requests. joins: a `Joins`, where SGLang's graphs
        become parts of ours."""
        self._graph, self._device, self._relayed = graph or torch.cuda.CUDAGraph, device, relayed
        self._sampled, self._joins = sampled, joins
        self._made: CyclePlan | None = None
        self._pool: Any = None
        self._plans: dict[tuple[Any, ...], CyclePlan | int | None] = {}
        self._said: set[str] = set()
        self._runner: Any = None
        self._worker: Any = None
        self._relay: Any = None
        self._gather: Callable[[Any, Any], None] | None = None
        self._ungathered: Any = None
        self._left: CyclePlan | None = None
        self._replayed = 0

    def around(
        self,
        original: Callable[..., Any],
        worker: Any,
        batch: Any,
        on_publish: Callable[[Any], None] | None = None,
        grammar_barrier: Any = None,
        **others: Any,
    ) -> Any:
        """others: of a newer SGLang, what a stage of a pipeline is handed."""
        ungathered, self._ungathered = self._ungathered is batch, None
        self._worker, self._left = worker, None
        recorded = on_publish is not None and self._is_plain(worker, batch)
        plan = self._plan(original, worker, batch) if recorded else None
        if ungathered and (plan is None or plan.relay is None) and self._gather is not None:
            self._gather(self._relay, batch)
        if plan is None or on_publish is None:
            return original(
                worker, batch, on_publish=on_publish, grammar_barrier=grammar_barrier, **others
            )
        if plan.relay is None:
            return plan.run(inputs_of(batch), on_publish)
        self._left = plan
        return plan.run(places_of(batch), lambda lens: _published(plan.relay))

    def _plan(self, original: Callable[..., Any], worker: Any, batch: Any) -> CyclePlan | None:
        """What to run for a plain batch, recorded now if it is time to; None: it is SGLang's."""
        key = self._key(worker, batch)
        if key not in self._plans:
            self._forget(CyclePlan.is_orphaned)
        plan = self._found(key, worker)
        if isinstance(plan, int):
            if plan < _SEEN or len(self._recorded(_runners_of(worker))) >= _MOST:
                self._plans[key] = min(plan + 1, _SEEN)
                return None
            plan = self._plans[key] = self._record(original, worker, batch)
            plan = None if isinstance(plan, int) else plan
        elif plan is not None:
            _track(batch)
        return plan

    def _is_plain(self, worker: Any, batch: Any) -> bool:
        if not is_plain(batch):
            return False
        info = batch.sampling_info
        return bool(
            info.is_all_greedy
            or (
                self._sampled
                and info.sampling_seed is None
                and not any(info.return_sampling_masks or ())
                and len(batch.reqs) * worker.speculative_num_draft_tokens <= _SAMPLED_ROWS
                # Ranks would tell each other what they accept within the recording.
                and worker.server_args.tp_size == 1
            )
        )

    def _key(self, worker: Any, batch: Any) -> tuple[Any, ...]:
        size = batch.req_pool_indices.shape[0]
        # It is what the original begins with, and decides which graphs there are.
        worker.activate_step_by_batch(size)
        return (size, _drawn(batch), *map(id, _runners_of(worker)))

    def _found(self, key: tuple[Any, ...], worker: Any) -> CyclePlan | int | None:
        """What is known of this key: a plan, how often it came, or that it is SGLang's."""
        plan = self._plans.get(key, 0)
        if isinstance(plan, CyclePlan) and not plan.is_of(_runners_of(worker)):
            del self._plans[key]
            return 0
        return plan

    def _forget(self, which: Callable[[CyclePlan], bool]) -> None:
        """Recordings that hold memory for nothing."""
        known = self._plans.items()
        gone = [key for key, plan in known if isinstance(plan, CyclePlan) and which(plan)]
        if not gone:
            return
        if self._device == "cuda":
            # What they launched last may still run.
            torch.cuda.synchronize()
        self._left = None
        for key in gone:
            plan = self._plans.pop(key)
            assert isinstance(plan, CyclePlan)
            plan.drop()
        if not self._recorded():
            # A pool that no graph holds any more cannot be captured into again.
            self._pool = None

    def capture(
        self, original: Callable[..., Any], backend: Any, shape_key: Any, *args: Any, **of: Any
    ) -> Any:
        """Around the capture of one of SGLang's graphs: it is kept. Where cycles are recorded
        already, SGLang captures anew, and their copies would hold the old graphs' memory."""
        self._forget(lambda plan: True)
        self._plans.clear()
        return keep(original, backend, shape_key, *args, **of)

    def _recorded(self, runners: Sequence[Any] | None = None) -> list[CyclePlan]:
        """runners: those of a state of the worker; of all states without them."""
        plans = [plan for plan in self._plans.values() if isinstance(plan, CyclePlan)]
        return [plan for plan in plans if runners is None or plan.is_of(runners)]

    def resolve(self, original: Callable[[Any, Any], None], relay: Any, batch: Any) -> None:
        """Around what takes from the relay what the last cycle left: a recorded cycle does so."""
        if current() is None:
            self._relay, self._gather = relay, original
            if self._worker is not None and self._is_plain(self._worker, batch):
                plan = self._found(self._key(self._worker, batch), self._worker)
                if isinstance(plan, CyclePlan) and plan.relay is relay:
                    self._ungathered = batch
                    return
        original(relay, batch)

    def stash(
        self, original: Callable[[Any, Any, Any], None], relay: Any, indices: Any, payload: Any
    ) -> None:
        """Around what leaves in the relay what a cycle gave: a recorded one has done so."""
        left, self._left = self._left, None
        if left is None or not left.left(payload):
            original(relay, indices, payload)

    def replay(
        self, original: Callable[..., Any], backend: Any, shape_key: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Around the replay of one of SGLang's graphs: while a cycle is recorded, a step of it."""
        recording = current()
        if recording is None:
            return original(backend, shape_key, *args, **kwargs)
        host, runner, plan = variants.host(), self._runner, self._made
        steps: list[Callable[[], None]] = []
        # SGLang just recorded an event for the scheduler: each cycle needs it anew.
        has_read = host.read_done(runner) is not None
        if has_read:
            host.say_read_done(runner, None)
        if recording.joins is None:
            if has_read:
                steps.append(lambda: _read_done(runner))
        elif plan is not None and (has_read or plan.awaited):
            mark = recording.joins.mark()
            if has_read:
                plan.tells.append(lambda: host.say_read_done(runner, mark))
            if plan.awaited:
                relay, plan.awaited = plan.relay, False
                plan.tells.append(lambda: _published_by(relay, mark))
        self._replayed += 1
        graph = backend._graphs[shape_key]
        setattr(graph, GRAPH_OF, self._phase(backend))
        recording.replay(graph, *steps)
        return backend._outputs[shape_key]

    def _phase(self, backend: Any) -> str:
        """Whose graph this is, for `bench cycle`."""
        worker = self._worker
        runners = {
            "draft graph": worker.draft_worker.cuda_graph_runner,
            "draft extend graph": worker.draft_worker.cuda_graph_runner_for_draft_extend,
        }
        found = (name for name, of in runners.items() if getattr(of, "backend", None) is backend)
        return next(found, "verify graph")

    def _record(
        self, original: Callable[..., Any], worker: Any, batch: Any
    ) -> CyclePlan | int | None:
        """A plan; None: it stays SGLang's; `_SEEN`: the next one is to be recorded."""
        size = batch.req_pool_indices.shape[0]
        kind = "" if batch.sampling_info.is_all_greedy else "sampled "
        spec, collects = batch.spec_info, gc.isenabled()
        before, spec_before = dict(vars(batch)), dict(vars(spec))
        recording, free = None, None
        gc.disable()
        try:
            reason = _hindrance(worker)
            if reason is not None:
                self._say(f"no cycles are recorded: they are not with {reason}")
                return None
            _track(batch)
            # What is tracked is an input: it stays when the rest is put back.
            before["mamba_track_indices"] = batch.mamba_track_indices
            free = _free(self._device)
            if free is not None and free < _FLOOR:
                raise NotRecordable(
                    f"{free / 2**30:.1f} GiB of the GPU's memory are free, and "
                    f"{_FLOOR / 2**30:.0f} have to be"
                )
            relay = self._relay if self._relayed and _holds_all(self._relay) else None
            if self._pool is None and self._device == "cuda":
                self._pool = torch.cuda.graph_pool_handle()
            recording = GraphRecording(self._graph, self._pool, self._device, self._joins)
            given = inputs_of(batch) if relay is None else places_of(batch)
            plan = CyclePlan(recording, given, worker.speculative_num_draft_tokens)
            self._made = plan
            self._runner = variants.host().last_reader(worker)
            variants.host().say_read_done(self._runner, None)
            plan.relay = relay
            plan.of(_runners_of(worker))
            draft, self._replayed = worker.draft_worker, 0
            # SGLang makes these anew with each change of the steps.
            plan.held = tuple(getattr(draft, name, None) for name in _OF_STEPS)
            recording.begin()
            self._launch(original, worker, batch, plan)
            if self._replayed < 2 + (worker.speculative_num_steps > 1):
                # What runs without a graph takes memory as for the longest context.
                raise NotRecordable("they are more than the graphs were captured for")
            recording.end()
        except Exception as error:
            if recording is not None:
                recording.abandon()
            if not self._recorded():
                # A pool that no graph holds any more cannot be captured into again.
                self._pool = None
            if self._joins is not None and isinstance(error, NotJoinable):
                # The next one of this size is recorded as several graphs.
                self._joins = None
                self._say(f"cycles are several graphs instead of one: {_said(error)}")
                return _SEEN
            self._say(
                f"cycles of {size} {kind}requests stay SGLang's: {_said(error)} "
                f"(at {_where(error)})"
            )
            logger.debug("A cycle could not be recorded", exc_info=True)
            return None
        finally:
            self._made = None
            if self._runner is not None:
                variants.host().say_read_done(self._runner, None)
            vars(batch).update(before)
            vars(spec).update(spec_before)
            if collects:
                gc.enable()
        left = _free(self._device)
        taken = "" if free is None or left is None else f", {(free - left) / 2**20:.0f} MiB"
        logger.info(
            "sglang-qwen3next-eagle3: cycles of %d %srequests are recorded: %d steps%s",
            size,
            kind,
            len(recording.steps),
            taken,
        )
        return plan

    def _launch(
        self, original: Callable[..., Any], worker: Any, batch: Any, plan: CyclePlan
    ) -> None:
        """What is recorded."""
        relay, recording = plan.relay, plan.recording
        vars(batch).update(dict.fromkeys(_OF_PREFILLS))
        if relay is None:
            put(batch, plan.inputs)
        else:
            put_places(batch, plan.inputs)
            indices = batch.spec_info.future_indices
            batch.seq_lens = relay.new_seq_lens_buf[indices]
            assert self._gather is not None
            self._gather(relay, batch)

        def publish(lens: torch.Tensor) -> None:
            if relay is not None:
                relay.new_seq_lens_buf[indices] = lens.to(relay.new_seq_lens_buf.dtype)
            if relay is not None and recording.joins is not None:
                # An event of the graph's own says so, before the next part of it.
                plan.awaited = True
            else:
                recording.step(lambda: plan.published(lens))

        result = original(worker, batch, on_publish=publish, grammar_barrier=None)
        if relay is not None:
            from sglang.srt.managers.overlap_utils import RelayPayload

            relay.stash(indices, RelayPayload.from_draft_input(result.next_draft_input))
        plan.keep(result)

    def _say(self, why: str) -> None:
        """Once."""
        if why not in self._said:
            self._said.add(why)
            logger.warning("sglang-qwen3next-eagle3: %s", why)


def _free(device: str) -> int | None:
    """Bytes of the GPU's memory that nobody has; None of another device."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else None


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _where(error: BaseException) -> str:
    """The last calls that led to an error, the innermost first."""
    frames = traceback.extract_tb(error.__traceback__)[:-6:-1]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)


def _runners_of(worker: Any) -> tuple[Any, Any, Any]:
    draft = worker.draft_worker
    return (
        draft.cuda_graph_runner,
        draft.cuda_graph_runner_for_draft_extend,
        worker.target_worker.model_runner.decode_cuda_graph_runner,
    )


def _weakly(thing: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(thing)
    except TypeError:  # None, and what has no room for it
        return lambda: thing


def prepare_tracking(original: Callable[..., None], batch: Any) -> None:
    """Around what asks the host which states are tracked: a recorded cycle was told before."""
    if current() is None:
        original(batch)
    else:
        variants.host().forget_tracking(batch)


def _drawn(batch: Any) -> tuple[bool, ...] | None:
    """What is asked of sampling; None where nothing is drawn."""
    info = batch.sampling_info
    return None if info.is_all_greedy else tuple(bool(getattr(info, name)) for name in _NEEDS)


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


def _hindrance(worker: Any) -> str | None:
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


def _track(batch: Any) -> None:
    """Which states are tracked, where any are: from the host, before a recorded cycle."""
    from sglang.srt.speculative import spec_utils

    spec_utils.prepare_mamba_track_for_verify(batch)


def _holds_all(relay: Any) -> bool:
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


def _published(relay: Any) -> None:
    """What the scheduler waits for before it reads the lengths, which the recording has written."""
    torch.cuda.current_stream().wait_event(relay.publish_ready)
    relay.publish_ready.record()
    relay._publish_fresh = True


def _published_by(relay: Any, mark: Any) -> None:
    """The same where the recording says so itself: SGLang asks for the event in each cycle anew."""
    relay.publish_ready = mark
    relay._publish_fresh = True


def copy_to_cpu(
    original: Callable[..., None],
    result: Any,
    return_logprob: bool,
    return_hidden_states: bool = True,
) -> None:
    """Around the copies of what a cycle gave: of a recorded one they are a single copy."""
    to_host = getattr(result, _TO_HOST, None)
    if to_host is None or return_logprob or return_hidden_states:
        original(result, return_logprob=return_logprob, return_hidden_states=return_hidden_states)
        return
    result.next_token_ids, result.accept_lens = to_host()
    result.copy_done.record()


def _nobody(lens: Any) -> None:
    raise RuntimeError("lengths are published outside a cycle")


def _read_done(runner: Any) -> None:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    variants.host().say_read_done(runner, event)
