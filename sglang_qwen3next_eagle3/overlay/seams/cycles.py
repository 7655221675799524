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

import gc
import logging
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.cycle.phases import GRAPH_OF
from sglang_qwen3next_eagle3.overlay.seams.joining import Joins, NotJoinable, keep
from sglang_qwen3next_eagle3.overlay.seams.plain import drawn, hindrance, holds_all, is_plain
from sglang_qwen3next_eagle3.overlay.seams.plans import (
    CyclePlan,
    inputs_of,
    places_of,
    put,
    put_places,
)
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
_OF_PREFILLS: Final = (
    "mamba_cow_src_indices", "mamba_cow_dst_indices", "mamba_clear_indices",
    "extend_input_logprob_token_ids",
)  # fmt: skip
"""What a prefill leaves in a batch until its size changes, so that a request which is served alone
keeps it to its end; SGLang applies it in prefills only."""

_SAMPLED_ROWS: Final = 64
"""Rows that are verified in a sampled batch at most: the graphs' memory holds some five tensors of
fp32 over the vocabulary, 0.6 MB a row each, that SGLang would hold for a moment only."""
_OF_STEPS: Final = ("_topk1_parents_prealloc", "_topk1_score_indices_prealloc")


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
        return (size, drawn(batch), *map(id, _runners_of(worker)))

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
        host, runner = variants.host(), self._runner
        # SGLang just recorded an event for the scheduler: each cycle needs it anew.
        has_read = host.read_done(runner) is not None
        if has_read:
            host.say_read_done(runner, None)
        steps = self._marked(recording, has_read)
        self._replayed += 1
        graph = backend._graphs[shape_key]
        setattr(graph, GRAPH_OF, self._phase(backend))
        recording.replay(graph, *steps)
        return backend._outputs[shape_key]

    def _marked(self, recording: GraphRecording, has_read: bool) -> list[Callable[[], None]]:
        """What is said at this place of a recording in each cycle: that all that is shared was
        read, and that the lengths are there. The steps that it takes, where it is no part of it."""
        host, runner, plan = variants.host(), self._runner, self._made
        if recording.joins is None:
            return [lambda: _read_done(runner)] if has_read else []
        if plan is not None and (has_read or plan.awaited):
            mark = recording.joins.mark()
            if has_read:
                plan.tells.append(lambda: host.say_read_done(runner, mark))
            if plan.awaited:
                relay, plan.awaited = plan.relay, False
                plan.tells.append(lambda: _published_by(relay, mark))
        return []

    def _passed(self) -> None:
        """A cycle of 0 steps whose draft extend is put off (adaptive/deferral.py)."""
        recording = current()
        assert recording is not None
        if steps := self._marked(recording, has_read=True):
            recording.step(*steps)
        self._replayed += 1

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
            reason = hindrance(worker)
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
            relay = self._relay if self._relayed and holds_all(self._relay) else None
            if self._pool is None and self._device == "cuda":
                self._pool = torch.cuda.graph_pool_handle()
            recording = GraphRecording(self._graph, self._pool, self._device, self._joins)
            recording.passed = self._passed
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


def prepare_tracking(original: Callable[..., None], batch: Any) -> None:
    """Around what asks the host which states are tracked: a recorded cycle was told before."""
    if current() is None:
        original(batch)
    else:
        variants.host().forget_tracking(batch)


def _track(batch: Any) -> None:
    """Which states are tracked, where any are: from the host, before a recorded cycle."""
    from sglang.srt.speculative import spec_utils

    spec_utils.prepare_mamba_track_for_verify(batch)


def _published(relay: Any) -> None:
    """What the scheduler waits for before it reads the lengths, which the recording has written."""
    torch.cuda.current_stream().wait_event(relay.publish_ready)
    relay.publish_ready.record()
    relay._publish_fresh = True


def _published_by(relay: Any, mark: Any) -> None:
    """The same where the recording says so itself: SGLang asks for the event in each cycle anew."""
    relay.publish_ready = mark
    relay._publish_fresh = True


def _read_done(runner: Any) -> None:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    variants.host().say_read_done(runner, event)
