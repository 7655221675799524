"""From what was asked for to a checked `FastPath`, or to a log line that says why not."""

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import (
    compile_pool,
    conditions,
    head_check,
    peers,
    prefill_products,
    ranks,
    selfcheck,
)
from sglang_qwen3next_eagle3.overlay.fast.compile_pool import Compilers
from sglang_qwen3next_eagle3.overlay.fast.conditions import Unsupported, full_precision
from sglang_qwen3next_eagle3.overlay.fast.dispatch import LIMITS, ROWS, FastPath, most_rows
from sglang_qwen3next_eagle3.overlay.fast.head import FastHead, HeadKernels
from sglang_qwen3next_eagle3.overlay.fast.head import check as check_head
from sglang_qwen3next_eagle3.overlay.fast.kernel_table import Kernels
from sglang_qwen3next_eagle3.overlay.fast.layers import (
    FastAttentionLayer,
    FastGdnLayer,
    FastLayer,
)
from sglang_qwen3next_eagle3.overlay.fast.made_up import (
    captured,
    draft_room,
    draft_tokens,
    no_room,
    target_room,
)
from sglang_qwen3next_eagle3.overlay.fast.proved import code
from sglang_qwen3next_eagle3.overlay.fast.room import captured_rows, too_little
from sglang_qwen3next_eagle3.overlay.fast.stages import (
    NAMED,
    OF_HEAD,
    PATH,
    PREFILLS,
    Stage,
    Wanted,
)
from sglang_qwen3next_eagle3.overlay.fast.trials import TRY

logger = logging.getLogger(__name__)
PREFIX = "sglang-qwen3next-eagle3: fast path"


def compilers_for(runner: Any, wanted: Wanted) -> Compilers | None:
    """What compiles kernels for a target's `ModelRunner` that is about to load its weights, begun;
    None where there will be no fast path, or several ranks: there nothing is compiled ahead."""
    try:
        arguments = variants.arguments_of(runner)
        reason = conditions.of_device(str(runner.device))
        if reason is None:
            _, reason = conditions.of_proofs(wanted, arguments, runner.model_config.hf_config)
        reason = reason or conditions.of_server(arguments)
        if reason is not None or arguments.tp_size > 1:
            return None
        return compile_pool.begin()
    except Exception as error:
        logger.debug("no processes compile kernels", exc_info=error)
        return None


def prepare(runner: Any, wanted: Wanted) -> FastPath | None:
    """The fast path of a target's `ModelRunner` whose graphs are not yet captured, checked.

    None, after one line in the log, where it cannot run.

    Raises:
        SystemExit: it is required, and it or one of its stages cannot be had.
        RuntimeError: with several ranks, the check failed on this one.
    """
    path = None
    try:
        path = _prepare(runner, wanted)
    except Exception as error:
        _survived(error, wanted, "off")
    if path is None and torch.cuda.is_available():
        # What was allocated for a path that is none is SGLang's again.
        torch.cuda.empty_cache()
    return path


def _survived(error: Exception, wanted: Wanted, what: str) -> None:
    """Who did not ask for ours has stock's, whatever is wrong with ours; on several ranks the
    others may be in sums that this one has left."""
    if not wanted.auto or ranks.several():
        raise error
    _say(wanted, "%s %s: %s", PREFIX, what, ranks.told(error))


def _conditions(
    owner: Any, wanted: Wanted, config: Any, further: Callable[[], str | None]
) -> tuple[Wanted, str | None]:
    """What is left of what is wanted of a runner or a worker, and why nothing can be had, on any
    rank. What was proved comes first: of a server that `auto` leaves alone nothing else is read."""
    reason: str | None
    try:
        arguments = variants.arguments_of(owner)
        if (reason := conditions.of_device(str(owner.device))) is None:
            wanted, reason = conditions.of_proofs(wanted, arguments, config())
        reason = reason or conditions.of_server(arguments) or further()
    except Exception as error:
        if not wanted.auto:
            logger.exception("%s: its conditions cannot be told", PREFIX)
        reason = ranks.told(error)
    return wanted, ranks.first_reason(reason)


