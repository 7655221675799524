"""Sums over ranks with the norm behind them: ours against SGLang's, right and how fast. By hand.

    python tests/gpu/measure_sums.py --ranks 2 --json OUT.json

Needs so many GPUs of one machine that see each other's memory, SGLang, and this package on
PYTHONPATH; no weights. Every rank is a process on a GPU of its own, as in a server.

right: bit for bit the norm behind the sum of all parts in order of rank, the same on every rank,
and the same in every replay of a CUDA graph over poisoned outputs, in which the ranks come at
different times; with two ranks, of which there is but one sum, bit for bit SGLang's, too.
time: a graph of 48 launches each, us a launch, the slowest rank's median: SGLang's all-reduce,
that with our norm and quantization behind it as a server has it today, and both in one launch.

The time that it may take counts from when all ranks are up: on a machine where SGLang never served
on several GPUs, its all-reduce is compiled first, which takes more than a minute. What was found by
then is in the file. Exit code 0: all was measured, and nothing differed.
"""

import argparse
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sglang_qwen3next_eagle3.base.processes import free_port
from sglang_qwen3next_eagle3.overlay.fast import peers, ranks
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import Normed, add_norm_quantize
from sglang_qwen3next_eagle3.overlay.fast.kernels.peer_sum import sum_norm_quantize

WIDTH, EPS, LAUNCHES = 2048, 1e-6, 48
WRONG = "launches that differ from the sum in order of rank with our norm"
DIFFERENT = "launches that differ from SGLang's sum with our norm"
began = time.monotonic()


class Rows:
    """One of `LAUNCHES` inputs of a rank: its part, and what all ranks have alike.

    total: the parts of all ranks added up in their order, in fp32, and rounded to bf16.
    """

    def __init__(self, rows: int, number: int, rank: int, ranks: int, device: str) -> None:
        def drawn(seed: int, *shape: int) -> torch.Tensor:
            generator = torch.Generator().manual_seed(seed)
            return torch.randn(*shape, generator=generator).to(device, torch.bfloat16)

        self.part = drawn(1000 * number + rank, rows, WIDTH)
        total = torch.zeros(rows, WIDTH, device=device)
        for other in range(ranks):
            total += drawn(1000 * number + other, rows, WIDTH).float()
        self.total = total.bfloat16()
        # SGLang may add up in place.
        self.spent = self.part.clone()
        self.residual = drawn(1000 * number + 500, rows, WIDTH)
        self.weight, self.gate = drawn(1, WIDTH), drawn(2, 1, WIDTH)
        self.gated = torch.empty(rows, dtype=torch.bfloat16, device=device)


def bits(made: Normed, rows: Rows) -> list[torch.Tensor]:
    parts = [*made, rows.gated]
    return [part.view(torch.uint8).clone() for part in parts if part is not None]


def captured(launch: Callable[[int], Any]) -> tuple[torch.cuda.CUDAGraph, list[Any]]:
    """A graph of `LAUNCHES` launches on SGLang's terms, and what they return."""
    from sglang.srt.distributed.parallel_state import graph_capture

    for number in range(LAUNCHES):
        launch(number)
    torch.cuda.synchronize()
    graph, made = torch.cuda.CUDAGraph(), []
    with graph_capture() as context, torch.cuda.graph(graph, stream=context.stream):
        made = [launch(number) for number in range(LAUNCHES)]
    return graph, made


def microseconds(graph: torch.cuda.CUDAGraph, replays: int) -> float:
    """Of one launch, on the rank that took longest."""
    times = []
    for _ in range(replays):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        graph.replay()
        last.record()
        torch.cuda.synchronize()
        times.append(float(first.elapsed_time(last)) * 1000 / LAUNCHES)
    return max(ranks.of_all(float(median(times))))


def measured(view: Any, rows: int, arguments: argparse.Namespace, device: str) -> dict[str, Any]:
    inputs = [Rows(rows, number, view.rank, arguments.ranks, device) for number in range(LAUNCHES)]

    def reduced(number: int) -> torch.Tensor:
        return ranks.summed(inputs[number].spent)

    def apart(number: int) -> Normed:
        one = inputs[number]
        return add_norm_quantize(
            reduced(number), one.residual, one.weight, EPS, True, one.gate, one.gated
        )

    def in_order(number: int) -> Normed:
        one = inputs[number]
        return add_norm_quantize(
            one.total, one.residual, one.weight, EPS, True, one.gate, one.gated
        )

    def ours(number: int) -> Normed:
        one = inputs[number]
        return sum_norm_quantize(
            view, one.part, one.residual, one.weight, EPS, True, one.gate, one.gated
        )

    wanted = [bits(apart(number), inputs[number]) for number in range(LAUNCHES)]
    right = [bits(in_order(number), inputs[number]) for number in range(LAUNCHES)]
    wrong = different = different_values = 0
    for number in range(LAUNCHES):
        got = bits(ours(number), inputs[number])
        wrong += not all(map(torch.equal, got, right[number]))
        different += not all(map(torch.equal, got, wanted[number]))
        different_values += int((got[0] != wanted[number][0]).sum())
    first = [bits(ours(number), inputs[number]) for number in range(LAUNCHES)]
    everybody = ranks.of_all([int(part.long().sum()) for made in first for part in made])
    graphs = {"all-reduce": reduced, "all-reduce, then norm": apart, "in one launch": ours}
    row: dict[str, Any] = {
        "rows": rows,
        WRONG: sum(ranks.of_all(wrong)),
        DIFFERENT: sum(ranks.of_all(different)),
        "bytes of the stream that differ": different_values,
        "ranks agree": all(one == everybody[0] for one in everybody),
    }
    for name, launch in graphs.items():
        graph, made = captured(launch)
        row[f"{name}, us"] = round(microseconds(graph, arguments.timed), 2)
        if launch is ours:
            row["replays that differ"] = _replayed(graph, made, inputs, first, view, arguments)
            row["replays"] = arguments.replays
    return row


