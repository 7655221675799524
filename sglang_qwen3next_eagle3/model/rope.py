"""What SGLang reads of a config about positions: the context it derives, and what it passes over.

As SGLang 0.5.17 does: utils/hf_transformers/common.py (get_context_length) for the context, and
configs/qwen3_next.py, whose class knows `rope_theta` and `rope_scaling` but not `rope_parameters`,
in which transformers 5 saves both.
"""

from collections.abc import Mapping
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError

OVERRIDES = "--json-model-override-args"
_LENGTHS = (
    "max_sequence_length", "seq_length", "max_seq_len", "model_max_length",
    "max_position_embeddings",
)  # fmt: skip
_MOST = 2**53
"""Of lengths and factors: finite, and their product is."""
_PARAMETERS, _SCALING = "rope_parameters", "rope_scaling"
# Qwen3NextConfig's own.
_DEFAULTS = {"rope_theta": 10000.0, "partial_rotary_factor": 0.25}
# Of these transformers wants the original length: it adds it to a head's, and SGLang then takes no
# factor; of a target it looks for the length before there is any, and SGLang ends.
_WITH_ORIGINAL = ("yarn", "llama3", "longrope")


def overridden(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A target's config as SGLang has it with these: `rope_parameters` is another name of
    `rope_scaling` there."""
    changed = dict(config)
    for key, value in overrides.items():
        changed[_SCALING if key == _PARAMETERS else key] = value
    return changed


def context_length(config: Mapping[str, Any]) -> int:
    """Tokens that a target's context has, a stretched one's with it.

    Raises:
        UserError: a factor or a length that is no number.
    """
    scaling = config.get(_SCALING) or {}
    factor: Any = 1
    if not isinstance(scaling, Mapping):
        raise UserError(f"the target's {_SCALING} is {scaling!r}, not an object")
    if "original_max_position_embeddings" not in scaling and scaling.get("rope_type") != "llama3":
        factor = scaling.get("factor", 1)
    return _length(config, factor, 32768)


def head_context_length(config: Mapping[str, Any]) -> int:
    """The same of a head, whose config transformers reads.

    Raises:
        UserError: a factor or a length that is no number.
    """
    nested = config.get(_SCALING) or config.get(_PARAMETERS) or {}
    factor: Any = 1
    if isinstance(nested, Mapping):
        kind = nested.get("rope_type") or nested.get("type")
        if "original_max_position_embeddings" not in nested and kind not in _WITH_ORIGINAL:
            factor = nested.get("factor") or 1
    return _length(config, factor, 2048)


def _length(config: Mapping[str, Any], factor: Any, default: int) -> int:
    name, length = "max_position_embeddings", default
    for key in _LENGTHS:
        if config.get(key) is not None:
            name, length = key, config[key]
            break
    for what, value in ((name, length), ("factor of the rope", factor)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MOST:
            raise UserError(f"{what} is {value!r} in the config, not a possible number above 0")
    return int(factor * length)


def check(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """That a target's `rope_parameters` say nothing that SGLang would pass over.

    config: without the overrides.

    Raises:
        UserError: other positions would be served than the checkpoint's, or SGLang would end.
    """
    nested = config.get(_PARAMETERS)
    if not isinstance(nested, Mapping):
        return
    kind = nested.get("rope_type") or nested.get("type") or "default"
    if kind in _WITH_ORIGINAL:
        raise UserError(
            f"the target's config.json has {_PARAMETERS} of type {kind}, at which SGLang's class "
            f"for Qwen3-Next ends: write them there as {_SCALING}"
        )
    served = overridden(config, overrides)
    if kind != "default" and not served.get(_SCALING):
        raise UserError(
            f"the target's config.json has {_PARAMETERS} of type {kind}, which SGLang's class for "
            f"Qwen3-Next passes over: write them there as {_SCALING}, or pass {OVERRIDES}"
        )
    for key, default in _DEFAULTS.items():
        said, taken = nested.get(key), served.get(key, default)
        if said is not None and said != taken:
            raise UserError(
                f"the target's config.json says {key} {said} in {_PARAMETERS}, which SGLang's "
                f"class for Qwen3-Next passes over: it would take {taken}, and the text be noise; "
                f"write {key} beside it, at the top, or pass -- {OVERRIDES} "
                f"'{{\"{key}\": {said}}}'"
            )
