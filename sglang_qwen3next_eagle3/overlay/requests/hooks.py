"""The SGLang symbols that the room of requests replaces, and when.

They are put in place where a process learns which target it serves, so that the servers of other
models in the same environment stay stock.
"""

import logging
from array import array
from collections.abc import Callable
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.target import MODEL_TYPE
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.hooks import Hook, apply
from sglang_qwen3next_eagle3.overlay.requests import (
    access,
    admission,
    body,
    bounds,
    choices,
    endings,
    grammars,
    logprobs,
    min_p,
    penalties,
    room,
    server_info,
)
from sglang_qwen3next_eagle3.overlay.requests.admission import Limits

logger = logging.getLogger(__name__)

_TOKENIZER = "sglang.srt.managers.tokenizer_manager:TokenizerManager"
_SCHEDULER = "sglang.srt.managers.scheduler:Scheduler"


def _when_the_target_is_known(original: Callable[..., None], owner: Any) -> None:
    original(owner)
    if getattr(owner.model_config.hf_config, "model_type", None) != MODEL_TYPE:
        return
    targets = _reviewed()
    apply(hook for hook in HOOKS if hook.target in targets)


def _reviewed() -> frozenset[str]:
    """What is hooked on this release for requests; nothing where they were not reviewed: such a
    release is served as stock SGLang does.

    Raises:
        SystemExit: it was, and its source is another.
    """
    installed = contract.installed_sglang()
    release = installed.release if installed else "unknown"
    known = release in contract.known_releases()
    if not known or not contract.read_manifest(release).of("requests"):
        logger.warning(
            "sglang-qwen3next-eagle3: SGLang %s keeps its own way with requests", release
        )
        return frozenset()
    try:
        return contract.require(["requests"], installed).hooked("requests")
    except UserError as error:
        raise SystemExit(f"sglang-qwen3next-eagle3: {error}") from None


def _limits(server_args: Any, model_config: Any) -> Limits:
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    algorithm = SpeculativeAlgorithm.from_string(server_args.speculative_algorithm)
    return Limits(
        vocab_size=model_config.vocab_size,
        speculative=not algorithm.is_none(),
        eagle3=algorithm.is_eagle3(),
        multi_item_scoring=server_args.enable_mis,
        grammar_backend=server_args.grammar_backend,
        bounds=bounds.of_this_server(),
    )


def _create_tokenized_object(
    original: Callable[..., Any], manager: Any, request: Any, *args: Any, **kwargs: Any
) -> Any:
    try:
        tokenized = original(manager, request, *args, **kwargs)
    except (ValueError, AssertionError):
        raise
    except Exception as error:  # SGLang takes most fields without looking at their types.
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if hasattr(tokenized, "return_logprob"):
        limits = _limits(manager.server_args, manager.model_config)
        reason = admission.refusal(tokenized, limits)
        if reason is not None:
            raise ValueError(reason)
        admission.adjust(tokenized, limits)
    return tokenized


def _handle_parallel_sampling(original: Callable[..., None], request: Any) -> None:
    asked = request.sampling_params
    for one in asked if isinstance(asked, list) else [asked]:
        if not isinstance(one, dict):
            continue
        if one.get("n") is None:
            one.pop("n", None)
        else:
            reason = admission.too_many_choices(one["n"], bounds.of_this_server().choices)
            if reason is not None:
                raise ValueError(reason)
    original(request)


def _normalize(original: Callable[..., None], request: Any) -> None:
    try:
        original(request)
    except (TypeError, IndexError, AttributeError, KeyError) as error:
        # The shapes of a body's fields do not go together.
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if request.is_single and not isinstance(request.rid, str):
        raise ValueError("rid must be one string, since there is one prompt.")
    reason = admission.missing_values(request)
    if reason is not None:
        raise ValueError(reason)


def _validate_one_request(
    original: Callable[..., None], manager: Any, request: Any, input_ids: Any
) -> None:
    try:
        room.validate_one_request(original, manager, request, input_ids)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _handle_generate_request(
    original: Callable[..., None], scheduler: Any, received: Any, **options: Any
) -> None:
    limits = _limits(scheduler.server_args, scheduler.model_config)
    reason = admission.refusal(received, limits)
    if reason is None:
        admission.adjust(received, limits)
        original(scheduler, received, **options)
        return
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    harmless = SamplingParams(max_new_tokens=0, temperature=0.0)
    harmless.normalize(None)
    refused = Req(
        received.rid,
        "",
        array("q", [0]),
        harmless,
        stream=received.stream,
        vocab_size=limits.vocab_size,
        http_worker_ipc=received.http_worker_ipc,
        time_stats=received.time_stats,
    )
    refused.tokenizer = scheduler.tokenizer
    refused.set_finish_with_abort(reason)
    scheduler.init_req_max_new_tokens(refused)
    scheduler._add_request_to_queue(refused)


ENTRIES: tuple[Hook, ...] = (
    Hook(
        f"{_TOKENIZER}.init_model_config",
        _when_the_target_is_known,
        "The first place where the server's process knows its target.",
    ),
    Hook(
        f"{_SCHEDULER}.init_model_config",
        _when_the_target_is_known,
        "The first place where a scheduler knows its target.",
    ),
)
"""In place in every server; what they do for other targets than Qwen3-Next is nothing."""

