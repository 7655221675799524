"""A backend of `train capture` that makes states up."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.prefill import Prefill
from sglang_qwen3next_eagle3.overlay.prefill.runner import plan_batches
from tests.support.small_target import HIDDEN


class MadeUp:
    """States that depend on the prompt and on the batch it was in, as a GPU's last bits do."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.computed: list[list[int]] = []
        self._fail_at, self._error = fail_at, error

    def plan(self, lengths: Sequence[int]) -> list[range]:
        return plan_batches(lengths, max_tokens=90, max_prompts=4)

    def prefill_batches(self, batches: Iterable[Sequence[Any]]) -> Iterator[list[Prefill]]:
        for batch in batches:
            if len(self.computed) == self._fail_at and self._error is not None:
                raise self._error
            self.computed.append([len(ids) for ids in batch])
            shade = float(sum(map(len, batch)))
            yield [self._states(list(ids), shade) for ids in batch]

    def _states(self, ids: list[int], shade: float) -> Prefill:
        # Whole numbers below 256, which bf16 holds.
        column = (torch.tensor(ids) % 100)[:, None].expand(-1, HIDDEN)
        return Prefill(torch.stack([column, column + 1, column + 2]), column + shade)

    def __enter__(self) -> "MadeUp":
        return self

    def __exit__(self, *_: object) -> None:
        pass
