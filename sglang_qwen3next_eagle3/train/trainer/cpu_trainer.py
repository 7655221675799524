"""`specforge` on a machine without a GPU: `python -m ...training.cpu_trainer train --config F`.

Two things keep SpecForge 0.2.0 from a CPU: its loss is a Triton kernel, and it compiles. Both
are replaced here, in this process only; everything else is SpecForge's own.
"""

import os
import sys

# SpecForge and PyTorch read these while they are imported.
ENVIRONMENT = {"TORCHDYNAMO_DISABLE": "1", "SPECFORGE_DEVICE": "cpu"}


def install() -> None:
    """Put the loss in place, before `specforge.algorithms.eagle3.model` takes the kernel's name."""
    os.environ.update(ENVIRONMENT)
    from specforge.core import loss
    from torch import Tensor, log_softmax

    class LogSoftmaxLoss:
        """The cross-entropy that the kernel computes, on plain tensors.

        logits, target_p: [B, T, V]; position_mask: [B, T, 1]. The mean is over all B * T
        positions, masked ones included, as in SpecForge's reference (core/loss.py).
        """

        @staticmethod
        def apply(logits: Tensor, target_p: Tensor, position_mask: Tensor) -> Tensor:
            log_p = log_softmax(logits.float(), dim=-1)
            return -(position_mask * target_p * log_p).sum(-1).mean()

    loss.LogSoftmaxLoss = LogSoftmaxLoss


def main() -> int:
    install()
    from specforge.cli import main as specforge

    status: int = specforge(sys.argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
