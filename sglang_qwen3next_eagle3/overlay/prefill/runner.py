"""Prefill on stock SGLang without a server: any streams of the target for lists of prompts.

    with PrefillRunner(target, selection, device="cuda", tp=2) as runner:
        for prompt, states in zip(prompts, runner.prefill(prompts)):
            states.streams       # [S, T, hidden], ascending in depth
            states.last_hidden   # [T, hidden], after the final norm

The target is loaded once, without a draft head, by one process a tensor-parallel rank: the caller
keeps its own imports, environment and (but for the weights) GPU, and a rank that dies takes nothing
with it. What the caller does with one batch of states overlaps with the next batch.

`begin` and `step` decode instead. The caller hands every token back to all ranks, so that they go
on with the same ones whatever each of them would have chosen, and stop together.
"""

import os
import selectors
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.processes import Child, ending, free_port, last_line
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection, Tap
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.cpu_engine import ENVIRONMENT, SHIM_DIR
from sglang_qwen3next_eagle3.overlay.prefill import rank as prefill_rank
from sglang_qwen3next_eagle3.overlay.prefill.wire import Channel

Device = Literal["cpu", "cuda"]
BATCH_TOKENS: Final[dict[Device, int]] = {"cpu": 2048, "cuda": 8192}
"""Tokens of one extend, unless a single prompt is longer."""
BATCH_PROMPTS: Final = 32
"""Prompts of one extend; each holds a GDN state (73 MB at full size)."""
BATCH_BYTES: Final = 1 << 30
"""Captured states of one extend: with all 49 streams the batches are smaller."""
KILL_SECONDS: Final = 1.0
"""What a rank gets between being told to end and being killed: it has nothing to save."""
_PAGE: Final = 64  # the largest KV page of SGLang's attention backends that run this model
_FLAGS: Final[dict[Device, tuple[str, ...]]] = {
    "cpu": (
        *("--device", "cpu", "--attention-backend", "intel_amx", "--dtype", "float32"),
        *("--disable-overlap-schedule", "--mem-fraction-static", "0.2"),
    ),
    "cuda": ("--attention-backend", "triton"),
}


@dataclass(frozen=True)
class Prefill:
    """States of one prompt of T tokens, on the CPU.

    streams: [S, T, hidden], the selected ones, ascending in depth.
    last_hidden: [T, hidden], after the final norm: what lm_head reads.
    """

    streams: Tensor
    last_hidden: Tensor


def every_stream(layers: int) -> AuxSelection:
    """All layers + 1 streams: index i is depth i, the last one the output of the last layer."""
    taps = [Tap(layer, "input") for layer in range(layers)]
    return AuxSelection((*taps, Tap(layers - 1, "output")))


def plan_batches(lengths: Sequence[int], max_tokens: int, max_prompts: int) -> list[range]:
    """Consecutive prompts that share an extend; one that is too long has its own."""
    batches, start, tokens = [], 0, 0
    for index, length in enumerate(lengths):
        if index > start and (tokens + length > max_tokens or index - start == max_prompts):
            batches.append(range(start, index))
            start, tokens = index, 0
        tokens += length
    return [*batches, range(start, len(lengths))] if lengths else []


