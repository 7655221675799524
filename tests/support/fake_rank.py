"""A rank of the prefill runner that only pretends to be SGLang, forked from one that has torch.

Rank 0 answers with the ids, one more for each depth; the next token that it tells is the sum of all
that it was told. A prompt or a token 13 is rank 1's death.
"""

import multiprocessing
import os
import socket
import subprocess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch

from sglang_qwen3next_eagle3.base.processes import Child
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.overlay.prefill.rank import Batch, Begin, Failed, Loaded, PrefillStep
from sglang_qwen3next_eagle3.overlay.prefill.wire import Channel

LAYERS, HIDDEN = 4, 2


def start(log: Path, cpu_engine: bool) -> tuple[Child, Channel]:
    """In the place of the runner's own: importing torch in each rank takes seconds."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["torch", Batch.__module__])
    ours, theirs = socket.socketpair()
    process = forking.Process(target=main, args=(theirs,), daemon=True)
    with theirs:
        process.start()
    log.touch()
    return Child(cast(Any, _Forked(process)), log, "a rank"), Channel(ours)


class _Forked:
    """As much of Popen as `Child` asks for."""

    stdout = None

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a rank", timeout or 0.0)
        return self._process.exitcode


def main(theirs: socket.socket) -> None:
    os.setsid()
    channel = Channel(theirs)
    setup, _ = channel.receive()
    pairs = zip(setup.flags, setup.flags[1:], strict=False)
    *_, tokens = (int(value) for name, value in pairs if name == "--max-total-tokens")
    channel.send(Loaded(LAYERS, HIDDEN, torch.float32, tokens, 3))
    streams, said = 0, torch.tensor([])
    while True:
        try:
            message, tensors = channel.receive()
        except EOFError:
            return
        dies = setup.rank == 1 and any(13 in tensor for tensor in tensors)
        answers = setup.rank == 0 and not any(13 in tensor for tensor in tensors)
        if isinstance(message, AuxSelection):
            streams = len(message.taps)
        elif isinstance(message, Begin):
            said = tensors[0][torch.tensor(message.lengths).cumsum(0) - 1]
            if setup.rank == 0:
                channel.send(None, [said + 1])
        elif isinstance(message, PrefillStep):
            said = said + tensors[0]
            if dies:
                channel.send(Failed(f"out of luck at {said.tolist()}"))
            elif answers:
                channel.send(None, [said])
        elif dies:
            channel.send(Failed("out of luck"))
        elif answers:
            ids = tensors[0].to(message.dtype)[:, None].expand(-1, HIDDEN)
            channel.send(message, [torch.stack([ids + i for i in range(streams)]), ids])
