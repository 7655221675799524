"""What every tensor-parallel rank of stock SGLang sees in a prefill, under each way to all-reduce.

`PrefillRunner` hands out rank 0's states only; here each rank saves its own. `start` runs
`python -m tests.support.tp_streams` once a rank, `Ranks.passes` reads what they saved.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sglang_qwen3next_eagle3.base.processes import free_port

REPOSITORY = Path(__file__).parents[2]
FLAGS = (
    "--attention-backend triton --disable-cuda-graph --disable-radix-cache --skip-server-warmup "
    "--dtype bfloat16 --mem-fraction-static 0.3 --max-running-requests 16 --random-seed 0 "
    # One way to all-reduce besides FlashInfer's: NCCL's, which every machine has.
    "--disable-custom-all-reduce"
).split()
ROOM = 2048
"""Tokens of one prefill. SGLang fuses the all-reduce of no larger one."""
# (FlashInfer's fused all-reduce, the last layer told that it is the last). "stock" is what SGLang
# 0.5.17 does by itself at TP > 1 on Hopper, "plugin" the same with our flag.
WAYS = {
    "plugin": (True, True),
    "stock": (True, False),
    "plain": (False, True),
    "plain, untold": (False, False),
}


@dataclass(frozen=True)
class Seen:
    """One rank's pass over all prompts, T tokens together, B prompts.

    every: [layers + 1, T, hidden]; card: [3, T, hidden]; last_hidden: [T, hidden], after the final
    norm; logits: [B, vocabulary], of each prompt's last token. All in bf16 but the logits.
    """

    every: Tensor
    card: Tensor
    last_hidden: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Ranks:
    """The processes of one tensor-parallel group."""

    folder: Path
    processes: "tuple[subprocess.Popen[bytes], ...]"

    def passes(self, seconds: float) -> list[dict[str, Any]]:
        """By rank: way -> `Seen`, and "fusion" -> the backend of the fused all-reduce, or None.

        Raises AssertionError with the log's end where a rank fails or takes longer.
        """
        end = time.monotonic() + seconds
        try:
            while any(process.poll() is None for process in self.processes):
                assert not any(process.poll() for process in self.processes), self._log()
                assert time.monotonic() < end, self._log()
                time.sleep(0.2)
            assert not any(process.returncode for process in self.processes), self._log()
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
        every = range(len(self.processes))
        return [torch.load(self.folder / f"{rank}.pt", weights_only=False) for rank in every]

    def _log(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-3000:]}" for log in logs)


def start(
    target: Path,
    prompts: Sequence[Sequence[int]],
    tp: int,
    folder: Path,
    extra: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> Ranks:
    """The ranks of `tp`, on GPUs 0 to tp - 1; folder: for what they save and their logs."""
    assert sum(map(len, prompts)) <= ROOM
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.json").write_text(json.dumps([list(prompt) for prompt in prompts]))
    port = str(free_port())
    started = []
    for rank in range(tp):
        words = ["--target", str(target), "--tp", str(tp), "--rank", str(rank), "--port", port]
        with (folder / f"rank-{rank}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.tp_streams", str(folder), *words, *extra],
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env={**os.environ, **(environment or {})},
            )
        started.append(process)
    return Ranks(folder, tuple(started))


REPLICATED = ("mlp.gate.weight", "shared_expert_gate.weight")
"""The ends of the names of matrices that every rank holds whole."""


def spread(model: torch.nn.Module, rank: int, deviation: float = 0.02) -> None:
    """Normal weights in place of SGLang's dummy ones, in every matrix.

    SGLang fills a shard by its size alone: all ranks hold the same, so their partial sums are equal
    and a sum that was left out would not show. Here a shard differs from rank to rank, and what
    every rank holds whole does not.
    """
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or not weight.is_floating_point():
            continue
        own = 0 if name.endswith(REPLICATED) else rank
        generator = torch.Generator(device=weight.device)
        generator.manual_seed(zlib.crc32(f"{name} {own}".encode()))
        weight.data.normal_(0.0, deviation, generator=generator)


class Group:
    """One rank, loaded; `look` runs all prompts through it."""

    def __init__(self, arguments: argparse.Namespace, extra: Sequence[str]) -> None:
        from sglang_qwen3next_eagle3.overlay.prefill import rank as prefill_rank

        flags = [
            *FLAGS,
            *("--chunked-prefill-size", str(ROOM), "--max-total-tokens", str(2 * ROOM)),
            *extra,
            *("--model-path", arguments.target, "--tp-size", str(arguments.tp)),
            *("--nccl-port", str(arguments.port)),
        ]
        on_cpu = "cpu" in extra
        self._rank = prefill_rank.Rank(prefill_rank.Setup(tuple(flags), arguments.rank, on_cpu))
        self._model = self._rank._model
        if arguments.spread:
            spread(self._model, arguments.rank)
        self._logits: list[Tensor] = []
        self._model.logits_processor.register_forward_hook(self._keep)

    def _keep(self, _module: Any, _arguments: Any, output: Any) -> None:
        self._logits.append(output.next_token_logits.float().cpu())

    def look(self, prompts: Sequence[Sequence[int]], fused: bool, told: bool) -> Seen:
        from sglang.srt.layers import flashinfer_comm_fusion

        from sglang_qwen3next_eagle3.model import aux_layers
        from sglang_qwen3next_eagle3.overlay import capture
        from sglang_qwen3next_eagle3.overlay.prefill.runner import every_stream

        # Once it is off it stays off, so the fused ways come first.
        if not fused:
            flashinfer_comm_fusion._flashinfer_allreduce_unavailable = True
        target = capture.target_of(self._model.config)
        card = aux_layers.on_target("card", target, count=None)
        found = []
        for selection in (every_stream(self._rank.loaded.layers), card):
            self._rank.select(selection)
            # It is told once; what is set here after that stays.
            capture.tell_last_layer(self._model.model)
            self._model.model.layers[-1].layer_communicator.is_last_layer = told
            self._logits.clear()
            streams, last_hidden = self._rank.extend(prompts)
            found.append((streams.cpu(), last_hidden.cpu()))
        (every, last_hidden), (of_card, _) = found
        return Seen(every, of_card, last_hidden, self._logits[-1])

    def fusion(self) -> str | None:
        """The backend of the fused all-reduce, if SGLang has set it up."""
        from sglang.srt.layers import flashinfer_comm_fusion

        if flashinfer_comm_fusion.is_flashinfer_allreduce_unavailable():
            return None
        workspace = flashinfer_comm_fusion._get_workspace_manager(True).workspace
        return None if workspace is None else str(workspace.backend)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name, kind in (("target", str), ("tp", int), ("rank", int), ("port", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--spread", action="store_true", help="weights that tell ranks apart")
    arguments, extra = parser.parse_known_args()
    prompts = json.loads((arguments.folder / "prompts.json").read_text())
    group = Group(arguments, extra)
    group.look(prompts, *WAYS["plugin"])  # what is compiled or set up at first use
    seen: dict[str, Any] = {"fusion": group.fusion()}
    for name, (fused, told) in WAYS.items():
        seen[name] = group.look(prompts, fused, told)
    torch.save(seen, arguments.folder / f"{arguments.rank}.pt")
    sys.stdout.flush()
    # SGLang's threads and NCCL's teardown have nothing left to do.
    os._exit(0)


if __name__ == "__main__":
    # What is saved is named by this module, not by __main__.
    from tests.support import tp_streams

    tp_streams.main()
