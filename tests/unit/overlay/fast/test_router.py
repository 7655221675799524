"""Router and choice of experts against plain torch, in Triton's interpreter."""

from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import router

D, E, TOP_K = 256, 24, 4


def inputs(rows: int, seed: int = 0, experts: int = E) -> dict[str, Any]:
    torch.manual_seed(seed)
    return {
        "hidden": torch.randn(rows, D).bfloat16(),
        "residual": torch.randn(rows, D).bfloat16(),
        "norm_weight": (torch.randn(D) * 0.1).bfloat16(),
        "eps": 1e-6,
        "router_weight": (torch.randn(experts, D) * 0.1).bfloat16(),
        "shared_gate_weight": (torch.randn(1, D) * 0.1).bfloat16(),
        "top_k": TOP_K,
        "renormalize": True,
    }


def same_routing(got: router.Routing, want: router.Routing) -> None:
    assert torch.equal(got.ids, want.ids)
    torch.testing.assert_close(got.weights, want.weights, rtol=2e-6, atol=0)
    assert lists(got) == lists(want)


def lists(routing: router.Routing) -> list[tuple[int, list[int]]]:
    """Every expert that is in use with its pairs, in the order of the work list."""
    count = int(routing.work[0])
    entries = [(w & 0xFFFF, w >> 16) for w in routing.work[1 : 1 + count].tolist()]
    return [(e, routing.pairs[i, :n].tolist()) for i, (e, n) in enumerate(entries)]


@pytest.mark.parametrize("rows", [1, 3, 8, 13, 32])
@pytest.mark.parametrize("fused", [True, False])
def test_a_batch(rows: int, fused: bool) -> None:
    arguments = inputs(rows)
    want = router.reference_route(**arguments)
    got = router.route(**arguments, tiling=router.Tiling(rows=4, fused=fused))
    assert torch.equal(got.residual, want.residual)
    assert torch.equal(got.normed, want.normed)
    assert got.codes is not None and want.codes is not None
    assert torch.equal(got.codes.float(), want.codes.float())
    assert got.scales is not None and want.scales is not None
    torch.testing.assert_close(got.scales, want.scales, rtol=1e-6, atol=0)
    same_routing(got.routing, want.routing)
