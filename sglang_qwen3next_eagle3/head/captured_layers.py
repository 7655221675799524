"""Which auxiliary layers are captured for a head, and how sure that is. Nothing else decides it.

First that is there wins:

1. the option or the profile: somebody decided.
2. a calibration: it was measured on this head's weights, and is kept only where it is significant.
   It stands above the head's ids because ids are read as outputs by some trainers and servers and
   as inputs by others; where the two contradict each other, every start says so.
3. what the head's config names: its `eagle_aux_hidden_state_layer_ids`, or the spelled selection
   that our export writes where ids cannot express it.
4. `card`, with a warning: nothing is known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.findings import Finding, error, note, warning
from sglang_qwen3next_eagle3.head.head import CONVERT, Head
from sglang_qwen3next_eagle3.head.record import AuxRecord
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target

CALIBRATE = "sglang-qwen3next-eagle3 head calibrate"


DESCRIBED = "auxiliary hidden states:"
"""How the line of a log begins that says what is captured."""
SOURCE = ", source: "
OPTION = "option or profile"
CONFIG = "the head's config"


@dataclass(frozen=True)
class CapturedLayers:
    """The streams that are captured, and who decided: for people, as `OPTION` or `CONFIG`."""

    selection: AuxSelection
    source: str

    def describe(self, target: Target) -> str:
        """One line for the log: what is captured, by whom, what of it leaves a GDN layer."""
        name = f" ({self.selection.name})" if self.selection.name else ""
        line = f"{DESCRIBED} {self.selection}{name}{SOURCE}{self.source}"
        gdn = self.selection.gdn_streams(target)
        if gdn:
            leaves = ", ".join(f"{tap} is what layer {tap.depth - 1} put out" for tap in gdn)
            line += f"; leaves a GDN layer: {leaves}"
        return line


@dataclass(frozen=True)
class NamedLayers:
    """What a head's config names. spelled: under our own key, as `aux_layers.parse` reads it; ids:
    its `eagle_aux_hidden_state_layer_ids`, which count where nothing is spelled; unread: ids where
    SGLang does not read them, so that nobody can say what they count."""

    spelled: str | None = None
    ids: Sequence[object] | None = None
    unread: Sequence[object] | None = None

    @classmethod
    def of(cls, head: Head) -> "NamedLayers":
        return cls(head.spelled_layers, head.layer_ids, head.unread_layer_ids)

    def selection(self, target: Target) -> AuxSelection | None:
        """None: it names nothing.

        Raises:
            UserError: what it names cannot be read.
        """
        if self.spelled is not None:
            spelled = aux_layers.parse(self.spelled)
            return aux_layers.named(spelled, target) if isinstance(spelled, str) else spelled
        return aux_layers.from_head_ids(self.ids) if self.ids else None


def decide(
    target: Target,
    named: NamedLayers,
    record: AuxRecord | None = None,
    *,
    count: int | None,
    option: str | None = None,
    option_source: str = OPTION,
    allow_gdn: bool = False,
) -> CapturedLayers:
    """What is captured, by the order above.

    count: states that the head's fc takes; None: not known. option: of the command line, the
    profile or the environment. allow_gdn: let the option name GDN layers; what a head was trained
    with needs no leave.

    Raises:
        UserError: it does not fit the target or the head.
    """
    if option is not None:
        wanted = aux_layers.on_target(option, target, count=count, allow_gdn=allow_gdn)
        return CapturedLayers(wanted, option_source)
    if record is not None:
        measured = aux_layers.on_target(record.selection, target, count=count, allow_gdn=True)
        return CapturedLayers(measured, record.source)
    found, source = named.selection(target), CONFIG
    if found is None and named.unread:
        ids = ",".join(map(str, named.unread))
        raise UserError(
            f"the head's config names layers {ids} at its top level, where SGLang does not read "
            "them, and where they are outputs of layers to some and inputs to others: pass "
            f"--aux-layers output:{ids} or --aux-layers input:{ids}, or write them where they are "
            f"read with `{CONVERT} --layers outputs` (or inputs)"
        )
    if found is None:
        found = aux_layers.named(aux_layers.CARD, target)
        source = "default, the head's config names none"
    aux_layers.validate(found, target, count, allow_gdn=True)
    return CapturedLayers(found, source)


def doubts(head: Head, target: Target, record: AuxRecord | None, command: str) -> Iterator[Finding]:
    """What speaks against the selection that is served without an option.

    command: the one that measures it.
    """
    named = NamedLayers.of(head).selection(target)
    if named is None and record is None:
        yield warning(
            "aux-unknown",
            "the head's config names no layers and it was never calibrated; with other layers than "
            "it was trained with it accepts almost nothing",
            f"measure them with `{command}`",
        )
    if named is not None and record is not None:
        measured = aux_layers.parse(record.selection)
        if isinstance(measured, str):
            measured = aux_layers.named(measured, target)
        if measured.depths != named.depths:
            yield warning(
                "aux-contradiction",
                f"the head's config names {named}, its {record.source} measured {measured}",
                "the measured layers are served, --aux-layers overrides them",
            )
    ids = head.layer_ids or []
    if record is None and ids != sorted(ids):
        yield warning(
            "aux-order",
            f"the head's ids {ids} do not ascend, SGLang concatenates the states in layer order",
            "if it was trained in the order of its ids, permute the columns of fc.weight",
        )


def findings(head: Head, target: Target, record: AuxRecord | None, command: str) -> list[Finding]:
    """What `head inspect` says about the auxiliary layers of a launch without --aux-layers."""
    try:
        captured = decide(target, NamedLayers.of(head), record, count=head.aux_count)
    except UserError as refused:
        remedy = "" if "--aux-layers" in str(refused) else "correct its config or pass --aux-layers"
        return [error("aux-layers", str(refused), remedy)]
    return [
        note("aux-layers", captured.describe(target)),
        *doubts(head, target, record, command),
    ]
