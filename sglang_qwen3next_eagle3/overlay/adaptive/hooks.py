"""Where the choice of steps stands in for SGLang's own rule.

The class that SGLang's controller asks before every cycle and tells of every result is ours, and
the place where results are read says of how many steps one is. And what 0.5.17 leaves undone is
done: the graphs of a draft extend are captured for the draft tokens that the server began with
(read off its arguments, which a state does not change), so that in all other states it would run
without a graph, and what is captured for more tokens than there are rows would be wrong. The
buffers of all states are one: while a state is captured they tell how many tokens the one before
accepts, more than it has rows for, so that whoever goes by it reads and writes behind the rows.
States, graphs and switches stay SGLang's (0.5.17, speculative/adaptive_runtime_state.py).
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.adaptive import states as files
from sglang_qwen3next_eagle3.overlay.adaptive.policy import CostedSteps
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates
from sglang_qwen3next_eagle3.overlay.hooks import Hook
from sglang_qwen3next_eagle3.overlay.simulate import OFF, SharedNumber

logger = logging.getLogger(__name__)

WORKER = "sglang.srt.speculative.eagle_worker_v2"
SWITCH = "Switch adaptive runtime state"
RESTORE = "adaptive_spec.restore"

PARAMS = "sglang.srt.speculative.adaptive_runtime_state:AdaptiveSpeculativeParams"
PARAMS_OF_WORKER = "sglang.srt.speculative.eagle_worker_v2:AdaptiveSpeculativeParams"
"""Where 0.5.23 makes it."""
WIDTH = "sglang.srt.speculative.eagle_draft_extend_cuda_graph_runner:resolve_num_tokens_per_req"
CAPTURE = (
    "sglang.srt.speculative.eagle_draft_extend_cuda_graph_runner:"
    "EAGLEDraftExtendCudaGraphRunner.capture_one_shape"
)
_TOKENS = "num_correct_drafts", "num_accept_tokens", "extend_seq_lens"
"""Of the buffers of a draft extend's graphs: tokens of each request."""
APPLY = "sglang.srt.speculative.eagle_worker_v2:EAGLEWorkerV2.apply_runtime_state"
RESOLVE = (
    "sglang.srt.managers.scheduler_components.batch_result_processor:"
    "SchedulerBatchResultProcessor._resolve_spec_v2_tokens"
)


class RareSwitches(logging.Filter):
    """A line for every switch of SGLang's would be some in a second: one in a while, with how many
    there were since."""

    def __init__(self, seconds: float = 30.0, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds, self._clock = seconds, now
        self._said: float | None = None
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith(SWITCH):
            return True
        if self._said is not None and self._clock() - self._said < self._seconds:
            self._left_out += 1
            return False
        if self._left_out:
            record.msg = f"{record.msg} ({self._left_out} switches since the last line)"
        self._said, self._left_out = self._clock(), 0
        return True


def forget_switches(log: list[tuple[str, Any]]) -> None:
    """Of what SGLang notes of every switch, in a list that /server_info goes through, the last."""
    places = [place for place, (source, _) in enumerate(log) if source == RESTORE]
    for place in reversed(places[:-1]):
        del log[place]


class Newcomers:
    """How many requests of a result were in none of the last one."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()

    def count(self, batch: Any) -> int:
        """batch: SGLang's `ScheduleBatch` of the result; the same requests on every rank."""
        known, self._known = self._known, frozenset(request.rid for request in batch.reqs)
        return len(self._known - known)


def quiet() -> None:
    """Switches are told of once in a while, in this process."""
    told = logging.getLogger(WORKER)
    if not any(isinstance(each, RareSwitches) for each in told.filters):
        told.addFilter(RareSwitches())


def hooks(forced: SharedNumber | None = None) -> tuple[Hook, ...]:
    """forced: the steps that a benchmark asks for while the server runs, in place of any choice."""
    reading: int | None = None
    new = 0
    newcomers = Newcomers()

    def asked() -> int | None:
        number = OFF if forced is None else forced.value
        return None if number < 0 else int(number)

    def params(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        sglang = original(*args, **kwargs)
        path = kwargs.get("cfg_path", args[1] if len(args) > 1 else None)

        def read() -> DraftStates | None:
            try:
                return None if path is None else files.read(Path(path))
            except UserError as error:
                logger.warning("sglang-qwen3next-eagle3: %s", error)
                return None

        states = read()
        if states is None:
            logger.warning(
                "sglang-qwen3next-eagle3: steps are chosen by SGLang: the file says no costs"
            )
            return sglang
        logger.info(
            "sglang-qwen3next-eagle3 chooses among %s steps by the costs of %s",
            ", ".join(map(str, states.steps)),
            states.where(),
        )
        return CostedSteps(sglang, states, lambda: reading, asked, read, lambda: new)

    def resolve(
        original: Callable[..., Any], processor: Any, result: Any, batch: Any, *args: Any, **of: Any
    ) -> Any:
        nonlocal reading, new
        tokens = result.speculative_num_draft_tokens
        reading = None if tokens is None else tokens - 1
        new = newcomers.count(batch)
        try:
            return original(processor, result, batch, *args, **of)
        finally:
            reading = None

    def width(original: Callable[..., int], *args: Any, **kwargs: Any) -> int:
        from sglang.srt.runtime_context import get_spec

        if kwargs.get("phase") == "draft_extend":
            tokens: int = get_spec().speculative_num_draft_tokens
            return tokens
        return original(*args, **kwargs)

    def capture(original: Callable[..., Any], runner: Any, *args: Any, **kwargs: Any) -> Any:
        for name in _TOKENS:
            getattr(runner.buffers, name).fill_(runner.captured_req_width)
        return original(runner, *args, **kwargs)

    def apply(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        from sglang.srt.runtime_context import get_context

        original(*args, **kwargs)
        forget_switches(get_context()._overrides_log)

    return (
        Hook(APPLY, apply, "Of all switches SGLang keeps the last one, not every one for ever."),
        Hook(WIDTH, width, "A draft extend's graphs are captured for the tokens of their state."),
        Hook(CAPTURE, capture, "It is captured as if as many tokens were accepted, and no more."),
        Hook(RESOLVE, resolve, "Says how many steps the cycle had whose drafts were accepted."),
        Hook(PARAMS, params, "Our choice of steps stands in for SGLang's rule."),
        Hook(PARAMS_OF_WORKER, params, "Our choice of steps stands in for SGLang's rule."),
    )
