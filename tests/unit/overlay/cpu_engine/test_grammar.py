"""Masks of structured output, bit by bit."""

import torch

from sglang_qwen3next_eagle3.overlay.cpu_engine import grammar


def test_a_new_mask_allows_everything() -> None:
    mask = grammar.allocate(vocab_size=70, batch_size=3)
    assert mask.shape == (3, 3)
    logits = torch.randn(3, 70)
    masked = logits.clone()
    grammar.mask_logits(masked, mask)
    assert torch.equal(masked, logits)


def test_what_a_row_s_bits_do_not_allow_becomes_impossible() -> None:
    mask = torch.zeros(2, 2, dtype=torch.int32)
    mask[0, 0] = 1 << 5
    mask[0, 1] = -(2**31)  # bit 31 of the second word: token 63
    mask[1] = -1
    logits = torch.zeros(2, 64)
    grammar.apply_mask(object(), logits, mask)
    assert logits[0].isfinite().nonzero().flatten().tolist() == [5, 63]
    assert bool(logits[1].isfinite().all())


def test_logits_may_be_wider_than_the_mask() -> None:
    logits = torch.zeros(1, 40)
    grammar.mask_logits(logits, torch.zeros(1, 1, dtype=torch.int32))
    assert logits[0].isfinite().nonzero().flatten().tolist() == list(range(32, 40))