def _prepare(runner: Any, wanted: Wanted) -> FastPath | None:
    started = time.monotonic()
    quiet = wanted.auto
    wanted, reason = _conditions(
        runner,
        wanted,
        lambda: runner.model.config,
        lambda: (
            conditions.of_runner(runner)
            or _too_many((draft_tokens(runner) or 1), most_rows())
            or no_room(target_room(runner), draft_tokens(runner))
            or (_without_room(runner) if quiet else None)
        ),
    )
    path: FastPath
    off: list[selfcheck.Deviation]
    if reason is None:
        path, reason = ranks.first_failure(lambda: _unchecked(runner, wanted), quiet)
    if reason is None and "allreduce" in wanted.stages:
        if (without := _no_sums(wanted)) is None:
            _open_peers(path, runner)
        else:
            logger.warning("%s: allreduce stays with stock: %s", PREFIX, without)
    if reason is None and ranks.several():
        # No way back to stock where it raises: the others are in sums that this rank has left.
        off = selfcheck.differing(path, runner)
    elif reason is None:
        runner.__dict__[PREFILLS] = prefill_products.begin(runner.model)
        off, reason = ranks.first_failure(lambda: selfcheck.differing(path, runner), quiet)
    if reason is not None:
        _off(reason, wanted)
        return None
    found = selfcheck.settle(path, off)
    for line in found:
        logger.warning("%s: %s", PREFIX, line)
    asked = wanted.stages - (OF_HEAD if ranks.several() else NAMED)
    asked -= _never_serving(wanted, _smallest_pass(runner))
    if wanted.required and (found or path.stages != asked):
        missing = ", ".join(sorted(asked - path.stages)) or "some layers"
        raise SystemExit(f"{PREFIX}: {missing} stay with stock, but it is required: {found}")
    if not path.stages:
        _off("no layer passed its check", wanted)
        return None
    ours = sum(bool(layer.stages) for layer in path.layers.values())
    if TRY in os.environ:
        logger.info("%s tries what was not found to be faster: %s", PREFIX, os.environ[TRY])
    logger.info(
        "%s on: %s; %d of %d layers; checked in %.1f s; code %s",
        PREFIX,
        ", ".join(f"{stage} up to {path.most(stage)} rows" for stage in sorted(path.stages)),
        ours,
        len(runner.model.model.layers),
        time.monotonic() - started,
        code().told,
    )
    return path


def _no_sums(wanted: Wanted) -> str | None:
    """A launch refuses it; this is for whom the caller's environment asks, of any server."""
    if not ranks.several():
        return "it adds up what several GPUs have, and this server has one"
    if "moe" not in wanted.stages:
        return "it is for sums around experts that are ours, and moe is not asked for"
    return None


def _open_peers(path: FastPath, runner: Any) -> None:
    """Sums over ranks by our kernel, if all ranks can and their first sums are right; a line in the
    log where not."""
    width, kernels = runner.model.config.hidden_size, path.kernels
    kernels.peers, reason = peers.agreed(width, runner.device)
    if reason is None:
        reason = ranks.first_reason(selfcheck.wrong_sums(kernels, runner.device))
    if reason is not None:
        kernels.peers = None
        logger.warning("%s: allreduce stays with stock: %s", PREFIX, reason)


def _too_many(tokens: int, rows: int) -> str | None:
    return f"it has room for {rows} rows, a draft has {tokens} tokens" if tokens > rows else None


def _without_room(runner: Any) -> str | None:
    nodes = draft_tokens(runner) or 1
    return too_little(runner, captured_rows(runner, nodes, most_rows()), nodes)


def _unchecked(runner: Any, wanted: Wanted) -> FastPath:
    if variants.arguments_of(runner).load_format == "dummy":
        without_invented_scales(runner.model)
    nodes = draft_tokens(runner) or 1
    rows = captured_rows(runner, nodes, most_rows())
    kernels = Kernels(runner.model.model, runner.attn_backend, rows, runner.device, nodes)
    smallest = _smallest_pass(runner)
    left = _never_serving(wanted, smallest)
    for stage in sorted(left):
        said = f"it serves up to {ROWS[stage]} rows, the smallest pass has {smallest}"
        _say(wanted, "%s: %s stays with stock: %s", PREFIX, stage, said)
    return build(runner, kernels, wanted.stages - NAMED - left)


