"""Simulated acceptance that can be changed while the server runs, for `bench speed`.

SGLang simulates an accept length that is fixed at its start (`SGLANG_SIMULATE_ACC_LEN`), and a
full-size start takes minutes. Here the number lies in a small file that every scheduler process
maps into its memory, so one server measures a tree at every accept length.
"""

import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.environment import SIMULATE, STEPS
from sglang_qwen3next_eagle3.overlay.hooks import Hook

SAMPLE = "sglang.srt.speculative.eagle_worker_common:eagle_sample"
OFF = -1.0
_TOKEN = 100
"""What SGLang says in place of a token where it simulates (0.5.17)."""
_NUMBER = struct.Struct("<d")


class SharedNumber:
    """A number in a file, shared by the processes that open it; `OFF` is none."""

    variable = STEPS
    """That names the file."""
    what = "number of steps"

    def __init__(self, path: Path) -> None:
        """Raises UserError: there is no such file, or it holds something else."""
        try:
            with path.open("r+b") as stream:
                if os.fstat(stream.fileno()).st_size != _NUMBER.size:
                    raise UserError(
                        f"{path} holds no {self.what}: {self.variable} is for `bench speed`"
                    )
                self._map = mmap.mmap(stream.fileno(), _NUMBER.size)
        except OSError as error:
            raise UserError(f"{self.variable}={path}: {error.strerror}") from None

    @classmethod
    def create(cls, path: Path) -> Self:
        path.write_bytes(_NUMBER.pack(OFF))
        return cls(path)

    @property
    def value(self) -> float:
        number: float = _NUMBER.unpack_from(self._map)[0]
        return number

    @value.setter
    def value(self, number: float) -> None:
        _NUMBER.pack_into(self._map, 0, number)


class AcceptLength(SharedNumber):
    """The accept length that is simulated; `OFF` is real acceptance."""

    variable = SIMULATE
    what = "accept length"


class Steps:
    """Whole accept lengths whose mean is the number asked for, without chance.

    SGLang would draw them; over the some fifty steps of a measurement that alone moves the mean by
    3 %.
    """

    def __init__(self) -> None:
        self._wanted = OFF
        self._carried = 0.0

    def next(self, wanted: float) -> float:
        """The accept length of this step; `OFF` is handed on."""
        if wanted != self._wanted:
            self._wanted, self._carried = wanted, 0.0
        if wanted < 1:
            return OFF
        self._carried += wanted
        # 2.46 + 2.46 + ... is not exact, and a step too few now is one too many later.
        whole = int(self._carried + 1e-9)
        self._carried -= whole
        return float(whole)


def hooks(shared: AcceptLength) -> tuple[Hook, ...]:
    """The hook that hands the shared number to SGLang before each verification."""
    steps = Steps()
    loaded: list[bool] = []

    def sample(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        from sglang.srt.speculative import spec_utils

        from sglang_qwen3next_eagle3.overlay.seams import recording

        recorded = recording.current()
        if recorded is not None:
            # It is recorded once for all steps, so the number is told on the device.
            spec_utils.SIMULATE_ACC_LEN = OFF
            length = recorded.number(lambda: int(steps.next(shared.value)))
            return accepting(length, *original(*args, **kwargs))
        # eagle_sample imports the name anew at every call.
        spec_utils.SIMULATE_ACC_LEN = steps.next(shared.value)
        result = original(*args, **kwargs)
        if not loaded and not isinstance(result, str):
            # Its kernels are loaded before they are recorded.
            loaded.append(True)
            accepting(result[1][:1], *result)
        return result

    return (Hook(SAMPLE, sample, "hands on the accept length that is simulated"),)


def accepting(length: Any, predict: Any, accept_lens: Any, accept_index: Any) -> tuple[Any, ...]:
    """What SGLang makes of a verification's result where it simulates this accept length.

    length: [1] on the device, below 1 for what was accepted indeed. predict: [B x N]; accept_lens:
    [B]; accept_index: [B, depth].
    """
    if predict.is_cuda:
        from sglang_qwen3next_eagle3.overlay.seams import chain_kernels

        # In one launch: what a measurement adds to a cycle should not be seen in it.
        return chain_kernels.simulated(length, predict, accept_lens, accept_index, _TOKEN)
    return taken_by(length, predict, accept_lens, accept_index)


def taken_by(length: Any, predict: Any, accept_lens: Any, accept_index: Any) -> tuple[Any, ...]:
    """The same by torch."""
    import torch

    depth = accept_index.shape[1]
    wanted = length >= 1
    taken = length.clamp(1, depth).to(accept_lens.dtype)
    step = torch.arange(depth, dtype=accept_index.dtype, device=accept_index.device)
    path = torch.where(step < taken, accept_index[:, :1] + step, -1)
    return (
        torch.where(wanted, _TOKEN, predict).to(predict.dtype),
        torch.where(wanted, taken, accept_lens).to(accept_lens.dtype),
        torch.where(wanted, path, accept_index).to(accept_index.dtype),
    )
