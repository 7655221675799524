"""The SGLang symbols that the fast path stands around, and its switch."""

import logging
from collections.abc import Callable
from typing import Any

from sglang_qwen3next_eagle3.overlay import contract, variants
from sglang_qwen3next_eagle3.overlay.fast import dispatch, prefill_products, preparation
from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath
from sglang_qwen3next_eagle3.overlay.fast.head import FastHead
from sglang_qwen3next_eagle3.overlay.fast.stages import COMPILERS, HEAD, PATH, PREFILLS, Wanted
from sglang_qwen3next_eagle3.overlay.fast.updates import Updates
from sglang_qwen3next_eagle3.overlay.hooks import Hook

logger = logging.getLogger(__name__)

LOAD = "sglang.srt.model_executor.model_runner:ModelRunner.load_model"
CAPTURE_GRAPHS = "sglang.srt.model_executor.model_runner:ModelRunner.init_cuda_graphs"
GDN_LAYER = "sglang.srt.models.qwen3_next:Qwen3HybridLinearDecoderLayer.forward"
ATTENTION_LAYER = "sglang.srt.models.qwen3_next:Qwen3HybridAttentionDecoderLayer.forward"
COMMIT = (
    "sglang.srt.layers.attention.hybrid_linear_attn_backend:"
    "HybridLinearAttnBackend.update_mamba_state_after_mtp_verify"
)
LM_HEAD = "sglang.srt.layers.logits_processor:LogitsProcessor._compute_lm_head"
CAPTURE_DRAFTS = "sglang.srt.speculative.eagle_worker_v2:EagleDraftWorker._capture_cuda_graphs"
DRAFT = "sglang.srt.speculative.eagle_worker_v2:EagleDraftWorker.draft_forward"
HEAD_FORWARD = "sglang.srt.models.llama:LlamaForCausalLM.forward"
_UPDATER = "sglang.srt.managers.scheduler_components.weight_updater:SchedulerWeightUpdaterManager"
LOADED = f"{_UPDATER}.flush_cache_after_weight_update"
ENDED = f"{_UPDATER}.end_weight_update"


def hooks(wanted: Wanted) -> tuple[Hook, ...]:
    """The hooks that prepare the fast path before the capture and lead passes through it."""

    updates = Updates()
    compiling: list[Any] = []
    """The target's runner, as long as processes compile for it."""

    def load(original: Callable[..., Any], runner: Any) -> Any:
        if not runner.is_draft_worker and COMPILERS not in runner.__dict__:
            runner.__dict__[COMPILERS] = preparation.compilers_for(runner, wanted)
            compiling.append(runner)
        return original(runner)

    def capture_graphs(original: Callable[..., Any], runner: Any, *args: Any, **kwargs: Any) -> Any:
        if runner.is_draft_worker:
            return original(runner, *args, **kwargs)
        try:
            path = preparation.prepare(runner, wanted)
            if path is not None:
                install(path, runner)
                updates.path = path
                _doubt("its kernels")
            captured = original(runner, *args, **kwargs)
        except BaseException:
            prefill_products.stop(runner.__dict__.pop(PREFILLS, None))
            _stop_compilers(compiling)
            raise
        if path is None or "head" not in wanted.stages:
            _stop_compilers(compiling)
        prefill_products.finish(runner.__dict__.pop(PREFILLS, None))
        if path is not None:
            prefill_products.use(runner.model)
        return captured

    return (
        Hook(LOAD, load, "begins what compiles our kernels while the weights are loaded"),
        Hook(CAPTURE_GRAPHS, capture_graphs, "prepares and checks our kernels before the capture"),
        Hook(GDN_LAYER, _layer, "leads a GDN layer through our kernels"),
        Hook(ATTENTION_LAYER, _layer, "leads an attention layer through our kernels"),
        Hook(COMMIT, _commit, "commits the states of a verify that was ours"),
        Hook(LM_HEAD, _lm_head, "computes the logits of few rows"),
        Hook(LOADED, updates.loaded, "renews what was derived of weights that are updated"),
        *(_sessions(updates) if variants.has_update_sessions() else ()),
        *(_head_hooks(wanted, updates, compiling) if "head" in wanted.stages else ()),
    )


def _sessions(updates: Updates) -> tuple[Hook, ...]:
    return (Hook(ENDED, updates.ended, "the same at the end of a session of updates"),)