def _smallest_pass(runner: Any) -> int:
    """Rows of the smallest pass that is captured."""
    return captured(runner)[0] * (draft_tokens(runner) or 1)


def _never_serving(wanted: Wanted, rows: int) -> frozenset[Stage]:
    """The stages that are stock's in a pass of so many rows, so in every one that is captured:
    there stock's are the faster ones, and whoever requires the others has them."""
    return frozenset(stage for stage in wanted.stages - NAMED if ROWS[stage] < rows)


def prepare_head(worker: Any, wanted: Wanted) -> FastHead | None:
    """The head of an `EagleDraftWorker` whose graphs are not yet captured, checked.

    None, after one line in the log, where it is not asked for or cannot be had.

    Raises:
        SystemExit: it is required, and cannot be had.
        RuntimeError: with several ranks, the check failed on this one.
    """
    if "head" not in wanted.stages:
        return None
    try:
        return _prepare_head(worker, wanted)
    except Exception as error:
        _survived(error, wanted, "without the head")
        return None


def _prepare_head(worker: Any, wanted: Wanted) -> FastHead | None:
    started = time.monotonic()
    wanted, reason = _conditions(
        worker,
        wanted,
        lambda: worker.target_worker.model_runner.model.config,
        lambda: (
            conditions.of_drafts(worker)
            or _too_many(worker.speculative_num_draft_tokens, LIMITS["head"])
            or no_room(draft_room(worker.draft_runner), worker.speculative_num_draft_tokens)
        ),
    )
    if reason is None and "head" not in wanted.stages:
        reason = "not proved on this GPU with so many ranks"
    head: FastHead
    if reason is None:
        rounded = "head_w8" in wanted.stages
        head, reason = _checked_head(worker, rounded, wanted.auto)
        if reason is not None and rounded and not wanted.required:
            logger.warning("%s: head_w8 stays off: %s", PREFIX, reason)
            head, reason = _checked_head(worker, False, wanted.auto)
    if reason is not None:
        if wanted.required:
            raise SystemExit(f"{PREFIX}: head stays with stock, but it is required: {reason}")
        _say(wanted, "%s: head stays with stock: %s", PREFIX, reason)
        return None
    seconds = time.monotonic() - started
    extra = head.weights.extra_bytes
    logger.info(
        "%s on: head up to %d rows%s; checked in %.1f s; code %s",
        PREFIX,
        ROWS["head"],
        f", its weights in 8 bits beside the loaded ones ({extra / 1e6:,.0f} MB)" if extra else "",
        seconds,
        code().told,
    )
    return head


def _checked_head(worker: Any, rounded: bool, quiet: bool) -> tuple[Any, str | None]:
    """A head that passed its check on all ranks, or why there is none. rounded: its weights in 8
    bits.

    Raises:
        RuntimeError: with several ranks, the check failed on this one.
    """
    # What one rank cannot have is stock's on all: the others would wait for it in sums.
    head, reason = ranks.first_failure(lambda: build_head(worker, rounded=rounded), quiet)
    if reason is not None:
        return None, reason
    found: list[selfcheck.Deviation]
    if ranks.several():
        # No way back to stock where it raises: the others are in sums that this rank has left.
        found = head_check.compare(head, worker)
    else:
        found, reason = ranks.first_failure(lambda: head_check.compare(head, worker), quiet)
        if reason is not None:
            return None, reason
    return head, _differs(found)


def serves_further(head: FastHead, worker: Any, wanted: Wanted) -> bool:
    """Whether a head that serves one number of steps passes its check for the worker's by now,
    another state of adaptive drafting; one line in the log where it does not.

    Raises:
        SystemExit: it is required.
        RuntimeError: with several ranks, the check failed on this one.
    """
    tokens, off = worker.speculative_num_draft_tokens, list[selfcheck.Deviation]()
    try:
        reason = _too_many(tokens, LIMITS["head"])
        if reason is None and ranks.several():
            off = head_check.compare(head, worker, ends=True)
        elif reason is None:
            off, reason = ranks.first_failure(
                lambda: head_check.compare(head, worker, ends=True), wanted.auto
            )
    except Exception as error:
        _survived(error, wanted, f"without the head for drafts of {tokens} tokens")
        return False
    if reason is None:
        reason = _differs(off)
    if reason is None:
        return True
    said = f"head stays with stock for drafts of {tokens} tokens"
    if wanted.required:
        raise SystemExit(f"{PREFIX}: {said}, but it is required: {reason}")
    _say(wanted, "%s: %s: %s", PREFIX, said, reason)
    return False


