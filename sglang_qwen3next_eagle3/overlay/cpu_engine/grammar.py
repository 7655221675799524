"""Masks of structured output on CPU tensors.

A mask is a row of 32-bit words per row of logits, one bit a token, 1 for what the grammar allows.
SGLang pins its memory, which only CUDA can, and applies it with a Triton kernel.
"""

from typing import Any

import torch
from torch import Tensor

_WORD = 32


def allocate(vocab_size: int, batch_size: int) -> Tensor:
    """A mask that allows everything: [batch_size, words], int32."""
    words = -(-vocab_size // _WORD)
    return torch.full((batch_size, words), -1, dtype=torch.int32)


def apply_mask(grammar: Any, logits: Tensor, vocab_mask: Tensor) -> None:
    """Set the logits of what is not allowed to -inf, in place.

    grammar: whose method this is; not needed.
    logits: [B, V], V at most 32 * words; vocab_mask: [B, words].
    """
    mask_logits(logits, vocab_mask)


def mask_logits(logits: Tensor, vocab_mask: Tensor) -> None:
    """As `apply_mask`, for SGLang's static method."""
    bits = torch.arange(_WORD, dtype=torch.int32)
    allowed = (vocab_mask.unsqueeze(-1) >> bits) & 1
    vocabulary = min(logits.shape[-1], vocab_mask.shape[-1] * _WORD)
    forbidden = allowed.flatten(1)[:, :vocabulary] == 0
    logits[:, :vocabulary].masked_fill_(forbidden, float("-inf"))
