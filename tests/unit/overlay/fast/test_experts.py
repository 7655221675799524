"""The experts of a batch against plain torch, in Triton's interpreter."""

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import experts, router

D, E, TOP_K = 256, 8, 3


def batch(rows: int, quantized: bool, ids: torch.Tensor | None = None) -> router.Routed:
    """Random rows, and where they go (drawn unless it is given)."""
    torch.manual_seed(rows)
    logits = torch.randn(rows, E)
    if ids is not None:
        logits.scatter_(1, ids, 10.0 + torch.rand(ids.shape))
    routed = router.reference_route(
        torch.randn(rows, D).bfloat16(), None, torch.zeros(D).bfloat16(), 1e-6,
        torch.zeros(E, D).bfloat16(), torch.randn(1, D).bfloat16() * 0.1, TOP_K, True, quantized,
    )  # fmt: skip
    shared = torch.randn(rows, 1).bfloat16()
    return routed._replace(
        routing=router.reference_routing(logits.bfloat16(), shared, TOP_K, True)
    )


def weights(quantized: bool, width: int) -> tuple[torch.Tensor | None, ...]:
    torch.manual_seed(1)
    w13, w2 = torch.randn(E + 1, 2 * width, D) * 0.1, torch.randn(E + 1, D, width) * 0.1
    if not quantized:
        return w13.bfloat16(), None, w2.bfloat16(), None
    s13 = torch.rand(E + 1, 2 * width // 128, D // 128) + 0.5
    s2 = torch.rand(E + 1, D // 128, width // 128) + 0.5
    return w13.to(torch.float8_e4m3fn), s13, w2.to(torch.float8_e4m3fn), s2


@pytest.mark.parametrize(
    ("rows", "quantized", "width"),
    [(1, True, 128), (5, True, 256), (1, False, 48), (11, False, 48)],
)
def test_a_batch(rows: int, quantized: bool, width: int) -> None:
    routed, w = batch(rows, quantized), weights(quantized, width)
    want = experts.reference_experts(routed, *w).float()
    got = experts.experts(routed, *w).float()
    torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2 * float(want.abs().mean()))
