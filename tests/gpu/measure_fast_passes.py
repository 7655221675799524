"""What a pass of the target costs in stock SGLang and with the fast path, without a server.

    python tests/gpu/measure_fast_passes.py OUT.json --tree 3,1,4 --stages gdn,moe --stages all:any

One process on one Hopper GPU loads the full-size FP8 architecture with random weights and measures
stock's graphs; then, set by set, it compares every step of every layer that was not compared yet
(overlay/fast/selfcheck.py), and captures and measures the graphs with that set. A stage is ours up
to the rows of `dispatch.ROWS`, or, in a set that ends in `:any`, at any number of rows. A replay is
timed behind --context tokens. What fails is said and written down; the rest goes on.

With --tp every rank is a process of its own on a GPU of its own, and what rank 0 measures is kept.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

# Before SGLang is imported: kernels of DeepGEMM are compiled when they are first used, and the head
# may declare a shorter context than is served.
os.environ.setdefault("SGLANG_JIT_DEEPGEMM_PRECOMPILE", "0")
os.environ.setdefault("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN", "1")

import torch

from sglang_qwen3next_eagle3.base.processes import free_port
from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.overlay.fast import (
    dispatch,
    hooks,
    kernel_table,
    peers,
    preparation,
    ranks,
    selfcheck,
)
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_TARGET, PATH, Stage, Wanted
from sglang_qwen3next_eagle3.overlay.hooks import apply
from tests.support.fast_equality import Drafts

OWN = 256
"""Places in the cache for the tokens of a pass, behind those of all requests' contexts."""
MEMORY = 0.98
"""The contexts and requests alone size the caches: the GPU may be somebody else's as well."""
SUMS: Stage = "allreduce"
STOCK, ANY_ROWS, FAILED = "stock", ":any", "FAILED"
began = time.monotonic()


def say(text: str) -> None:
    """To people; of the ranks only the first, if nothing failed."""
    if "--rank" not in sys.argv or sys.argv[sys.argv.index("--rank") + 1] == "0" or FAILED in text:
        print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)


def load(arguments: argparse.Namespace, folder: Path) -> Any:
    """SGLang's `ModelRunner` of the target, without graphs."""
    from sglang.benchmark import one_batch
    from sglang.srt.model_executor.model_runner import ModelRunner
    from sglang.srt.server_args import PortArgs, prepare_server_args

    target = synthetic.write_target(folder / "target", arguments.precision)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": arguments.layers})
    )
    sizes = list(map(str, arguments.requests))
    flags = (
        f"--model-path {target} --load-format dummy --skip-tokenizer-init --random-seed 1 "
        "--attention-backend triton --disable-radix-cache --disable-prefill-cuda-graph "
        f"--mem-fraction-static {MEMORY} --max-total-tokens {first_own(arguments) + OWN} "
        f"--context-length {max(8192, arguments.context + OWN)} "
        f"--max-running-requests {max(arguments.requests)} --cuda-graph-bs-decode {' '.join(sizes)}"
    ).split()
    if arguments.tree:
        steps, topk, nodes = map(str, arguments.tree)
        flags += ["--speculative-algorithm", "EAGLE3", "--speculative-num-steps", steps]
        flags += ["--speculative-eagle-topk", topk, "--speculative-num-draft-tokens", nodes]
        flags += ["--speculative-draft-model-path", str(synthetic.write_head(folder / "head"))]
    if arguments.tp > 1:
        flags += ["--tp-size", str(arguments.tp), "--nccl-port", str(arguments.port)]
    server_args = prepare_server_args(flags)
    one_batch._set_envs_and_config(server_args)
    one_batch.get_tokenizer = lambda *_, **__: None
    ports = PortArgs.init_new(server_args)
    capture = ModelRunner.init_cuda_graphs
    ModelRunner.init_cuda_graphs = lambda *_, **__: None
    try:
        loaded, _ = one_batch.load_model(server_args, ports, arguments.rank, arguments.rank)
    finally:
        ModelRunner.init_cuda_graphs = capture
    return loaded.torch_runner


def first_own(arguments: argparse.Namespace) -> int:
    """The first place in the cache that no context has; the one at 0 is SGLang's padding."""
    return 1 + int(arguments.context * max(arguments.requests))


