"""The experts with weights in registers against plain torch, in Triton's interpreter."""

from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import experts, register_experts, router
from sglang_qwen3next_eagle3.overlay.fast.kernels.register_experts import PairTiling
from tests.kernels.test_experts import Weights, batch, close, some, weights

TOP_K = 2
ONE = PairTiling(1, 1)


def computed(
    routed: router.Routed, w: Weights, up: PairTiling = ONE, down: PairTiling = ONE
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
        (1, 128, ONE, ONE),
        (5, 256, PairTiling(2, 1), PairTiling(4, 2)),
        (11, 128, ONE, PairTiling(2, 1)),
    ],
    ids=["one row", "more blocks and shares", "more rows than eight"],
)
def test_a_batch(rows: int, width: int, up: PairTiling, down: PairTiling) -> None:
    routed, w = batch(rows), weights(width=width)
    close(computed(routed, w, up, down), experts.reference_experts(routed, *w))


def test_a_row_does_not_see_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    routed, w = batch(9), weights()
    whole = computed(routed, w)
    order = torch.tensor([4, 8, 0, 1, 7, 6, 5, 3, 2])
    assert torch.equal(computed(some(routed, order), w), whole[order])
    alone = torch.tensor([3])
    assert torch.equal(computed(some(routed, alone), w), whole[alone])


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


def test_only_ids_and_weights_are_read() -> None:
    routed, w = batch(3), weights()
    listed: Any = routed.routing._replace(
        work=torch.zeros(0, dtype=torch.int32), pairs=torch.zeros(0, dtype=torch.int32)
    )
    assert torch.equal(computed(routed._replace(routing=listed), w), computed(routed, w))
