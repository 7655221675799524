"""The experts of a batch against plain torch, in Triton's interpreter."""

from typing import NamedTuple

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import expert_choice, experts, router

D, E, TOP_K = 128, 6, 2
UP = experts.ExpertTiling(tile=128, tokens=8, stages=1, warps=4, programs=2)
DOWN = experts.ExpertTiling(tile=128, tokens=8, stages=1, warps=4, programs=2)


class Weights(NamedTuple):
    w13: torch.Tensor
    w13_scale: torch.Tensor | None
    w2: torch.Tensor
    w2_scale: torch.Tensor | None


def batch(rows: int, quantized: bool = True, shared: bool = True) -> router.Routed:
    """Random rows, every one on its own experts."""
    torch.manual_seed(rows)
    gate = torch.randn(1, D).bfloat16() * 0.1 if shared else None
    return router.reference_route(
        torch.randn(rows, D).bfloat16(), None, torch.zeros(D).bfloat16(), 1e-6,
        torch.randn(E, D).bfloat16(), gate, TOP_K, True, quantized,
    )  # fmt: skip


def some(routed: router.Routed, rows: torch.Tensor) -> router.Routed:
    """These rows of a batch, as a batch."""
    logits = torch.full((len(rows), E), -10.0)
    ids = routed.routing.ids[rows, :TOP_K].long()
    logits.scatter_(1, ids, torch.arange(TOP_K, 0, -1).float().expand(ids.shape))
    listed = expert_choice.reference_routing(
        logits.bfloat16(), torch.zeros(len(rows)).bfloat16(), TOP_K, True
    )
    routing = listed._replace(weights=routed.routing.weights[rows])
    assert torch.equal(routing.ids, routed.routing.ids[rows])
    assert routed.codes is not None
    assert routed.scales is not None
    return router.Routed(
        routed.residual[rows],
        routed.normed[rows],
        routed.codes.view(torch.uint8)[rows].view(torch.float8_e4m3fn),
        routed.scales[rows],
        routing,
    )


def without_list(routed: router.Routed) -> router.Routed:
    """The same batch, of whose list there is nothing that could be read."""
    routing = routed.routing
    nothing = torch.full_like(routing.work, -1), torch.full_like(routing.pairs, 1 << 30)
    routing = routing._replace(work=nothing[0], pairs=nothing[1], listed=False)
    return routed._replace(routing=routing)