@torch.no_grad()
def spread(model: Any) -> None:
    """Weights of which every layer changes the stream: SGLang's dummies are zero in e4m3."""
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float8_e4m3fn:
            for part in parameter.data.view(-1).split(1 << 28):
                part.copy_(torch.randn(part.numel(), device=part.device, dtype=torch.bfloat16))
        elif "weight_scale_inv" in name:
            parameter.fill_(0.02)
        elif parameter.dtype == torch.bfloat16 and "norm" not in name:
            parameter.mul_(50.0)
    preparation.without_invented_scales(model)


def prepared(
    runner: Any, kernels: kernel_table.Kernels, stages: frozenset[Stage]
) -> tuple[dispatch.FastPath, list[selfcheck.Deviation]]:
    """The path with these stages in the layers where each is right, and what was found of them."""
    started = time.monotonic()
    path = preparation.build(runner, kernels, stages)
    findings = selfcheck.compare(path, runner)
    torch.cuda.synchronize()
    worst: dict[tuple[Stage, str], selfcheck.Deviation] = {}
    off: Counter[tuple[Stage, str]] = Counter()
    for finding in findings:
        key = finding.stage, finding.what
        if key not in worst or not finding.typical <= worst[key].typical:
            worst[key] = finding
        off[key] += finding.off
    selfcheck.settle(path, [finding for finding in findings if finding.off])
    for key, finding in worst.items():
        verdict = f"OFF in {off[key]} layers" if off[key] else "right"
        say(f"  {finding.stage:9} {verdict:16} {str(finding)[:400]}")
    say(f"checked in {time.monotonic() - started:.1f} s; ours: {', '.join(sorted(path.stages))}")
    return path, findings


def only(path: dispatch.FastPath, stages: frozenset[Stage], device: Any) -> dispatch.FastPath:
    """The path with no other stages than these."""
    layers = {i: layer.with_stages(layer.stages & stages) for i, layer in path.layers.items()}
    head = path.lm_head if "lm_head" in stages else None
    return dispatch.FastPath(path.kernels, layers, head, device=device)


