"""Capture of auxiliary hidden states in stock SGLang's Qwen3-Next, for any selection of streams.

Stock SGLang flags layers, and a flagged layer appends the stream that enters it to the list that
`Qwen3NextModel.forward` hands down (`prepare_attn_and_capture_last_layer_outputs`). That path knows
when the stream is complete under tensor parallelism (the all-reduce of a layer may be fused into
the next layer's norm), so it is kept; only which layers are flagged is ours. The one stream that no
layer enters is the last layer's output: it is the residual that the final norm returns beside the
normed states, and it is appended behind the others.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import captured_layers
from sglang_qwen3next_eagle3.head.captured_layers import CapturedLayers, NamedLayers
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import MODEL_TYPE, Target, layer_kinds
from sglang_qwen3next_eagle3.overlay.hooks import Hook

logger = logging.getLogger(__name__)

MODULE = "sglang.srt.models.qwen3_next"
SET_LAYERS = f"{MODULE}:Qwen3NextForCausalLM.set_eagle3_layers_to_capture"
FORWARD = f"{MODULE}:Qwen3NextModel.forward"
_FINAL_TAP = "_qwen3next_eagle3_final_tap"
_TOLD = "_qwen3next_eagle3_told"
_CAPTURED = "_qwen3next_eagle3_captured"


class Choose(Protocol):
    """Which streams to capture, given the target and the ids in the head's config."""

    def __call__(self, target: Target, head_ids: Sequence[int] | None) -> CapturedLayers: ...


class FinalTap:
    """Keeps the residual of the model's final norm for the one forward pass that made it."""

    def __init__(self) -> None:
        self._residual: Any = None

    def __call__(self, _norm: Any, _arguments: Any, output: Any) -> None:
        """Forward hook of the final norm, whose output is (normed, residual), each [T, hidden]."""
        self._residual = output[1]

    def take(self, hidden_states: Any) -> Any:
        """The residual, [T, hidden]; released here, so that no step's tensor outlives it.

        An idle rank of data-parallel attention skips the final norm and has no rows: its (empty)
        hidden states stand in.
        """
        residual, self._residual = self._residual, None
        return hidden_states if residual is None else residual


def hooks(choose: Choose) -> tuple[Hook, ...]:
    """The two hooks, with `choose` deciding what a Qwen3-Next target captures."""

    def set_layers(
        original: Callable[..., None], model: Any, layer_ids: Sequence[int] | None = None
    ) -> None:
        if getattr(model.config, "model_type", None) != MODEL_TYPE:
            original(model, layer_ids)
        elif model.pp_group.is_last_rank:
            chosen = _chosen(choose, model, layer_ids)
            install(model, chosen.selection)
            model.__dict__[_CAPTURED] = chosen

    return (
        Hook(SET_LAYERS, set_layers, "flags the layers of the selection instead of ids + 1"),
        Hook(
            FORWARD,
            _forward,
            "tells the last layer that it is; appends the stream that leaves it, if selected",
        ),
    )


def target_of(config: Any) -> Target:
    """The target as SGLang's config object describes it; enough of it to place streams."""
    keys = ("num_hidden_layers", "layer_types", "full_attention_interval", "hidden_size")
    values = {key: getattr(config, key, None) for key in keys}
    known = {key: value for key, value in values.items() if value is not None}
    layer_kinds(known)
    return Target(known)


def install(model: Any, selection: AuxSelection) -> None:
    """Make a `Qwen3NextForCausalLM` capture exactly this selection, whatever it captured before."""
    decoder = model.model
    count = len(decoder.layers)
    for index, layer in enumerate(decoder.layers):
        layer._is_layer_to_capture = index in selection.depths
    decoder.layers_to_capture = list(selection.depths)
    model.capture_aux_hidden_states = True
    _set_final_tap(decoder, count in selection.depths)


def tell_last_layer(decoder: Any) -> None:
    """Tell the last layer of a `Qwen3NextModel` that it is the last, which stock 0.5.17 does not.

    With FlashInfer's all-reduce fusion (automatic at TP > 1 on Hopper) it would leave its
    all-reduce to a layer that does not exist, and the final norm would see one rank's partial sum.
    """
    if _TOLD in decoder.__dict__:
        return
    decoder.__dict__[_TOLD] = True
    communicator: Any = getattr(decoder.layers[-1], "layer_communicator", None)
    if hasattr(communicator, "is_last_layer"):
        communicator.is_last_layer = True


def _set_final_tap(decoder: Any, wanted: bool) -> None:
    present = decoder.__dict__.pop(_FINAL_TAP, None)
    if present is not None:
        present[1].remove()
    if wanted:
        tap = FinalTap()
        decoder.__dict__[_FINAL_TAP] = (tap, decoder.norm.register_forward_hook(tap))


def _forward(original: Callable[..., Any], decoder: Any, *args: Any, **kwargs: Any) -> Any:
    # Here and not where a selection is set: without speculation and with MTP none is.
    tell_last_layer(decoder)
    result = original(decoder, *args, **kwargs)
    entry = decoder.__dict__.get(_FINAL_TAP)
    if entry is None:
        return result
    hidden_states, captured = result if isinstance(result, tuple) else (result, [])
    captured.append(entry[0].take(hidden_states))
    return hidden_states, captured


def captured_by(model: Any) -> CapturedLayers | None:
    """What a `Qwen3NextForCausalLM` was made to capture, and why; None where it captures nothing
    for a head, or on a rank that does not hold its last layer."""
    captured: CapturedLayers | None = model.__dict__.get(_CAPTURED)
    return captured


def _chosen(choose: Choose, model: Any, head_ids: Sequence[int] | None) -> CapturedLayers:
    target = target_of(model.config)
    try:
        captured = choose(target, head_ids)
    except UserError as error:
        raise SystemExit(f"sglang-qwen3next-eagle3: {error}") from None
    if _is_first_rank():
        logger.info("sglang-qwen3next-eagle3: %s", captured.describe(target))
    return captured


def _is_first_rank() -> bool:
    import torch.distributed as dist

    return not dist.is_initialized() or dist.get_rank() == 0


def choose_by(environment: str | None, spelled: Callable[[], str | None] = lambda: None) -> Choose:
    """The rule of the plugin: the environment's selection, else what the head's config spells, else
    its ids, else `card`.

    spelled: tells the selection under our own key of the head's config, or None.
    """

    def choose(target: Target, head_ids: Sequence[int] | None) -> CapturedLayers:
        count = len(head_ids) if head_ids else None
        if not environment:
            return captured_layers.decide(target, NamedLayers(spelled(), head_ids), count=count)
        option, allow_gdn = aux_layers.from_environment(environment)
        return captured_layers.decide(
            target,
            NamedLayers(),
            count=count,
            option=option,
            option_source=aux_layers.ENVIRONMENT_VARIABLE,
            allow_gdn=allow_gdn,
        )

    return choose