def weights(quantized: bool = True, width: int = 128, shared: bool = True) -> Weights:
    torch.manual_seed(1)
    count = E + shared
    w13, w2 = torch.randn(count, 2 * width, D) * 0.1, torch.randn(count, D, width) * 0.1
    if not quantized:
        return Weights(w13.bfloat16(), None, w2.bfloat16(), None)
    s13 = torch.rand(count, 2 * width // 128, D // 128) + 0.5
    s2 = torch.rand(count, D // 128, width // 128) + 0.5
    return Weights(w13.to(torch.float8_e4m3fn), s13, w2.to(torch.float8_e4m3fn), s2)


def shard(whole: Weights, rank: int, ranks: int) -> Weights:
    """A rank's columns of gate and up, and its rows of what goes down."""
    part = whole.w2.shape[-1] // ranks
    columns = slice(rank * part, (rank + 1) * part)
    groups = slice(rank * part // 128, (rank + 1) * part // 128)

    def upper(weight: torch.Tensor, rows: slice) -> torch.Tensor:
        plain = weight.view(torch.uint8) if weight.dtype == torch.float8_e4m3fn else weight
        both = torch.cat([half[:, rows] for half in plain.chunk(2, 1)], 1).contiguous()
        return both.view(weight.dtype)

    assert whole.w13_scale is not None
    assert whole.w2_scale is not None
    return Weights(
        upper(whole.w13, columns),
        upper(whole.w13_scale, groups),
        whole.w2[..., columns].contiguous(),
        whole.w2_scale[..., groups].contiguous(),
    )


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    """A unit in the last place of bf16, and what one code of e4m3 off is in the sum."""
    error = (got.float() - want.float()).norm() / want.float().norm()
    assert error < 3e-3
    largest = float(want.float().abs().max())
    torch.testing.assert_close(got.float(), want.float(), rtol=8e-3, atol=4e-3 * largest)


@pytest.mark.parametrize(
    ("rows", "quantized", "width"),
    [(1, True, 128), (5, True, 256), (1, False, 48), (11, False, 48)],
    ids=["one row", "a shard of two groups", "bfloat16, an odd width", "more rows than a tile"],
)
def test_a_batch(rows: int, quantized: bool, width: int) -> None:
    routed, w = batch(rows, quantized), weights(quantized, width)
    close(experts.experts(routed, *w, UP, DOWN), experts.reference_experts(routed, *w))


def test_without_a_shared_expert() -> None:
    routed, w = batch(3, shared=False), weights(shared=False)
    assert routed.routing.ids.shape == (3, TOP_K)
    close(experts.experts(routed, *w, UP, DOWN), experts.reference_experts(routed, *w))


def test_slots_left_for_others_to_add() -> None:
    routed, w = batch(3), weights()
    parts = experts.experts(routed, *w, UP, DOWN, add=False)
    assert parts.shape == (3, TOP_K + 1, D)
    total = torch.zeros(3, D)
    for slot in range(TOP_K + 1):
        total += parts[:, slot].float()
    assert torch.equal(total.bfloat16(), experts.experts(routed, *w, UP, DOWN))


def test_a_row_does_not_see_the_others() -> None:
    routed, w = batch(9), weights()
    whole = experts.experts(routed, *w, UP, DOWN)
    order = torch.tensor([4, 8, 0, 1, 7, 6, 5, 3, 2])
    assert torch.equal(experts.experts(some(routed, order), *w, UP, DOWN), whole[order])
    alone = torch.tensor([3])
    assert torch.equal(experts.experts(some(routed, alone), *w, UP, DOWN), whole[alone])


def test_all_rows_on_the_same_experts() -> None:
    routed, w = some(batch(2), torch.zeros(10, dtype=torch.long)), weights()
    out = experts.experts(routed, *w, UP, DOWN)
    assert int(routed.routing.work[0]) == TOP_K + 1
    assert torch.equal(out, out[:1].expand_as(out))
    close(out, experts.reference_experts(routed, *w))


@pytest.mark.parametrize(
    ("rows", "shared", "same"),
    [(1, True, False), (8, True, False), (7, False, False), (8, True, True)],
    ids=["one row", "eight", "no shared expert", "all on the same experts"],
)
def test_few_rows_need_no_list(rows: int, shared: bool, same: bool) -> None:
    routed, w = batch(rows, shared=shared), weights(shared=shared)
    if same:
        routed = some(routed, torch.full((rows,), 3))
    found = experts.experts(without_list(routed), *w)
    assert torch.equal(found, experts.experts(routed, *w))
    # More items than programs, and tokens in tiles of the other size.
    assert torch.equal(
        experts.experts(without_list(routed), *w, UP, DOWN), experts.experts(routed, *w, UP, DOWN)
    )


def test_a_width_that_is_no_whole_group() -> None:
    w = weights()
    with pytest.raises(ValueError, match="128 x 64"):
        experts.experts(
            batch(1), w.w13[:, :128], w.w13_scale, w.w2[:, :, :64].contiguous(), w.w2_scale
        )


def test_more_rows_than_can_be_without_a_list() -> None:
    with pytest.raises(ValueError, match="9 rows of 3 slots without a list"):
        experts.experts(without_list(batch(9)), *weights())


def test_the_shards_of_ranks_add_up_to_the_experts() -> None:
    routed, whole = batch(5), weights(width=256)
    parts = [experts.experts(routed, *shard(whole, rank, 2), UP, DOWN).float() for rank in range(2)]
    want = experts.experts(routed, *whole, UP, DOWN).float()
    # Every rank rounds its part of each slot.
    assert (parts[0] + parts[1] - want).norm() < 0.01 * want.norm()
    assert (parts[0] - want).norm() > 0.1 * want.norm()
