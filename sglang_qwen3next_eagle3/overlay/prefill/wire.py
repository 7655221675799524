"""Messages and tensors over a socket between a process and the SGLang ranks that it started.

Not torch.multiprocessing: its shared memory is /dev/shm, which containers limit to 64 MiB.
"""

import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_LENGTH = struct.Struct("!Q")


class Channel:
    """One end of a stream socket. Both ends trust each other: messages are pickled."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, message: Any, tensors: Sequence[Tensor] = ()) -> None:
        """Send a message and CPU tensors. Raises OSError where the other end is gone."""
        shapes = [(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]
        header = pickle.dumps((message, shapes))
        self._socket.sendall(_LENGTH.pack(len(header)) + header)
        for tensor in tensors:
            self._socket.sendall(_bytes(tensor.contiguous()))

    def receive(self) -> tuple[Any, list[Tensor]]:
        """The next message and its tensors. Raises EOFError where the other end is gone."""
        (length,) = _LENGTH.unpack(self._read(bytearray(_LENGTH.size)))
        message, shapes = pickle.loads(self._read(bytearray(length)))
        tensors = [torch.empty(shape, dtype=dtype) for dtype, shape in shapes]
        for tensor in tensors:
            self._read(_bytes(tensor))
        return message, tensors

    def _read(self, buffer: bytearray | memoryview) -> bytearray | memoryview:
        view = memoryview(buffer)
        done = 0
        while done < len(view):
            try:
                count = self._socket.recv_into(view[done:])
            except ConnectionError:
                count = 0
            if count == 0:
                raise EOFError("the other end is gone")
            done += count
        return buffer


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor, writable."""
    array: Any = tensor.view(-1).view(torch.uint8).numpy()
    return memoryview(array)
