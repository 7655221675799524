"""Memory of every rank's GPU that all ranks of a node write to, for kernels/peer_sum.py."""

import ctypes

import torch

from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.kernels.peer_sum import Peers, space


def opened(width: int, device: torch.device | str) -> Peers:
    """This rank's view, with its own space cleared. Every rank has to ask, and none may add up
    before all have been answered.

    width: D of the rows. The memory is handed on as SGLang's own all-reduce does it (CUDA's
    inter-process handles; no multicast), and is kept as long as the process.

    Raises:
        RuntimeError, OSError: the GPUs do not see each other's memory.
    """
    from sglang.srt.distributed import get_tp_group
    from sglang.srt.distributed.device_communicators.cuda_wrapper import CudaRTLibrary
    from sglang.srt.distributed.device_communicators.custom_all_reduce import CustomAllreduce

    group = get_tp_group()
    size = space(group.world_size, width)
    addresses = CustomAllreduce.create_shared_buffer(size, group.cpu_group)
    CudaRTLibrary().cudaMemset(ctypes.c_void_p(addresses[group.rank_in_group]), 0, size)
    torch.cuda.synchronize(device)
    counts = torch.zeros(MAX_ROWS, dtype=torch.int32, device=device)
    return Peers(torch.tensor(addresses, device=device), counts, group.rank_in_group, width)