def measure(
    runner: Any, arguments: argparse.Namespace, path: dispatch.FastPath | None
) -> list[dict[str, Any]]:
    """Milliseconds and kernels of a pass for every number of requests."""
    from sglang.srt.model_executor.model_runner_components.cuda_graph_setup import (
        capture_decode_graph,
    )

    for holder in (*runner.model.model.layers, runner.attn_backend, runner.model.lm_head):
        holder.__dict__.pop(PATH, None)
    if path is not None:
        hooks.install(path, runner)
    graphs = capture_decode_graph(model_runner=runner).runner
    nodes, rows = arguments.tree[2] if arguments.tree else 1, []
    for key, graph in sorted(graphs.backend._graphs.items(), key=lambda item: item[0].size):
        fill(runner, graphs, key.size, arguments)
        times = sorted(replays(graph))
        kernels = launches(graph)
        rows.append(
            {
                "requests": key.size,
                "rows": key.size * nodes,
                "ms": round(times[0], 3),
                "median_ms": round(times[len(times) // 2], 3),
                "kernels": sum(kernel["count"] for kernel in kernels),
                "launches": kernels[:20],
            }
        )
    graphs.backend.cleanup()
    torch.cuda.empty_cache()
    return rows


def replays(graph: Any) -> list[float]:
    """Milliseconds of a replay, the mean of five in a row, forty times.

    The least of them is what a pass takes when nobody else is on the GPU.
    """
    for _ in range(5):
        graph.replay()
    times = []
    for _ in range(40):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(5):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 5)
    return times


def fill(runner: Any, graphs: Any, requests: int, arguments: argparse.Namespace) -> None:
    """Random tokens behind a context, in the buffers that a captured pass reads."""
    tree, context, own = arguments.tree, arguments.context, first_own(arguments)
    nodes = tree[2] if tree else 1
    device, rows = runner.device, requests * nodes
    full, linear = runner.attn_backend.full_attn_backend, runner.attn_backend.linear_attn_backend

    def put(name: str, values: torch.Tensor) -> None:
        graphs.buffer_registry.get_slot(name).slice_for(requests, rows).copy_(values)

    generator = torch.Generator().manual_seed(0)
    put("input_ids", torch.randint(0, 1000, (rows,), generator=generator))
    put("positions", context + torch.arange(rows) % nodes)
    put("out_cache_loc", own + torch.arange(rows))
    linear.state_indices_list[requests - 1].copy_(torch.arange(1, requests + 1))
    # A decode step's own token is among its indices, a verify's are not.
    length = context + (nodes == 1)
    starts = torch.arange(requests + 1, device=device)
    full.kv_indptr[: requests + 1] = (starts * length).int()
    for request in range(requests):
        places = full.cuda_graph_kv_indices[request * length : (request + 1) * length]
        places.copy_(1 + request * context + torch.arange(length))
        if nodes == 1:
            places[-1] = own + request
    if nodes == 1:
        # Otherwise stock would read a context as it does those that it captures with: in one piece.
        lengths = torch.full((requests,), length, dtype=torch.int64, device=device)
        full.get_num_kv_splits(full.cuda_graph_num_kv_splits[:requests], lengths)
    else:
        full.mask_indptr[: requests + 1] = starts * nodes * (context + nodes)
        if full._verify_mask is not None:
            full._verify_mask.buffer.fill_(1)
    if tree and tree[1] > 1:
        links = Drafts.tree(requests, nodes).links
        assert links is not None
        lists = linear.retrieve_next_token_list, linear.retrieve_next_sibling_list
        for buffers, values in zip(lists, links, strict=True):
            buffers[requests - 1].copy_(torch.tensor([values] * requests))


def launches(graph: Any) -> list[dict[str, Any]]:
    """Kernels of a replay, the costliest first: how many, microseconds of one, and microseconds by
    which the last of those that ended is later for it.

    A kernel that starts before its predecessor has ended spends part of its own time waiting; what
    each adds sums up to the pass.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
    kernels = [event for event in profiled.events() if "CUDA" in str(event.device_type)]
    kernels.sort(key=lambda event: event.time_range.start)
    spent: dict[str, list[float]] = {}
    added: dict[str, list[float]] = {}
    ended = kernels[0].time_range.start if kernels else 0.0
    for event in kernels:
        name = event.name[:60]
        spent.setdefault(name, []).append(event.device_time)
        added.setdefault(name, []).append(max(0.0, event.time_range.end - ended))
        ended = max(ended, event.time_range.end)
    return [
        {
            "kernel": name,
            "count": round(len(us) / 3),
            "us": round(median(us), 2),
            "adds": round(median(added[name]), 2),
        }
        for name, us in sorted(spent.items(), key=lambda item: -sum(added[item[0]]))
    ]


def stages_of(spelled: str) -> frozenset[Stage]:
    words = spelled.removesuffix(ANY_ROWS)
    every = (*OF_TARGET, SUMS)
    wanted = frozenset(words.split(","))
    if "all" in wanted:
        wanted = (wanted - {"all"}) | frozenset(OF_TARGET)
    if not wanted <= frozenset(every):
        raise SystemExit(f"--stages {spelled}: stages are {', '.join(every)}")
    return wanted  # type: ignore[return-value]


def lost() -> bool:
    """Whether the device answers no more, as after an access to a wrong address."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


class Measurements:
    """What is found, written after every step: what comes later may take the process down."""

    def __init__(self, runner: Any, arguments: argparse.Namespace) -> None:
        self.runner, self.arguments = runner, arguments
        self.findings: list[selfcheck.Deviation] = []
        self.passes: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.kernels: kernel_table.Kernels | None = None
        self.path: dispatch.FastPath | None = None
        self._opened: Any = None
        self._checked: frozenset[Stage] = frozenset()

    def write(self) -> None:
        result = {
            "device": torch.cuda.get_device_name(),
            "layers": self.arguments.layers,
            "context": self.arguments.context,
            "precision": self.arguments.precision,
            "ranks": self.arguments.tp,
            "speculation": ",".join(map(str, self.arguments.tree or ["none"])),
            "failures": self.failures,
            "findings": [
                [f.layer, f.stage, f.what, round(f.typical, 5), round(f.worst, 5), f.error[:200]]
                for f in self.findings
            ],
            "passes": self.passes,
        }
        text = json.dumps(result)
        self.arguments.out.write_text(text.replace("], [", "],\n[") + "\n", encoding="utf-8")

    def step(self, name: str, what: Callable[[], None]) -> None:
        """Do it. What fails is said, and what comes after it is done all the same."""
        try:
            what()
        except Exception:
            trace = traceback.format_exc()
            self.failures.append(f"{name}: {trace[-1500:]}")
            say(f"{FAILED} {name}: {trace[-2500:]}")
            if lost():
                say(f"{FAILED} {name}: the device is lost, and what was to come with it")
                self.write()
                sys.stdout.flush()
                os._exit(3)
        self.write()

    def set_of(self, spelled: str) -> None:
        """One set of stages, checked where some of them were not yet."""
        asked = stages_of(spelled)
        if not asked - {SUMS} <= self._checked:
            self.step(f"checking {spelled}", lambda: self._check(self._checked | asked - {SUMS}))
        if self.path is not None and asked & self.path.stages:
            self.step(spelled, lambda: self._measure(spelled, asked))

    def _check(self, stages: frozenset[Stage]) -> None:
        runner = self.runner
        if self.kernels is None:
            self.kernels = kernel_table.Kernels(
                runner.model.model,
                runner.attn_backend,
                max(dispatch.LIMITS.values()),
                runner.device,
            )
        self._checked = stages
        self.path, self.findings = prepared(runner, self.kernels, stages)

    def _measure(self, spelled: str, asked: frozenset[Stage]) -> None:
        path = only(self.path, asked, self.runner.device) if self.path and asked else None
        if self.kernels is not None:
            self.kernels.peers = self._peers() if SUMS in asked else None
        limits = dispatch.ROWS
        if spelled.endswith(ANY_ROWS):
            dispatch.ROWS = dispatch.LIMITS
        try:
            rows = measure(self.runner, self.arguments, path)
        finally:
            dispatch.ROWS = limits
        for row in rows:
            stages = sorted(path.stages) if path else []
            self.passes.append({"set": spelled, "stages": stages, **row})
            say(f"{spelled:24} {row['rows']:3} rows {row['ms']:7.3f} ms "
                f"(median {row['median_ms']:7.3f}), {row['kernels']} kernels")  # fmt: skip

    def _peers(self) -> Any:
        """The memory that sums over ranks go through, which is asked for once."""
        if self._opened is None:
            self._opened = peers.opened(self.runner.model.config.hidden_size, self.runner.device)
            ranks.of_all(None)
        return self._opened

    def stock(self) -> None:
        self.step(STOCK, lambda: self._measure(STOCK, frozenset()))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--tree", help="steps,topk,draft tokens; without it a decode step")
    parser.add_argument("--requests", default="1,8")
    parser.add_argument("--context", type=int, default=512, help="tokens before a pass")
    parser.add_argument(
        "--stages",
        action="append",
        help=f"a set joined by commas, or all, with {ANY_ROWS} at any number of rows; in this "
        "order, so that what is least sure comes last",
    )
    parser.add_argument("--seconds", type=float, help="begin no further set after this time")
    parser.add_argument("--precision", choices=("fp8", "bf16"), default="fp8")
    parser.add_argument("--tp", type=int, default=1, help="ranks, each on a GPU")
    parser.add_argument("--rank", type=int, help="set for the processes of ranks, with --port")
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    arguments.requests = [int(word) for word in arguments.requests.split(",")]
    if arguments.tree:
        arguments.tree = tuple(int(word) for word in arguments.tree.split(","))
    arguments.stages = arguments.stages or ["all"]
    for spelled in arguments.stages:
        stages_of(spelled)
    return arguments


def ranks_of(arguments: argparse.Namespace) -> int:
    """All ranks as processes of their own; where one fails the others are ended. The exit code."""
    port = str(free_port())
    command = [sys.executable, "-u", *sys.argv, "--port", port, "--rank"]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in range(arguments.tp)]
    try:
        while any(process.poll() is None for process in processes):
            if any(process.returncode for process in processes):
                break
            time.sleep(0.5)
        return int(any(process.returncode for process in processes))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


def main() -> None:
    arguments = parsed()
    if arguments.tp > 1 and arguments.rank is None:
        sys.exit(ranks_of(arguments))
    if arguments.rank:
        arguments.out = arguments.out.with_suffix(f".rank{arguments.rank}.json")
    arguments.rank = arguments.rank or 0
    with tempfile.TemporaryDirectory() as folder:
        runner = load(arguments, Path(folder))
    spread(runner.model)
    say(f"loaded on {torch.cuda.get_device_name()}")
    apply(hooks.hooks(Wanted(frozenset())))

    from sglang.srt.model_executor.graph_shared_output import GraphSharedOutput
    from sglang.srt.model_executor.runner import EagerRunner

    runner.graph_shared_output = GraphSharedOutput.create_for_model_runner(runner)
    runner.eager_runner = EagerRunner(runner)
    measurements = Measurements(runner, arguments)
    measurements.stock()
    for spelled in arguments.stages:
        late = arguments.seconds and time.monotonic() - began > arguments.seconds
        if any(ranks.of_all(bool(late))):
            say(f"no time left for {spelled}")
            continue
        measurements.set_of(spelled)
    say(f"{arguments.out.name} is whole")
    # Ending in order takes as long as a set.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
