"""The target's streams over prompts: captured once, kept on disk, read prompt by prompt.

All layers + 1 streams of a prompt of 256 tokens are 51 MB at full size, so neither a GPU nor this
process holds more than one prompt's. The target is unloaded before the head is scored.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.calibrate.prompts import Sample
from sglang_qwen3next_eagle3.calibrate.scoring import Text
from sglang_qwen3next_eagle3.model.target import Target

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.overlay.prefill import PrefillRunner


class Prefills(Protocol):
    """States of one prompt: streams [S, T, hidden], last_hidden [T, hidden]."""

    @property
    def streams(self) -> Tensor: ...
    @property
    def last_hidden(self) -> Tensor: ...


class StoredTexts:
    """Texts in a temporary folder, which goes with the context.

    with StoredTexts() as texts: texts.fill(samples, states, ...); for text in texts: ...
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="head-calibrate-"))
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def require_room(self, tokens: int, target: Target, dtype: torch.dtype) -> int:
        """Bytes that so many tokens take.

        Raises:
            UserError: the disk has fewer.
        """
        needed = tokens * (target.num_layers + 2) * target.hidden_size * dtype.itemsize
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise UserError(
                f"the streams of {tokens} tokens take {needed / 2**30:.1f} GiB, {self._folder} has "
                f"{free / 2**30:.1f} GiB free: set TMPDIR to another disk, or give fewer prompts"
            )
        return needed

    def fill(
        self,
        samples: Sequence[Sample],
        states: Iterator[Prefills],
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep the states of every sample. done: called after each."""
        for sample, state in zip(samples, states, strict=True):
            entry = {
                "ids": torch.tensor(sample.ids),
                "start": sample.start,
                "streams": state.streams.clone(),
                "last_hidden": state.last_hidden.clone(),
            }
            torch.save(entry, self._folder / f"{self._count}.pt")
            self._count += 1
            done()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Text]:
        for index in range(self._count):
            entry = torch.load(self._folder / f"{index}.pt", mmap=True)
            yield Text(entry["ids"], entry["streams"], entry["last_hidden"], entry["start"])


def dummy_rows(target: Target, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What stands in for `vocabulary_rows` of a target without weights."""
    generator = torch.Generator().manual_seed(seed)
    shape = (target.vocab_size, target.hidden_size)
    rows = [torch.randn(shape, generator=generator, dtype=torch.bfloat16) for _ in range(2)]
    return rows[0], rows[1]


def load(
    folder: Path, *, device: Any, tp: int, longest: int, extra: Sequence[str]
) -> "PrefillRunner":
    """The target in stock SGLang, which answers and runs texts with all streams captured.

    longest: tokens of the longest text. extra: SGLang's flags, which win.

    Raises:
        UserError: SGLang is not there, not a known release, or failed.
    """
    from sglang_qwen3next_eagle3.overlay.prefill import PrefillRunner

    return PrefillRunner(folder, device=device, tp=tp, max_length=longest, extra=extra)
