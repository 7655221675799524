"""Logits and their largest, in the interpreter."""

import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels.lm_head import argmax_rows, lm_head


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_logits_agree_with_float64_and_a_row_does_not_know_its_neighbours() -> None:
    x, weight = random(9, 256).bfloat16(), random(200, 256, seed=1).bfloat16()
    logits = lm_head(x, weight)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(
        logits.double(), x.double() @ weight.double().T, rtol=2**-8, atol=1e-3
    )
    assert torch.equal(lm_head(x[4:5].contiguous(), weight), logits[4:5])


def test_the_largest_is_the_first_of_equals() -> None:
    logits = random(4, 5000).bfloat16()
    assert torch.equal(argmax_rows(logits), logits.argmax(-1))
    logits[0, [17, 1041, 4999]] = 100
    logits[1, 4999] = 100
    logits[2] = float("-inf")
    logits[3, 2500] = float("nan")
    assert argmax_rows(logits).tolist() == [17, 4999, 0, 2500]


def test_a_vocabulary_smaller_than_a_part() -> None:
    logits = random(2, 40)
    assert torch.equal(argmax_rows(logits), logits.argmax(-1))
