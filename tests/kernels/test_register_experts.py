"""The experts with weights in registers against plain torch, in Triton's interpreter."""

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import experts, register_experts, router
from sglang_qwen3next_eagle3.overlay.fast.kernels.register_experts import PairTiling
from tests.kernels.test_experts import Weights, batch, close, some, weights

TOP_K = 2
UP, DOWN = PairTiling(8, 1), PairTiling(8, 1)
"""Few programs: the interpreter takes a tenth of a second for one."""


def computed(
    routed: router.Routed, w: Weights, up: PairTiling = UP, down: PairTiling = DOWN
) -> torch.Tensor:
    assert routed.codes is not None
    assert routed.scales is not None
    assert w.w13_scale is not None
    assert w.w2_scale is not None
    return register_experts.pair_experts(
        (routed.codes, routed.scales), routed.routing, w.w13, w.w13_scale, w.w2, w.w2_scale,
        TOP_K, up, down,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "width", "up", "down"),
    [
        (1, 128, PairTiling(4, 1), PairTiling(4, 1)),
        (3, 256, UP, PairTiling(4, 2)),
        (11, 128, UP, DOWN),
    ],
    ids=["one row", "more blocks and shares", "more rows than eight"],
)
def test_a_batch(rows: int, width: int, up: PairTiling, down: PairTiling) -> None:
    routed, w = batch(rows), weights(width=width)
    close(computed(routed, w, up, down), experts.reference_experts(routed, *w))


def test_a_row_does_not_see_the_others() -> None:
    routed, w = batch(9), weights()
    whole = computed(routed, w)
    order = torch.tensor([4, 8, 0, 1, 7, 6, 5, 3, 2])
    assert torch.equal(computed(some(routed, order), w), whole[order])
    alone = torch.tensor([3])
    few = some(routed, alone)
    # Nothing but ids and weights is read of a routing.
    nothing = torch.zeros(0, dtype=torch.int32)
    few = few._replace(routing=few.routing._replace(work=nothing, pairs=nothing))
    assert torch.equal(computed(few, w), whole[alone])


def test_pairs_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """More pairs than a program looks at at once."""
    routed, w = batch(9), weights()
    want = computed(routed, w)
    monkeypatch.setattr(register_experts, "PIECE", 8)
    assert torch.equal(computed(routed, w), want)


def test_all_rows_on_the_same_experts() -> None:
    routed, w = some(batch(2), torch.zeros(10, dtype=torch.long)), weights()
    out = computed(routed, w)
    assert torch.equal(out, out[:1].expand_as(out))
    close(out, experts.reference_experts(routed, *w))
