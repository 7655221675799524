"""Auxiliary hidden states: which streams of the target the EAGLE3 head reads.

A stream of the residual is named by a layer and a tap: `input` is the stream that enters the
layer, `output` the one that leaves it, so that output@i and input@(i + 1) are one stream. The
output of the last layer is the stream before the final norm.

How a selection of them is spelled and what it means on a target; which one is captured is decided
in `head.captured_layers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.target import Target

ENVIRONMENT_VARIABLE = "SGLANG_QWEN3NEXT_EAGLE3_AUX_LAYERS"
"""How a selection reaches SGLang's scheduler processes.

Its value is a selection (`card`, `output:3,23,47`), followed by the word `allow-gdn` where GDN
layers may be named; or `off`, which leaves SGLang's own capture alone.
"""
OFF = "off"
ALLOW_GDN = "allow-gdn"
CARD, FORK, SGLANG = "card", "fork", "sglang"
NAMED = (CARD, FORK, SGLANG)
HOW_TO_SPELL = (
    f"write {', '.join(NAMED)}, one tap for all (output:3,23,47) "
    "or a tap for each (input:3,output:23,output:47)"
)

Kind = Literal["input", "output"]


@dataclass(frozen=True)
class Tap:
    """One stream: the input or the output of a layer (layers count from 0)."""

    layer: int
    kind: Kind

    @property
    def depth(self) -> int:
        """Decoder layers below this stream: equal for output@i and input@(i + 1).

        It is also the index into transformers' `hidden_states`, except for the stream that leaves
        the last layer: there transformers puts the normed one.
        """
        return self.layer if self.kind == "input" else self.layer + 1

    def __str__(self) -> str:
        return f"{self.kind}@{self.layer}"


@dataclass(frozen=True)
class AuxSelection:
    """The streams that are captured, ascending in depth, as SGLang and SpecForge order them."""

    taps: tuple[Tap, ...]
    name: str | None = None

    @cached_property
    def depths(self) -> tuple[int, ...]:
        return tuple(tap.depth for tap in self.taps)

    def __str__(self) -> str:
        """The spelling that `parse` reads back: `output:3,23,47` or `input:3,output:23`."""
        kinds = {tap.kind for tap in self.taps}
        if len(kinds) == 1:
            return f"{kinds.pop()}:{','.join(str(tap.layer) for tap in self.taps)}"
        return ",".join(f"{tap.kind}:{tap.layer}" for tap in self.taps)

    def gdn_streams(self, target: Target) -> tuple[Tap, ...]:
        """The taps whose stream leaves a GDN layer (the embedding, depth 0, leaves none)."""
        return tuple(tap for tap in self.taps if tap.depth and target.kinds[tap.depth - 1] == "gdn")


def parse(text: str) -> AuxSelection | str:
    """A spelled selection, or the name of a named one.

    Raises:
        UserError: the text is neither.
    """
    text = text.strip()
    if text in NAMED:
        return text
    taps: list[Tap] = []
    kind: Kind | None = None
    for part in text.split(","):
        prefix, colon, number = part.strip().rpartition(":")
        if colon:
            if prefix not in get_args(Kind):
                raise UserError(f"auxiliary layers {text!r}: no tap {prefix!r}; {HOW_TO_SPELL}")
            kind = prefix  # type: ignore[assignment]
        if kind is None or not number.isascii() or not number.isdecimal():
            raise UserError(f"auxiliary layers {text!r} cannot be read; {HOW_TO_SPELL}")
        taps.append(Tap(int(number), kind))
    return AuxSelection(tuple(taps))


def named(name: str, target: Target) -> AuxSelection:
    """The streams of a named selection on this target.

    card: output of the first, the middle (index (n - 1) // 2) and the last attention layer, as the
        model card of thoughtworks/Qwen3-Coder-Next-Eagle3 says (3, 23, 47 of 48).
    fork: input of the first, middle (index n // 2) and last attention layer, as the fork that made
        the card's figures captured (commit 63291f7f51; 3, 27, 47).
    sglang: input of layers 2, L // 2 and L - 3, stock SGLang's default (2, 24, 45;
        0.5.9 to 0.5.23).

    Raises:
        UserError: the target has too few layers for it.
    """
    attention, layers = target.attention_layers, target.num_layers
    if name == SGLANG:
        chosen, kind = (2, layers // 2, layers - 3), "input"
    elif len(attention) < 3:
        raise UserError(
            f"the target has {len(attention)} attention layers, so there is no {name!r} selection "
            "of first, middle and last: name the streams, for example --aux-layers output:3,7"
        )
    elif name == FORK:
        chosen, kind = (attention[0], attention[len(attention) // 2], attention[-1]), "input"
    else:
        chosen, kind = (attention[0], attention[(len(attention) - 1) // 2], attention[-1]), "output"
    if list(chosen) != sorted(set(chosen)) or chosen[0] < 0:
        raise UserError(
            f"the target's {layers} layers are too few for the {name!r} selection: "
            "name the streams with --aux-layers"
        )
    taps = tuple(Tap(layer, kind) for layer in chosen)  # type: ignore[arg-type]
    return AuxSelection(taps, name)


def from_head_ids(ids: Sequence[object]) -> AuxSelection:
    """The selection that a head's `eagle_aux_hidden_state_layer_ids` name: output@id.

    SGLang captures in layer order whatever the order of the ids, so they are sorted here.

    Raises:
        UserError: an id is not a layer number.
    """
    for value in ids:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UserError(
                f"the head's eagle_aux_hidden_state_layer_ids are {list(ids)!r}: "
                "layer numbers from 0 are expected; correct its config.json or pass --aux-layers"
            )
    layers = sorted(value for value in ids if isinstance(value, int))
    return AuxSelection(tuple(Tap(layer, "output") for layer in layers))


def validate(
    selection: AuxSelection, target: Target, count: int | None = 3, allow_gdn: bool = False
) -> None:
    """Check a selection against its target and the width of the head's fc.

    count: states that the head's fc takes, or None if that is not known.
    allow_gdn: let a spelled selection name GDN layers.

    Raises:
        UserError: out of range, not distinct, not ascending, too few or many, or a GDN layer.
    """
    last = target.num_layers - 1
    for tap in selection.taps:
        if not 0 <= tap.layer <= last:
            raise UserError(
                f"auxiliary layers {selection}: the target has no layer {tap.layer}, "
                f"its layers are 0 to {last}"
            )
    depths = selection.depths
    if len(set(depths)) != len(depths):
        raise UserError(
            f"auxiliary layers {selection}: two of them are the same stream "
            "(output of a layer is input of the next)"
        )
    if list(depths) != sorted(depths):
        raise UserError(
            f"auxiliary layers {selection}: name them ascending in depth, "
            "SGLang concatenates the states in layer order"
        )
    if count is not None and len(depths) != count:
        raise UserError(
            f"auxiliary layers {selection}: {len(depths)} named, the head's fc takes {count}"
        )
    gdn = [str(tap.layer) for tap in selection.taps if target.kinds[tap.layer] == "gdn"]
    if gdn and not allow_gdn:
        attention = ", ".join(map(str, target.attention_layers))
        raise UserError(
            f"auxiliary layers {selection}: {', '.join(gdn)} are GDN layers; name attention layers "
            f"({attention}) or pass --allow-gdn-aux if the head was trained so"
        )


def on_target(
    text: str, target: Target, *, count: int | None = 3, allow_gdn: bool = False
) -> AuxSelection:
    """The streams that a spelling or a name means on this target, checked.

    A name needs no leave for GDN layers; count and allow_gdn as in `validate`.

    Raises:
        UserError: the text cannot be read, or its selection does not fit the target.
    """
    spelled = parse(text)
    selection = named(spelled, target) if isinstance(spelled, str) else spelled
    validate(selection, target, count, allow_gdn=allow_gdn or isinstance(spelled, str))
    return selection


def to_environment(selection: AuxSelection, target: Target) -> str:
    """The value of `ENVIRONMENT_VARIABLE` that hands this selection to the plugin."""
    if selection.name is not None:
        return selection.name
    names_gdn = any(target.kinds[tap.layer] == "gdn" for tap in selection.taps)
    return f"{selection} {ALLOW_GDN}" if names_gdn else str(selection)


def from_environment(value: str) -> tuple[str, bool]:
    """The spelled selection in the environment's value, and whether GDN layers may be named.

    Raises:
        UserError: words that are not understood follow the selection.
    """
    selection, *words = value.split()
    if words not in ([], [ALLOW_GDN]):
        raise UserError(
            f"{ENVIRONMENT_VARIABLE}={value!r} cannot be read; {HOW_TO_SPELL}, or {OFF!r}; "
            f"the word {ALLOW_GDN!r} may follow"
        )
    return selection, bool(words)
