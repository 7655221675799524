"""The SGLang symbols that metrics are read from, and when.

They are put in place where a process has made its own metrics, which is after it knows its target,
and only with `--enable-metrics`: a server without it pays nothing. Of several ranks the one counts
whose scheduler SGLang lets report.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import precision
from sglang_qwen3next_eagle3.model.target import MODEL_TYPE
from sglang_qwen3next_eagle3.overlay import capture, contract, environment
from sglang_qwen3next_eagle3.overlay.fast import stages
from sglang_qwen3next_eagle3.overlay.fast.stages import HEAD, PATH
from sglang_qwen3next_eagle3.overlay.hooks import Hook, apply
from sglang_qwen3next_eagle3.overlay.metrics import cycle_costs
from sglang_qwen3next_eagle3.overlay.metrics.cycle_costs import CycleCosts, Served
from sglang_qwen3next_eagle3.overlay.metrics.table import CAPTURED, FAST_PATH
from sglang_qwen3next_eagle3.overlay.seams import seams

logger = logging.getLogger(__name__)

_TOKENIZER = "sglang.srt.managers.tokenizer_manager:TokenizerManager"
_REQUEST = "sglang.srt.managers.io_struct:GenerateReqInput"
_COUNTED = "_qwen3next_eagle3_counted"
_NO_REFUSAL = "Aborted by AbortReq"
"""How SGLang begins the message of a request that its own client has given up."""


class CountsRefusals(Protocol):
    def count(self, reason: str) -> None: ...


class CountsCycles(Protocol):
    def cycle(
        self,
        accepted: list[int],
        proposed: int,
        requests: int,
        pass_number: int | None,
        now: float,
    ) -> None: ...


def tokenizer_hooks(refusals: CountsRefusals) -> tuple[Hook, ...]:
    """What counts the requests that do not reach the scheduler."""

    def counted(reason: str) -> Callable[..., Any]:
        def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            except ValueError as error:
                # One may pass through two of these.
                if not getattr(error, _COUNTED, False):
                    setattr(error, _COUNTED, True)
                    refusals.count(reason)
                raise

        return around

    return (
        Hook(
            f"{_REQUEST}._handle_parallel_sampling",
            counted("choices"),
            "Counts the numbers of choices that are refused.",
        ),
        Hook(
            f"{_REQUEST}.normalize_batch_and_arguments",
            counted("shape"),
            "Counts the shapes of requests that are refused.",
        ),
        Hook(
            f"{_TOKENIZER}._validate_one_request",
            counted("length"),
            "Counts the lengths that are refused.",
        ),
        Hook(
            f"{_TOKENIZER}._create_tokenized_object",
            counted("field"),
            "Counts the fields that are refused.",
        ),
    )


def scheduler_hooks(cycles: CountsCycles | None, refusals: CountsRefusals) -> tuple[Hook, ...]:
    """What counts in the scheduler that reports. cycles: None without speculation."""

    def set_finish_with_abort(
        original: Callable[..., None], request: Any, error_msg: str, *args: Any, **kwargs: Any
    ) -> None:
        if not error_msg.startswith(_NO_REFUSAL):
            refusals.count("scheduler")
        original(request, error_msg, *args, **kwargs)

    hooks = [
        Hook(
            "sglang.srt.managers.schedule_batch:Req.set_finish_with_abort",
            set_finish_with_abort,
            "Counts the requests that the scheduler refuses.",
        )
    ]
    if cycles is not None:
        hooks.append(_verified(cycles))
    return tuple(hooks)


def _verified(cycles: CountsCycles) -> Hook:
    def resolve(original: Callable[..., Any], processor: Any, result: Any, batch: Any) -> Any:
        # The result has been waited for by SGLang, so this is when a cycle is over.
        now = time.perf_counter()
        requests = batch.reqs
        going_on = [not (r.is_retracted or r.finished()) for r in requests]
        tokens = original(processor, result, batch)
        drafts = result.num_correct_drafts_per_req_cpu
        accepted = [n for n, counts in zip(drafts, going_on, strict=True) if counts]
        proposed = result.speculative_num_draft_tokens - 1
        cycles.cycle(accepted, proposed, len(requests), batch.forward_iter, now)
        return tokens

    return Hook(
        "sglang.srt.managers.scheduler_components.batch_result_processor:"
        "SchedulerBatchResultProcessor._resolve_spec_v2_tokens",
        resolve,
        "Counts verifications and accepted drafts where SGLang has them on the host.",
    )


def _after_tokenizer_metrics(original: Callable[..., None], manager: Any) -> None:
    original(manager)
    if not manager.enable_metrics or not _is_ours(manager.model_config):
        return
    from sglang_qwen3next_eagle3.overlay.metrics.families import Refusals

    labels = _of_requests(manager.server_args, manager.metrics_collector.labels)
    apply(tokenizer_hooks(Refusals(labels, ("shape", "choices", "length", "field"))))


def _after_scheduler_metrics(
    original: Callable[..., None], scheduler: Any, *args: Any, **kwargs: Any
) -> None:
    original(scheduler, *args, **kwargs)
    reporter = scheduler.metrics_reporter
    if not reporter.enable_metrics or not reporter.is_stats_logging_rank:
        return
    if not _is_ours(scheduler.model_config):
        return
    from sglang_qwen3next_eagle3.overlay.metrics.families import Refusals, Verifications, say

    server_args = scheduler.server_args
    labels = {name: str(value) for name, value in reporter.metrics_collector.labels.items()}
    runner = scheduler.tp_worker.model_runner
    path = runner.attn_backend.__dict__.get(PATH)
    ours = fast_stages(path, scheduler.draft_worker)
    say(FAST_PATH, labels, float(bool(ours)), stages=",".join(ours) or "none")
    captured = capture.captured_by(runner.model)
    if captured is not None:
        selection, source = str(captured.selection), captured.source
        say(CAPTURED, labels, 1.0, selection=selection, source=source)
    cycles = None
    if not scheduler.spec_algorithm.is_none():
        costs = _costs(_served(scheduler, frozenset(ours)))
        cycles = Verifications(labels, server_args.speculative_num_steps or 0, costs)
    refusals = Refusals(_of_requests(server_args, labels), ("scheduler",))
    apply(scheduler_hooks(cycles, refusals))


def fast_stages(path: Any, worker: Any) -> list[str]:
    """What our kernels serve: of the target by its `FastPath`, of a worker's head."""
    found = set() if path is None else set(path.stages)
    drafts = getattr(getattr(worker, "draft_worker", None), "draft_runner", None)
    if drafts is not None and HEAD in drafts.model.__dict__:
        found.add("head")
        if drafts.model.__dict__[HEAD].weights.codes:
            found.add("head_w8")
    return sorted(found)