def _replayed(
    graph: torch.cuda.CUDAGraph, made: list[Normed], inputs: list[Rows],
    wanted: list[list[torch.Tensor]], view: Any, arguments: argparse.Namespace,
) -> int:  # fmt: skip
    """How many replays over poisoned outputs gave other bits, on any rank."""
    off = torch.zeros((), dtype=torch.int64, device=view.counts.device)
    for turn in range(arguments.replays):
        for one, rows in zip(made, inputs, strict=True):
            for part in (*one, rows.gated):
                if part is not None:
                    part.view(torch.uint8).fill_(0x7F)
        if turn % 7 == view.rank:
            torch.cuda._sleep(200_000)  # type: ignore[no-untyped-call]  # 0.1 ms late
        graph.replay()
        different = torch.zeros((), dtype=torch.bool, device=off.device)
        for one, rows, right in zip(made, inputs, wanted, strict=True):
            parts = [part for part in (*one, rows.gated) if part is not None]
            for got, bits_of in zip(parts, right, strict=True):
                different |= (got.view(torch.uint8) != bits_of).any()
        off += different
    return sum(ranks.of_all(int(off)))


def say(arguments: argparse.Namespace, text: str) -> None:
    if arguments.rank == 0:
        print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)


def rank(arguments: argparse.Namespace) -> int:
    faulthandler.register(signal.SIGUSR1)
    from sglang.srt.distributed import parallel_state

    say(arguments, "SGLang is imported")
    torch.cuda.set_device(arguments.rank)
    device = f"cuda:{arguments.rank}"
    parallel_state.init_distributed_environment(
        world_size=arguments.ranks,
        rank=arguments.rank,
        local_rank=arguments.rank,
        distributed_init_method=f"tcp://127.0.0.1:{arguments.port}",
        backend="nccl",
    )
    say(arguments, "the ranks know each other")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=arguments.ranks)
    say(arguments, "SGLang's groups are there")
    view, reason = peers.agreed(WIDTH, device)
    if reason is not None:
        print(reason, flush=True)
        return 1
    ranks.summed(torch.ones(1, WIDTH, dtype=torch.bfloat16, device=device))
    torch.cuda.synchronize()
    ranks.of_all(arguments.rank)
    say(arguments, "all ranks have added up once")
    arguments.ready.touch()
    found = []
    for rows in arguments.rows:
        row = measured(view, rows, arguments, device)
        found.append(row)
        say(arguments, json.dumps(row))
        if arguments.rank == 0 and arguments.json:
            name = torch.cuda.get_device_name()
            result = {"device": name, "ranks": arguments.ranks, "found": found}
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(failed(row, arguments.ranks) for row in found))


def failed(row: dict[str, Any], ranks: int) -> bool:
    """Whether anything differed that must not: of more than two ranks SGLang may add up in another
    order."""
    if not row["ranks agree"] or row["replays that differ"] or row[WRONG]:
        return True
    return ranks == 2 and bool(row[DIFFERENT])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", default="1,4,8,16,32", help="joined by commas")
    parser.add_argument("--timed", type=int, default=200, help="replays that are timed")
    parser.add_argument("--replays", type=int, default=300, help="replays that are compared")
    parser.add_argument("--seconds", type=float, default=120, help="once all ranks are up")
    parser.add_argument("--start-seconds", type=float, default=240, help="until they are")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", help=argparse.SUPPRESS)
    parser.add_argument("--ready", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.rows = [int(word) for word in arguments.rows.split(",")]
    if arguments.rank is not None:
        code = 1
        try:
            code = rank(arguments)
        except Exception:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)  # ending in order takes as long again, or waits for the other ranks
    port = str(free_port())
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready")
        command = [sys.executable, "-u", *sys.argv, "--port", port, "--ready", str(ready), "--rank"]
        processes = [subprocess.Popen([*command, str(one)]) for one in range(arguments.ranks)]
        try:
            return watched(processes, ready, arguments)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()


def watched(
    processes: list["subprocess.Popen[bytes]"], ready: Path, arguments: argparse.Namespace
) -> int:
    """The exit code, once all ranks have ended, one has failed, or the time is over."""
    ends = began + arguments.start_seconds
    up = False
    while any(process.poll() is None for process in processes):
        if any(process.returncode for process in processes):
            print("a rank failed", flush=True)
            return 1
        if not up and ready.exists():
            up, ends = True, time.monotonic() + arguments.seconds
        if time.monotonic() > ends:
            print("no time left" if up else "the ranks were not up in time", flush=True)
            for process in processes:
                process.send_signal(signal.SIGUSR1)  # Where it is.
            time.sleep(1)
            return 1
        time.sleep(0.2)
    return int(any(process.returncode for process in processes))


if __name__ == "__main__":
    sys.exit(main())
