"""Router and choice of experts against plain torch, in Triton's interpreter."""

from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import expert_choice, router

D, E, TOP_K = 128, 24, 4


def inputs(rows: int, **changed: Any) -> dict[str, Any]:
    torch.manual_seed(rows)
    given = {
        "hidden": torch.randn(rows, D).bfloat16(),
        "residual": torch.randn(rows, D).bfloat16(),
        "norm_weight": (torch.randn(D) * 0.1).bfloat16(),
        "eps": 1e-6,
        "router_weight": (torch.randn(E, D) * 0.1).bfloat16(),
        "shared_gate_weight": (torch.randn(1, D) * 0.1).bfloat16(),
        "top_k": TOP_K,
        "renormalize": True,
    }
    return given | changed


def agree(got: router.Routed, want: router.Routed) -> None:
    assert torch.equal(got.residual, want.residual)
    assert torch.equal(got.normed, want.normed)
    if want.codes is not None:
        assert got.codes is not None
        assert got.scales is not None
        assert torch.equal(got.codes.float(), want.codes.float())
        torch.testing.assert_close(got.scales, want.scales, rtol=1e-6, atol=0)
    assert torch.equal(got.routing.ids, want.routing.ids)
    torch.testing.assert_close(got.routing.weights, want.routing.weights, rtol=2e-6, atol=0)
    assert got.routing.listed == (len(want.normed) > expert_choice.FEW)
    if got.routing.listed:
        assert lists(got.routing) == lists(want.routing)


def lists(routing: expert_choice.Routing) -> list[tuple[int, list[int]]]:
    """Every expert that is in use with its pairs, in the order of the work list."""
    count = int(routing.work[0])
    entries = [(w & 0xFFFF, w >> 16) for w in routing.work[1 : 1 + count].tolist()]
    return [(e, routing.pairs[i, :n].tolist()) for i, (e, n) in enumerate(entries)]


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_a_batch(rows: int) -> None:
    given = inputs(rows)
    agree(router.route(**given), router.reference_route(**given))


@pytest.mark.parametrize(
    "changed",
    [
        {"residual": None},
        {"shared_gate_weight": None},
        {"renormalize": False},
        {"quantize": False},
        {"hidden": torch.full((5, D), 2.0, dtype=torch.bfloat16), "residual": None},
    ],
    ids=lambda changed: ", ".join(changed),
)
def test_what_a_batch_can_be_without(changed: dict[str, Any]) -> None:
    given = inputs(5, **changed)
    agree(router.route(**given), router.reference_route(**given))


def test_a_width_that_is_no_power_of_two() -> None:
    given = inputs(2, quantize=False)
    for name in ("hidden", "residual", "router_weight", "shared_gate_weight"):
        given[name] = given[name][:, :96].contiguous()
    given["norm_weight"] = given["norm_weight"][:96].contiguous()
    agree(router.route(**given), router.reference_route(**given))


def choose(logits: torch.Tensor) -> expert_choice.Routing:
    """The choice of these logits alone, with a list; the shared expert's gate is open by half."""
    gates, listed = torch.zeros(len(logits)).bfloat16(), expert_choice.RouterTiling(listed=True)
    return expert_choice.choose(logits, gates, TOP_K, True, listed)


@pytest.mark.parametrize(("rows", "count"), [(1, 40), (6, 512), (32, 40)])
def test_equal_logits_go_to_the_lower_expert(rows: int, count: int) -> None:
    torch.manual_seed(rows)
    logits = torch.randint(-2, 2, (rows, count)).bfloat16()
    logits[:, 7] = -0.0
    want = expert_choice.reference_routing(logits, torch.zeros(rows).bfloat16(), TOP_K, True)
    got = choose(logits)
    assert torch.equal(got.ids, want.ids)
    torch.testing.assert_close(got.weights, want.weights, rtol=2e-6, atol=0)
    assert lists(got) == lists(want)


def test_a_row_does_not_see_the_others() -> None:
    torch.manual_seed(0)
    logits = torch.randn(11, 40).bfloat16()
    whole = choose(logits)
    for row in (0, 9):
        alone = choose(logits[row : row + 1])
        assert torch.equal(alone.ids[0], whole.ids[row])
        assert torch.equal(alone.weights[0], whole.weights[row])
    backwards = choose(logits.flip(0))
    assert torch.equal(backwards.weights.flip(0), whole.weights)


def test_a_row_that_is_not_a_number_chooses_different_experts() -> None:
    logits = torch.randn(3, 40).bfloat16()
    logits[1] = float("nan")
    got = choose(logits)
    assert sorted(got.ids[1].tolist()) == [0, 1, 2, 3, 40]
    assert torch.equal(got.weights[2], choose(logits[2:]).weights[0])


def test_too_many_rows() -> None:
    with pytest.raises(ValueError, match="65 rows"):
        router.route(**inputs(65))