def _differs(found: list[selfcheck.Deviation]) -> str | None:
    """What is off, on any rank."""
    own = [deviation for deviation in found if deviation.off]
    off = [deviation for said in ranks.of_all(own) for deviation in said]
    return f"it differs from stock in {off[0]}" if off else None


def build_head(
    worker: Any, kernels: type[HeadKernels] = HeadKernels, *, rounded: bool = False
) -> FastHead:
    """The head of a worker with its kernels, unchecked. rounded: its weights in 8 bits.

    Raises:
        Unsupported: the head has something that they do not know.
    """
    model = worker.draft_runner.model
    check_head(model)
    # Drafts stand behind the last token of a context.
    context = worker.draft_runner.req_to_token_pool.req_to_token.shape[1]
    attn = model.model.layers[0].self_attn
    path = worker.target_worker.model_runner.attn_backend.__dict__.get(PATH)
    targets = None if path is None else path.kernels.workspace
    tp_size = variants.arguments_of(worker).tp_size
    return FastHead(model, kernels(attn, context, worker.device, targets), tp_size, rounded)


def _off(reason: str, wanted: Wanted) -> None:
    if wanted.required:
        raise SystemExit(f"{PREFIX} is required, but {reason}")
    _say(wanted, "%s off: %s", PREFIX, reason)


def _say(wanted: Wanted, *line: str) -> None:
    """What is served without; no warning to somebody who did not ask for it."""
    logger.log(logging.INFO if wanted.auto else logging.WARNING, *line)


def _is_gdn(layer: Any) -> bool:
    return hasattr(layer, "linear_attn")


def without_invented_scales(model: Any) -> None:
    """Scales of the KV cache are 1, as those of a checkpoint that has none.

    SGLang's dummy weights are random, the scales among them.
    """
    for layer in model.model.layers:
        attn = getattr(layer, "attn", None)
        for name in ("k_scale", "v_scale"):
            scale = getattr(attn, name, None)
            if isinstance(scale, torch.Tensor):
                scale.data.fill_(1.0)
                setattr(attn, f"{name}_float", 1.0)


def build(runner: Any, kernels: Kernels, stages: frozenset[Stage]) -> FastPath:
    """The layers of a target with their kernels, unchecked.

    A stage that does not fit the weights of one layer is stock's in all.
    """
    left = frozenset(stages)
    while True:
        try:
            return _build(runner, kernels, left)
        except Unsupported as error:
            if error.stage not in left:  # it cannot be helped by leaving it to stock
                raise
            logger.warning("%s: %s stays with stock: %s", PREFIX, error.stage, error)
            left -= {error.stage}


def _build(runner: Any, kernels: Kernels, stages: frozenset[Stage]) -> FastPath:
    pool = runner.attn_backend.linear_attn_backend.req_to_token_pool
    layers: dict[int, FastLayer] = {}
    for layer in runner.model.model.layers:
        if _is_gdn(layer):
            index = pool.mamba_map[layer.layer_id]
            layers[layer.layer_id] = FastGdnLayer(layer, kernels, stages, index)
        else:
            layers[layer.layer_id] = FastAttentionLayer(layer, kernels, stages)
    head = _lm_head(runner.model) if "lm_head" in stages else None
    return FastPath(kernels, layers, head, device=runner.device)


def _lm_head(model: Any) -> Any:
    head, processor = model.lm_head, model.logits_processor
    weight = getattr(head, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dtype != torch.bfloat16:
        raise Unsupported("lm_head", "the head's weight is not bfloat16")
    if full_precision(processor):
        raise Unsupported("lm_head", "the logits are not a product in bfloat16")
    return head
