"""Memory of every rank's GPU that all ranks of a node write to, for kernels/peer_sum.py."""

import ctypes
from typing import Any, NamedTuple

import torch

from sglang_qwen3next_eagle3.overlay.fast import ranks
from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.kernels.peer_sum import Peers, space


class SharedSpace(NamedTuple):
    """This rank's memory. address: as this process sees it. handle: how others open it."""

    address: int
    handle: Any


def agreed(width: int, device: torch.device | str) -> tuple[Peers | None, str | None]:
    """This rank's view of everybody's memory, or why some rank has none. Every rank has to ask.

    width: D of the rows. The memory is handed on as SGLang's own all-reduce does it (CUDA's
    inter-process handles; no multicast), and is kept as long as the process. What may fail on one
    rank is apart from what they tell one another, so that none answers another question.
    """
    own, reason = ranks.first_failure(lambda: allocated(width, device))
    if reason is not None:
        return None, reason
    handles = ranks.of_all(own.handle)
    return ranks.first_failure(lambda: opened(own, handles, width, device))


def allocated(width: int, device: torch.device | str) -> SharedSpace:
    """This rank's own memory, cleared.

    Raises:
        RuntimeError: the GPUs are not all connected by NVLink, or there is no memory.
    """
    from sglang.srt.distributed import get_tp_group
    from sglang.srt.distributed.device_communicators.cuda_wrapper import CudaRTLibrary

    group = get_tp_group()
    if not _by_nvlink(group.ca_comm):
        raise RuntimeError(
            "SGLang's own all-reduce does not find all GPUs connected by NVLink, or is off"
        )
    library, size = CudaRTLibrary(), space(group.world_size, width)
    pointer = library.cudaMalloc(size)
    library.cudaMemset(pointer, 0, size)
    torch.cuda.synchronize(device)
    assert pointer.value is not None
    return SharedSpace(pointer.value, library.cudaIpcGetMemHandle(pointer))


def _by_nvlink(custom: Any) -> bool:
    """Whether SGLang's all-reduce over peers' memory found NVLink between all GPUs.

    Our kernel tells the others by atomics in their memory, which PCIe may not carry: the ranks
    would wait for ever. There are two of SGLang's, and the newer one, which does not say, is made
    only with NVLink.
    """
    if custom is None or custom.disabled:
        return False
    return bool(getattr(custom, "full_nvlink", True))


def opened(own: SharedSpace, handles: list[Any], width: int, device: torch.device | str) -> Peers:
    """The view of all ranks' memory. handles: in order of rank.

    Raises:
        RuntimeError: the GPUs do not see each other's memory.
    """
    from sglang.srt.distributed import get_tp_group
    from sglang.srt.distributed.device_communicators.cuda_wrapper import CudaRTLibrary

    library, rank = CudaRTLibrary(), get_tp_group().rank_in_group
    addresses = [
        own.address if other == rank else _address(library.cudaIpcOpenMemHandle(handle))
        for other, handle in enumerate(handles)
    ]
    counts = torch.zeros(MAX_ROWS, dtype=torch.int32, device=device)
    return Peers(torch.tensor(addresses, device=device), counts, rank, width)


def _address(pointer: ctypes.c_void_p) -> int:
    if pointer.value is None:
        raise RuntimeError("another GPU's memory was opened without an address")
    return pointer.value
