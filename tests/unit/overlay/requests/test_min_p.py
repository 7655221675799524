"""`min_p` on the probabilities that drafts are accepted by."""

from types import SimpleNamespace
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.requests import min_p

PROBS = torch.tensor([[[0.6, 0.3, 0.1]], [[0.6, 0.3, 0.1]]])


def batch(needed: bool) -> Any:
    info = SimpleNamespace(need_min_p_sampling=needed, min_ps=torch.tensor([0.4, 0.0]))
    return SimpleNamespace(sampling_info=info, forward_mode=SimpleNamespace(is_idle=lambda: False))


def verified(needed: bool) -> torch.Tensor:
    """The probabilities that the kernel gets."""
    seen = PROBS.clone()

    def sample(*_: Any) -> None:
        min_p.tree_sampling(lambda **_: None, target_probs=seen)

    min_p.verify(sample, object(), batch(needed), object())
    min_p.tree_sampling(lambda **_: None, target_probs=PROBS.clone())
    return seen


def test_what_is_too_unlikely_is_left_out_and_the_rest_is_renormalized() -> None:
    expected = torch.tensor([[[2 / 3, 1 / 3, 0.0]], [[0.6, 0.3, 0.1]]])
    torch.testing.assert_close(verified(needed=True), expected)


def test_without_min_p_nothing_is_touched() -> None:
    assert torch.equal(verified(needed=False), PROBS)
