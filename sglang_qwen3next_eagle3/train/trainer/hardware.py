"""What SpecForge trains on: a GPU for each process, or the CPU for small models."""

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.trainer.runconfig import CPU


def choose(device: str | None, gpus: int | None, dp: int) -> str:
    """`cuda` or `cpu`. device, gpus: as the user asked; dp: processes that the recipe means.

    Raises:
        UserError: a device, or a number of them, that is not here.
    """
    import torch

    here = torch.cuda.device_count()
    device = device or ("cuda" if here else CPU)
    if gpus is not None and gpus < 1:
        raise UserError(f"--gpus {gpus}: at least 1")
    if device == CPU:
        if gpus not in (None, 1):
            raise UserError(f"--gpus {gpus}: on a CPU one process trains; leave it out")
        return device
    if not here:
        raise UserError("--device cuda: no CUDA GPU here; --device cpu does for small models")
    if (gpus or dp) > here:
        raise UserError(
            f"{gpus or dp} training processes, each with a GPU and a batch of its own, but {here} "
            f"here: pass --gpus {here}"
        )
    return device


def describe(device: str, processes: int) -> str:
    """For people and for provenance: `2 x NVIDIA H200`."""
    if device == CPU:
        return CPU
    import torch

    return f"{processes} x {torch.cuda.get_device_name(0)}"
