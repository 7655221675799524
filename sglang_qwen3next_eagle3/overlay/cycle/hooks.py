"""Where the recorder looks at SGLang. Nothing of it is there in a server that is not measured."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.cycle.phases import ENTRY, LAUNCH, PHASES, RECEIVE, RUN, TORCH
from sglang_qwen3next_eagle3.overlay.cycle.recorder import Recorder
from sglang_qwen3next_eagle3.overlay.hooks import Hook, apply, current

logger = logging.getLogger(__name__)


def entry(folder: Path) -> Hook:
    """The hook by which a scheduler that is ready begins to listen to the benchmark."""

    def run_event_loop(original: Callable[..., None], scheduler: Any) -> None:
        recorder = Recorder(folder, rank_of(variants.place(scheduler)))
        for phase in (*PHASES, *TORCH):
            recorder.know(phase.name, current(phase.target))
        apply(hooks(recorder))
        recorder.announce()
        logger.info("sglang-qwen3next-eagle3: this scheduler's time is recorded for `bench cycle`")
        original(scheduler)

    return Hook(ENTRY, run_event_loop, "A scheduler that is ready begins to record.")


def rank_of(ps: Any) -> str:
    """Its name among the schedulers of a server: tp0, tp1, ..., also with the stage and replica."""
    parts = [f"tp{ps.tp_rank}"]
    parts += [f"pp{ps.pp_rank}"] if ps.pp_size > 1 else []
    parts += [f"dp{ps.dp_rank}"] if ps.dp_rank else []
    return "-".join(parts)


def hooks(recorder: Recorder) -> tuple[Hook, ...]:
    """Of SGLang's and torch's functions, put in place once a scheduler runs."""
    timed = {
        phase: Hook(phase.target, recorder.timed(phase.name), phase.why)
        for phase in (*PHASES, *TORCH)
    }

    def recv_requests(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        recorder.turn()
        return original(*args, **kwargs)

    def run_batch(
        original: Callable[..., Any], scheduler: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> Any:
        recorder.batch(batch.batch_size(), batch.forward_mode.is_decode())
        return original(scheduler, batch, *args, **kwargs)

    (launch,) = (phase for phase in TORCH if phase.name == LAUNCH)
    return (
        Hook(launch.target, recorder.replay, "Its time on the GPU."),
        *timed.values(),
        # Outermost: a turn begins before its first phase.
        Hook(RECEIVE.target, recv_requests, RECEIVE.why),
        Hook(RUN.target, run_batch, RUN.why),
    )
