"""The server that `doctor` is asked about."""

import os
from dataclasses import dataclass

from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model import precision
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.serving.command_line import Launch
from sglang_qwen3next_eagle3.serving.doctor.findings import Needs
from sglang_qwen3next_eagle3.serving.doctor.weights import Tensor
from sglang_qwen3next_eagle3.serving.flags import Parsed
from sglang_qwen3next_eagle3.serving.profile import Algorithm


@dataclass(frozen=True)
class Subject:
    """What is asked about. tensors: of the target's headers, None where there are none to read.
    gpus: the names of those that it would use, as far as they are known."""

    launch: Launch
    given: Parsed
    algorithm: Algorithm
    target: Target | None
    head: Head | None
    tensors: list[Tensor] | None = None
    gpus: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.launch.environment}

    @property
    def on_gpu(self) -> bool:
        return (self.given.value("--device") or "cuda").startswith("cuda")

    @property
    def dummy(self) -> bool:
        return self.given.value("--load-format") == "dummy"

    @property
    def needs(self) -> Needs:
        ranks = self.given.number("--tp-size") or 1
        for name in ("--pp-size", "--dp-size"):
            # Ranks of data-parallel attention are those of --tp.
            attention = name == "--dp-size" and self.given.of("--enable-dp-attention")
            ranks *= 1 if attention else self.given.number(name) or 1
        nodes = self.given.number("--nnodes") or 1
        fp8 = self.target is not None and precision.of_config(self.target.config) == "fp8"
        first = self.given.number("--base-gpu-id") or 0
        step = self.given.number("--gpu-id-step") or 1
        return Needs(self.on_gpu, max(1, ranks // nodes), fp8, first, step)