def _is_ours(model_config: Any) -> bool:
    """Whether the target is Qwen3-Next and this release's metrics were reviewed.

    A server without our metrics serves as well, so another release is told and goes on.
    """
    if getattr(model_config.hf_config, "model_type", None) != MODEL_TYPE:
        return False
    installed = contract.installed_sglang()
    release = installed.release if installed else "unknown"
    reason = "they were reviewed with another release"
    try:
        if contract.read_manifest(release).of("metrics"):
            contract.require(["metrics"], installed)
            return True
    except UserError as error:
        reason = str(error)
    logger.warning("sglang-qwen3next-eagle3: SGLang %s without our metrics: %s", release, reason)
    return False


def _of_requests(server_args: Any, labels: dict[str, Any]) -> dict[str, str]:
    """The labels that the tokenizer's and the scheduler's metrics share."""
    shared = ("model_name", "engine_type", *(server_args.extra_metric_labels or ()))
    return {name: str(labels[name]) for name in shared}


def _served(scheduler: Any, ours: frozenset[str]) -> Served:
    import torch

    server_args, config = scheduler.server_args, scheduler.model_config.hf_config
    stored = {name: getattr(config, name, None) for name in precision.NAMES}
    return Served(
        tree=(
            server_args.speculative_num_steps,
            server_args.speculative_eagle_topk,
            server_args.speculative_num_draft_tokens,
        ),
        fast=ours,
        seams=frozenset(seams.serving()),
        ranks=server_args.tp_size,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        weights=precision.of_config(stored),
        eagle3=bool(scheduler.spec_algorithm.is_eagle3()),
    )


def _costs(served: Served) -> CycleCosts | None:
    """The costs in the environment, if they are of what is served."""
    every = cycle_costs.parse(os.environ.get(environment.CYCLE_COSTS))
    if not every:
        return None
    # Of those that are none of it, the nearest are named.
    nearest = sorted(every, key=lambda costs: costs.fast != bool(served.fast))
    for costs in nearest:
        if costs.why_not(served) is None:
            return costs
    asked = stages.parse(os.environ.get(environment.FAST))
    nobody = asked is not None and asked.auto and nearest[0].tree == served.tree
    level = logging.INFO if nobody else logging.WARNING
    reason = nearest[0].why_not(served)
    logger.log(level, "sglang-qwen3next-eagle3: the cycle costs are not used: %s", reason)
    return None


ENTRIES: tuple[Hook, ...] = (
    Hook(
        f"{_TOKENIZER}.init_metric_collector_watchdog",
        _after_tokenizer_metrics,
        "SGLang's metrics of the server's process are made.",
    ),
    Hook(
        "sglang.srt.managers.scheduler:Scheduler.init_metrics_reporter",
        _after_scheduler_metrics,
        "SGLang's metrics of a scheduler are made, and its target is prepared.",
    ),
)
"""In place in every server; without metrics, and for other targets, what they do is nothing."""
