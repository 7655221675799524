"""One rank of stock SGLang's model runner, in a process of its own: prompts in, states or next
tokens out.

`prefill.PrefillRunner` calls `main` in a fresh interpreter, under the environment that SGLang's
modules have to be imported under, with one end of a socket as its argument.
The parent checks the installed SGLang against its manifest; here it is taken as reviewed.
"""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.overlay import capture, contract, hooks, variants
from sglang_qwen3next_eagle3.overlay.prefill.wire import Channel


@dataclass(frozen=True)
class Setup:
    """flags: SGLang's command line; rank: the tensor-parallel one, which is also its GPU."""

    flags: tuple[str, ...]
    rank: int
    cpu_engine: bool


@dataclass(frozen=True)
class Loaded:
    """What a rank says once it can run. max_tokens, max_prompts: the pools' room for one extend."""

    layers: int
    hidden_size: int
    dtype: torch.dtype
    max_tokens: int
    max_prompts: int


@dataclass(frozen=True)
class Batch:
    """Prompts of these lengths for one extend; their ids follow as one int32 tensor."""

    lengths: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Begin:
    """As `Batch`, to be continued; the answer is an int32 tensor, the greedy next token of each."""

    lengths: tuple[int, ...]


@dataclass(frozen=True)
class PrefillStep:
    """One decode step of what `Begin` named; an int32 tensor follows, the token behind each. The
    answer is as that to `Begin`."""


@dataclass(frozen=True)
class Failed:
    """The last message of a rank that cannot go on. what: one line for people, or "" where the
    log ends with it."""

    what: str


class Rank:
    """The loaded target, and what the hooks saw in the last forward pass."""

    def __init__(self, setup: Setup) -> None:
        if setup.cpu_engine:
            from sglang_qwen3next_eagle3.overlay.cpu_engine import hooks as cpu_engine

            cpu_engine.activate(contract.require(["cpu_engine"]).hooked("cpu_engine"))
        from sglang.benchmark import one_batch
        from sglang.srt.server_args import PortArgs, prepare_server_args

        hooks.apply(capture.hooks(capture.choose_by(None)))
        server_args = prepare_server_args(list(setup.flags))
        one_batch._set_envs_and_config(server_args)
        variants.publish(one_batch, server_args, setup.rank)
        self._one_batch: Any = one_batch
        with _without_tokenizer(one_batch):
            self._runner, _ = one_batch.load_model(
                server_args, PortArgs.init_new(server_args), gpu_id=setup.rank, tp_rank=setup.rank
            )
        self._model = self._runner.torch_runner.model
        self._seen: tuple[Tensor, list[Tensor]] | None = None
        self._decoding: Any = None
        self._model.model.register_forward_hook(self._keep)

    @property
    def loaded(self) -> Loaded:
        runner, config = self._runner.torch_runner, self._model.config
        return Loaded(
            layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            dtype=runner.dtype,
            max_tokens=runner.max_total_num_tokens,
            max_prompts=runner.req_to_token_pool.size,
        )

    def select(self, selection: AuxSelection) -> None:
        capture.install(self._model, selection)

    def extend(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """All prompts in one forward pass, from empty caches.

        Returns:
            the streams [S, T, hidden], the hidden states after the final norm [T, hidden], T over
            all prompts one behind the other, both on the device in the model's dtype.
        """
        self._forward(prompts)
        assert self._seen is not None, "a CUDA graph ran instead of the model"
        (last_hidden, streams), self._seen = self._seen, None
        return torch.stack(streams), last_hidden

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """All prompts in one forward pass, their caches kept for `step`: the greedy next tokens."""
        next_tokens, self._decoding = self._forward(prompts)
        self._seen = None
        return next_tokens

    def step(self, tokens: Tensor) -> Tensor:
        """One token behind each prompt of `begin`, [B]: the greedy next tokens, [B]."""
        batch = self._decoding
        next_tokens, _ = self._runner.decode(tokens.to(batch.device), batch)
        self._seen = None
        found: Tensor = next_tokens
        return found

    def _forward(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
        """The next tokens and SGLang's batch, which can be decoded until the next call."""
        self._runner.clear()
        self._decoding = None
        longest = max(map(len, prompts))
        requests = self._one_batch.prepare_synthetic_inputs_for_latency_test(
            len(prompts), longest, prompts
        )
        next_tokens, _, batch = self._runner.extend(requests)
        return next_tokens, batch

    def _keep(self, _module: Any, _arguments: Any, output: tuple[Tensor, list[Tensor]]) -> None:
        self._seen = output


@contextmanager
def _without_tokenizer(one_batch: Any) -> Iterator[None]:
    """`load_model` loads a tokenizer that nobody needs here and a dummy target does not have."""
    original = one_batch.get_tokenizer
    one_batch.get_tokenizer = lambda *_, **__: None
    try:
        yield
    finally:
        one_batch.get_tokenizer = original


def serve(channel: Channel) -> None:
    """Answer batches until the parent hangs up. Only rank 0 sends states and tokens."""
    setup, _ = channel.receive()
    rank = Rank(setup)
    channel.send(rank.loaded)
    while True:
        try:
            message, tensors = channel.receive()
        except EOFError:
            return
        match message:
            case AuxSelection():
                rank.select(message)
            case Batch(lengths, dtype):
                streams, last_hidden = rank.extend(_split(tensors[0], lengths))
                if setup.rank == 0:
                    states = (streams.to(dtype).cpu(), last_hidden.to(dtype).cpu())
                    channel.send(message, states)
            case Begin(lengths):
                _send_tokens(channel, setup, rank.begin(_split(tensors[0], lengths)))
            case PrefillStep():
                _send_tokens(channel, setup, rank.step(tensors[0]))


def _send_tokens(channel: Channel, setup: Setup, tokens: Tensor) -> None:
    if setup.rank == 0:
        channel.send(None, [tokens.to(torch.int32).cpu()])


def _split(ids: Tensor, lengths: Sequence[int]) -> list[list[int]]:
    return [prompt.tolist() for prompt in torch.split(ids, list(lengths))]


def describe(error: BaseException) -> str:
    """One line: the error's kind and the first line of what it says; "" where SGLang has written
    the reason to its log and exits."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, str) else ""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it hangs up.
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    try:
        serve(channel)
    except BaseException as error:
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stderr.flush()
        with suppress(OSError):  # Another rank failed first, and nobody listens any more.
            channel.send(Failed(describe(error)))
        os._exit(1)
    # SGLang's threads and NCCL's teardown have nothing left to do.
    os._exit(0)
