"""Which auxiliary layers a head is served with, and how sure that is.

First that is there wins:

1. the option or the profile: somebody decided.
2. a calibration: it was measured on this head's weights, and is kept only where it is significant.
   It stands above the head's ids because ids are read as outputs by some trainers and servers and
   as inputs by others; where the two contradict each other, every start says so.
3. what the head's config names: its `eagle_aux_hidden_state_layer_ids`, or the spelled selection
   that our export writes where ids cannot express it.
4. `card`, with a warning: nothing is known.
"""

from collections.abc import Iterator

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.findings import Finding, error, note, warning
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.head.record import AuxRecord
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection, Resolved
from sglang_qwen3next_eagle3.model.target import Target

CALIBRATE = "sglang-qwen3next-eagle3 head calibrate"


def resolve(
    head: Head,
    target: Target,
    record: AuxRecord | None,
    *,
    count: int,
    option: str | None = None,
    allow_gdn: bool = False,
) -> Resolved:
    """The selection by the order above.

    count: states that the head's fc takes. option: of the command line or the profile.
    allow_gdn: let the option name GDN layers; what the others name needs no leave.

    Raises:
        UserError: it does not fit the target or the head.
    """
    if option is not None:
        wanted: str | None = option
        source, exempt = "option or profile", allow_gdn
    elif record is not None:
        wanted, source, exempt = record.selection, record.source, True
    else:
        wanted, source, exempt = head.spelled_layers, "the head's config", True
    return aux_layers.resolve(
        target,
        wanted=wanted,
        wanted_source=source,
        head_ids=head.layer_ids,
        count=count,
        allow_gdn=exempt,
    )


def named_by_config(head: Head, target: Target) -> AuxSelection | None:
    """What the head's config names, or None.

    Raises:
        UserError: what it names cannot be read.
    """
    if head.spelled_layers is not None:
        spelled = aux_layers.parse(head.spelled_layers)
        return aux_layers.named(spelled, target) if isinstance(spelled, str) else spelled
    return aux_layers.from_head_ids(head.layer_ids) if head.layer_ids else None


def doubts(head: Head, target: Target, record: AuxRecord | None, command: str) -> Iterator[Finding]:
    """What speaks against the selection that is served without an option.

    command: the one that measures it.
    """
    named = named_by_config(head, target)
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
        resolved = resolve(head, target, record, count=head.aux_count)
    except UserError as refused:
        remedy = "" if "--aux-layers" in str(refused) else "correct its config or pass --aux-layers"
        return [error("aux-layers", str(refused), remedy)]
    return [
        note("aux-layers", resolved.describe(target)),
        *doubts(head, target, record, command),
    ]