def _head_hooks(wanted: Wanted, updates: Updates, compiling: list[Any]) -> tuple[Hook, ...]:
    def capture_drafts(original: Callable[..., Any], worker: Any) -> Any:
        known: FastHead | None = worker.draft_runner.model.__dict__.get(HEAD)
        if known is not None and variants.arguments_of(worker).speculative_adaptive:
            # A further state, which has other numbers of rows.
            if preparation.serves_further(known, worker, wanted):
                return original(worker)
            del known.model.__dict__[HEAD]
            try:
                return original(worker)
            finally:
                install_head(known)
        head = preparation.prepare_head(worker, wanted)
        if head is not None:
            install_head(head)
            updates.head = head
            _doubt("the head's kernels")
        if compiling and not variants.arguments_of(worker).speculative_adaptive:
            _stop_compilers(compiling)
        return original(worker)

    return (
        Hook(CAPTURE_DRAFTS, capture_drafts, "prepares and checks the head before its graphs"),
        Hook(DRAFT, _draft, "drafts a chain by our kernels"),
        Hook(HEAD_FORWARD, _head_forward, "leads the head through our kernels"),
    )


def _stop_compilers(compiling: list[Any]) -> None:
    """Nothing is asked of them any more. Of a server whose steps follow its load there are more
    states to come: there they end when they have not been asked for long."""
    while compiling:
        compilers = compiling.pop().__dict__.pop(COMPILERS, None)
        if compilers is not None:
            compilers.stop()


def _doubt(what: str) -> None:
    if doubt := contract.not_on_gpus():
        logger.warning("%s: %s: %s", preparation.PREFIX, what, doubt)


def install_head(head: FastHead) -> None:
    """Let the draft model find its path."""
    head.model.__dict__[HEAD] = head


def install(path: FastPath, runner: Any) -> None:
    """Let the target's layers, its backend and its lm_head find the path."""
    for layer in runner.model.model.layers:
        layer.__dict__[PATH] = path
    runner.attn_backend.__dict__[PATH] = path
    if path.lm_head is not None:
        path.lm_head.__dict__[PATH] = path


def _layer(original: Callable[..., Any], layer: Any, *args: Any, **kwargs: Any) -> Any:
    path: FastPath | None = layer.__dict__.get(PATH)
    if path is None or args:
        return original(layer, *args, **kwargs)
    return dispatch.forward_layer(path, layer.layer_id, lambda: original(layer, **kwargs), kwargs)


def _commit(original: Callable[..., Any], backend: Any, *args: Any, **kwargs: Any) -> Any:
    path: FastPath | None = backend.__dict__.get(PATH)
    if path is None or args:
        return original(backend, *args, **kwargs)
    return dispatch.commit(path, original, backend, **kwargs)


def _lm_head(
    original: Callable[..., Any],
    processor: Any,
    hidden_states: Any,
    lm_head: Any,
    embedding_bias: Any = None,
    **buffer: Any,
) -> Any:
    path: FastPath | None = lm_head.__dict__.get(PATH)
    if path is None or not path.take_logits() or embedding_bias is not None:
        return original(processor, hidden_states, lm_head, embedding_bias, **buffer)
    # Stock writes logits in float32 alone straight into the buffer of a graph, ours are bfloat16.
    return path.kernels.lm_head(hidden_states, lm_head.weight.data)


def _draft(original: Callable[..., Any], worker: Any, forward_batch: Any) -> Any:
    head: FastHead | None = worker.draft_runner.model.__dict__.get(HEAD)
    if head is None or not _captured() or not head.drafts_chain(worker, forward_batch):
        return original(worker, forward_batch)
    return head.chain(worker, forward_batch)


def _head_forward(
    original: Callable[..., Any],
    model: Any,
    input_ids: Any,
    positions: Any,
    forward_batch: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    head: FastHead | None = model.__dict__.get(HEAD)
    others = (*args, *kwargs.values())
    at = None
    if head is not None and _captured() and all(value is None for value in others):
        at = head.pass_of(forward_batch)
    if head is None or at is None:
        return original(model, input_ids, positions, forward_batch, *args, **kwargs)
    return head.forward(at)


def _captured() -> bool:
    from sglang.srt.model_executor import runner

    return bool(runner.get_is_capture_mode())