HOOKS: tuple[Hook, ...] = (
    Hook(
        f"{_TOKENIZER}._create_tokenized_object",
        _create_tokenized_object,
        "Refuses what would raise in the scheduler, whose end is the server's.",
    ),
    Hook(
        "sglang.srt.entrypoints.http_server:_setup_and_run_http_server",
        body.setup_and_run,
        "Bounds the body of a request, which SGLang reads whatever its size.",
    ),
    Hook(
        "sglang.srt.entrypoints.http_server:_setup_and_run_http_server",
        access.setup_and_run,
        "Asks who opens a WebSocket for the key, too.",
    ),
    Hook(
        "sglang.srt.utils.auth:_get_auth_level_from_app_and_scope",
        access.auth_level,
        "Keeps all that is an administrator's for the admin key.",
    ),
    Hook(
        "sglang.srt.utils.auth:decide_request_auth",
        access.decide,
        "Refuses a key that cannot be compared, instead of failing.",
    ),
    Hook(
        "sglang.srt.managers.io_struct:GenerateReqInput._handle_parallel_sampling",
        _handle_parallel_sampling,
        "Refuses a number of choices that is none, or too many to hold.",
    ),
    Hook(
        "sglang.srt.managers.io_struct:GenerateReqInput.normalize_batch_and_arguments",
        _normalize,
        "Answers shapes that do not go together with 400.",
    ),
    Hook(
        f"{_SCHEDULER}.handle_generate_request",
        _handle_generate_request,
        "Refuses the same where another process has tokenized the request.",
    ),
    Hook(
        f"{_TOKENIZER}._validate_one_request",
        _validate_one_request,
        "Names the prompt's own length, not with the drafts' slots added.",
    ),
    Hook(
        f"{_SCHEDULER}.init_req_max_new_tokens",
        room.init_req_max_new_tokens,
        "Keeps the drafts' slots free in the context and in the pool, too.",
    ),
    Hook(
        f"{_TOKENIZER}._send_one_request",
        choices.send_one_request,
        "Gives each of n choices a seed of its own.",
    ),
    Hook(
        "sglang.srt.managers.schedule_batch:Req.update_finish_state",
        endings.update_finish_state,
        "Looks at the tokens of one step of speculation one by one.",
    ),
    *(
        Hook(
            f"sglang.srt.constrained.xgrammar_backend:XGrammarGrammar.{method}",
            grammars.timed,
            "Counts the time of a grammar that every other request waits for.",
        )
        for method in ("accept_token", "fill_vocab_mask", "rollback")
    ),
    Hook(
        "sglang.srt.managers.scheduler_components.batch_result_processor:"
        "SchedulerBatchResultProcessor._accept_grammar_tokens",
        grammars.accept_tokens,
        "Ends a request whose grammar takes longer with every token, until the watchdog ends all.",
    ),
    Hook(
        "sglang.srt.sampling.sampling_batch_info:SamplingBatchInfo.from_schedule_batch",
        penalties.from_schedule_batch,
        "Starts penalties from what was said before a request was retracted.",
    ),
    Hook(
        "sglang.srt.speculative.eagle_worker_common:eagle_sample",
        penalties.verify,
        "Penalizes every draft for the tokens on its own branch.",
    ),
    Hook(
        "sglang.srt.speculative.eagle_worker_common:eagle_sample",
        min_p.verify,
        "Takes min_p along, which it does not hand to its kernel.",
    ),
    Hook(
        "sglang.srt.layers.logprob_processor:get_token_ids_logprobs_raw",
        logprobs.of_token_ids,
        "A request that asks for no token_ids_logprob beside one that does ends the scheduler.",
    ),
    Hook(
        "sglang.srt.managers.scheduler_components.output_streamer:"
        "_GenerationStreamAccumulator.accept",
        logprobs.send,
        "Keeps the logprob of the first token of a request that was retracted before it.",
    ),
    Hook(
        "sgl_kernel:tree_speculative_sampling_target_only",
        min_p.tree_sampling,
        "Cuts the target's probabilities by min_p.",
    ),
    Hook(
        "sglang.srt.speculative.eagle_utils:tree_speculative_sampling_target_only",
        min_p.tree_sampling,
        "Cuts the target's probabilities by min_p where that kernel is no longer in sgl_kernel.",
    ),
    Hook(
        "sglang.srt.sampling.sampling_batch_info:SamplingBatchInfo.copy_for_forward",
        penalties.copy_for_forward,
        "Takes along which requests are penalized.",
    ),
    Hook(
        "sglang.srt.model_executor.model_runner:ModelRunner.sample",
        penalties.sample,
        "Penalizes by the token that the step began with, which the host may not know yet.",
    ),
    Hook(
        f"{_TOKENIZER}.resolved_config_dict",
        server_info.resolved_config_dict,
        "Keeps the keys to itself: /server_info tells all arguments to whoever may ask.",
    ),
    Hook(
        "sglang.srt.managers.tokenizer_control_mixin:TokenizerControlMixin.get_internal_state",
        server_info.get_internal_state,
        "Keeps the keys to itself, which /server_info tells once more for each scheduler.",
    ),
    Hook(
        "sglang.srt.entrypoints.http_server:build_server_info",
        server_info.build_server_info,
        "Keeps the keys to itself, of the arguments and of the command line (0.5.23).",
    ),
)
"""In place in a server of Qwen3-Next."""