class PrefillRunner:
    """One loaded target; states of prompt after prompt, each from empty caches.

    target: checkpoint folder.
    selection: the streams to capture, or None for all of them; `select` changes it.
    dtype: SGLang's --dtype; by default float32 on a CPU and the checkpoint's on a GPU.
    max_length: tokens of the longest prompt.
    batch_tokens: tokens of one extend (default `BATCH_TOKENS`).
    extra: SGLang's flags, which win over ours; --tp, --model-path and the port aside.
    log: where SGLang's output goes; by default a temporary file, removed unless a rank fails.

    Raises:
        UserError: SGLang is missing, changed or failed; one line that names rank, cause and log.
    """

    def __init__(
        self,
        target: Path,
        selection: AuxSelection | None = None,
        *,
        device: Device = "cuda",
        dtype: str | None = None,
        tp: int = 1,
        max_length: int = 2048,
        batch_tokens: int | None = None,
        extra: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        parts: list[contract.Part] = ["capture", "prefill"]
        contract.require([*parts, "cpu_engine"] if device == "cpu" else parts)
        self.max_length = max_length
        pages = -(-max(batch_tokens or BATCH_TOKENS[device], max_length) // _PAGE)
        self.batch_tokens = pages * _PAGE  # SGLang wants whole pages of its chunk size
        self._keep_log = log is not None
        self._log = log or _temporary_log()
        self._ranks: list[tuple[Child, Channel]] = []
        flags = [
            *("--disable-cuda-graph", "--disable-radix-cache", "--skip-server-warmup"),
            *_FLAGS[device],
            *("--max-running-requests", str(BATCH_PROMPTS), "--random-seed", "0"),
            # Nothing is chunked here; SGLang leaves memory for the activations of one chunk.
            *("--chunked-prefill-size", str(self.batch_tokens)),
            *("--max-total-tokens", str(self.batch_tokens + BATCH_PROMPTS * _PAGE)),
            *(("--dtype", dtype) if dtype else ()),
            *extra,
            *(
                "--model-path",
                str(target),
                "--tp-size",
                str(tp),
                "--nccl-port",
                str(free_port()),
            ),
        ]
        try:
            for rank in range(tp):
                self._ranks.append(_start_rank(self._log, cpu_engine=device == "cpu"))
                self._send(prefill_rank.Setup(tuple(flags), rank, device == "cpu"), only=rank)
            self.loaded: prefill_rank.Loaded = self._collect(set(range(tp)))[0][0]
            self._check_room()
            self.select(selection)
        except BaseException:
            self.close()
            raise

    def _check_room(self) -> None:
        room = self.loaded.max_tokens
        if room < self.batch_tokens:
            raise UserError(
                f"SGLang has room for {room} tokens, {self.batch_tokens} are needed at once: "
                "give it more with `-- --mem-fraction-static`, or shorten the prompts"
            )

    @property
    def layers(self) -> int:
        return self.loaded.layers

    def select(self, selection: AuxSelection | None) -> None:
        """Capture these streams from now on; None: all of them."""
        self.selection = selection or every_stream(self.layers)
        if not self.selection.taps:
            raise ValueError("an empty selection")
        self._send(self.selection)

    def plan(self, lengths: Sequence[int], dtype: torch.dtype = torch.bfloat16) -> list[range]:
        """Which prompts share an extend. Depends on nothing but this and the options, so that the
        same batches, and with them the same bits, come again."""
        states = (len(self.selection.taps) + 1) * self.loaded.hidden_size * dtype.itemsize
        tokens = max(self.max_length, min(self.batch_tokens, BATCH_BYTES // states))
        return plan_batches(lengths, tokens, min(BATCH_PROMPTS, self.loaded.max_prompts))

    def prefill(
        self, prompts: Sequence[Sequence[int]], dtype: torch.dtype = torch.bfloat16
    ) -> Iterator[Prefill]:
        """States of every prompt, in their order; a few batches are in memory at a time.

        Raises:
            UserError: a rank failed; the runner is closed.
        """
        batches = self.plan([len(prompt) for prompt in prompts], dtype)
        chosen = ([prompts[i] for i in batch] for batch in batches)
        for states in self.prefill_batches(chosen, dtype):
            yield from states

    def prefill_batches(
        self, batches: Iterable[Sequence[Sequence[int]]], dtype: torch.dtype = torch.bfloat16
    ) -> Iterator[list[Prefill]]:
        """States batch by batch, each one extend; `plan` says what fits."""
        remaining = iter(batches)
        under_way = self._ask(next(remaining, None), dtype)
        try:
            while under_way is not None:
                _, (streams, last_hidden) = self._collect({0})[0]
                lengths, under_way = under_way, None
                # Before the states are handed out: the ranks compute while the caller works.
                under_way = self._ask(next(remaining, None), dtype)
                parts = torch.split(streams, lengths, dim=1), torch.split(last_hidden, lengths)
                yield [Prefill(*pair) for pair in zip(*parts, strict=True)]
        except GeneratorExit:
            if under_way is not None and self._ranks:
                self._collect({0})  # else the next caller would get these states
            raise

    def begin(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Prefill prompts in one extend to be continued by `step`: the greedy next token of each.

        Their lengths with all that is to follow have to fit one batch of `plan`.

        Raises:
            UserError: a rank failed; the runner is closed.
        """
        lengths, ids = self._joined(prompts)
        self._send(prefill_rank.Begin(tuple(lengths)), [ids])
        return self._next_tokens()

    def step(self, tokens: Sequence[int]) -> list[int]:
        """Put one token behind each prompt of the last `begin`, with no prefill since: the greedy
        next token of each. Raises as `begin` does."""
        self._send(prefill_rank.PrefillStep(), [torch.tensor(tokens, dtype=torch.int32)])
        return self._next_tokens()

    def _next_tokens(self) -> list[int]:
        _, (tokens,) = self._collect({0})[0]
        found: list[int] = tokens.tolist()
        return found

    def _ask(self, prompts: Sequence[Sequence[int]] | None, dtype: torch.dtype) -> list[int] | None:
        if prompts is None:
            return None
        lengths, ids = self._joined(prompts)
        self._send(prefill_rank.Batch(tuple(lengths), dtype), [ids])
        return lengths

    def _joined(self, prompts: Sequence[Sequence[int]]) -> tuple[list[int], Tensor]:
        lengths = [len(prompt) for prompt in prompts]
        if not lengths or not all(0 < length <= self.max_length for length in lengths):
            raise ValueError(f"prompts of 1 to {self.max_length} tokens, not {lengths}")
        ids = [token for prompt in prompts for token in prompt]
        return lengths, torch.tensor(ids, dtype=torch.int32)

    def _send(self, message: Any, tensors: Sequence[Tensor] = (), only: int | None = None) -> None:
        for rank, (_, channel) in enumerate(self._ranks):
            if only is None or only == rank:
                # A rank that is gone says why when it is next listened to.
                with suppress(OSError):
                    channel.send(message, tensors)

    def _collect(self, wanted: set[int]) -> dict[int, tuple[Any, list[Tensor]]]:
        """One message of each of these ranks, unless any rank fails first."""
        if not self._ranks:
            raise ValueError("the runner is closed")
        got: dict[int, tuple[Any, list[Tensor]]] = {}
        with selectors.DefaultSelector() as selector:
            for rank, (_, channel) in enumerate(self._ranks):
                selector.register(channel, selectors.EVENT_READ, rank)
            while not wanted <= got.keys():
                for key, _ in selector.select():
                    got[key.data] = self._receive(key.data)
        return got

    def _receive(self, rank: int) -> tuple[Any, list[Tensor]]:
        child, channel = self._ranks[rank]
        try:
            message, tensors = channel.receive()
        except EOFError:
            status = child.ended(10)
            how = "it hung up" if status is None else ending(status)
            message, tensors = prefill_rank.Failed(how), []
        if isinstance(message, prefill_rank.Failed):
            self._keep_log = True
            self.close(grace=0)
            what = message.what or last_line(self._log)
            raise UserError(f"SGLang stopped in rank {rank}: {what} (log: {self._log})")
        return message, tensors

    def close(self, grace: float = 10.0) -> None:
        """End the ranks, after `grace` seconds by force; a second call changes nothing."""
        ranks, self._ranks = self._ranks, []
        for _, channel in ranks:
            channel.close()
        for child, _ in ranks:
            if child.ended(grace) is None:
                child.stop(KILL_SECONDS)
        if not self._keep_log:
            self._log.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start_rank(log: Path, cpu_engine: bool) -> tuple[Child, Channel]:
    """A process that runs `rank.main`, and our end of its socket. log: of its output."""
    ours, theirs = socket.socketpair()
    environment: dict[str, str] = {}
    if cpu_engine:
        path = [str(SHIM_DIR), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path)}
        # Threads of models this small wait for each other.
        environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    # Not -m: its classes would be those of a module __main__, which messages cannot name.
    code = f"from {prefill_rank.__name__} import main; main()"
    command = [sys.executable, "-c", code, str(theirs.fileno())]
    with theirs:
        child = Child.start(
            command,
            log,
            name="a rank",
            environment=environment,
            inherit=[theirs.fileno()],
            append=True,
        )
    return child, Channel(ours)


def _temporary_log() -> Path:
    """A new empty file."""
    handle, name = tempfile.mkstemp(prefix="sglang-prefill-", suffix=".log")
    os.close(handle)
    return Path(name)
