"""The SGLang symbols at the seams of a cycle."""

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from sglang_qwen3next_eagle3.overlay import contract, proofs, variants
from sglang_qwen3next_eagle3.overlay.hooks import Hook
from sglang_qwen3next_eagle3.overlay.seams import chains, launches
from sglang_qwen3next_eagle3.overlay.seams.broadcasts import Broadcasts
from sglang_qwen3next_eagle3.overlay.seams.proved import PROVED, code
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
        capability, device = torch.cuda.get_device_capability(), torch.cuda.get_device_name
        where = release, capability, _ranks(), device
        arguments = _arguments()
        of: dict[str, Any] = {
            "config": lambda name: getattr(arguments.get_model_config().hf_config, name, None),
            "given": proofs.switch_of(arguments),
            "code": code(),
        }
        found = self._wanted & proofs.proved(PROVED, *where, **of)
        if "relay" in self._wanted - found:
            found -= {"cycle"}  # It was made to take from the relay.
        if "cycle" not in found:
            found -= set(WITHIN)
        return found, proofs.why_not(PROVED, *where, **of)


def _ranks() -> int:
    from sglang.srt.distributed import get_tensor_model_parallel_world_size

    return int(get_tensor_model_parallel_world_size())


def _arguments() -> Any:
    from sglang.srt.runtime_context import get_server_args

    return get_server_args()


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
            Hook(
                COMMIT_STEPS, launches.commit_steps, "Which states a verify commits, in one launch."
            ),
        ),
        "relay": (Hook(STASH, launches.stash, "What a cycle leaves for the next, in one launch."),),
        "metadata": (
            Hook(
                f"{_TRITON}._update_target_verify_buffers",
                launches.verify_metadata,
                "What attention reads in a verify, in one launch.",
            ),
            Hook(
                f"{_TRITON}._update_draft_extend_buffers",
                launches.extend_metadata,
                "What attention reads in a draft extend, in one launch.",
            ),
        ),
        "chain": (Hook(TREE, launches.Chains().around, "The tree of a chain, in one launch."),),
        "slots": (
            Hook(SLOTS, launches.slots, "Places for a cycle's tokens, without asking the GPU."),
        ),
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
            logger.info("sglang-qwen3next-eagle3: seams on: %s; code %s", names, code().told)
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
