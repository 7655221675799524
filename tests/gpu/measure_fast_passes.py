"""What a pass of the target costs in stock SGLang and with the fast path, without a server.

    python tests/gpu/measure_fast_passes.py OUT.json --tree 3,1,4 --stages all --stages gdn,moe

One process on one Hopper GPU loads the full-size FP8 architecture with random weights, compares
every step of every layer (overlay/fast/selfcheck.py), and captures and times stock's graph and one
with each set of stages. A replay is timed behind 512 tokens of context, the best of three times
thirty. Stages are ours up to the rows of `dispatch.ROWS`; --any-rows lifts that.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Before SGLang is imported: kernels of DeepGEMM are compiled when they are first used, and the head
# may declare a shorter context than is served.
os.environ.setdefault("SGLANG_JIT_DEEPGEMM_PRECOMPILE", "0")
os.environ.setdefault("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN", "1")

import torch

from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.overlay.fast import (
    dispatch,
    hooks,
    kernel_table,
    preparation,
    selfcheck,
)
from sglang_qwen3next_eagle3.overlay.fast.stages import STAGES, Wanted
from sglang_qwen3next_eagle3.overlay.hooks import apply

CONTEXT, SPACE, OWN = 512, 1024, 60000
"""Tokens before a pass; places in the cache a request has; where the pass puts its own tokens."""
began = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)


def load(arguments: argparse.Namespace, folder: Path) -> Any:
    """SGLang's `ModelRunner` of the target, without graphs."""
    from sglang.benchmark import one_batch
    from sglang.srt.model_executor.model_runner import ModelRunner
    from sglang.srt.server_args import PortArgs, prepare_server_args

    target = synthetic.write_target(folder / "target", "fp8")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": arguments.layers})
    )
    sizes = list(map(str, arguments.requests))
    flags = (
        f"--model-path {target} --load-format dummy --skip-tokenizer-init --random-seed 1 "
        "--attention-backend triton --disable-radix-cache --disable-prefill-cuda-graph "
        f"--mem-fraction-static 0.85 --context-length 8192 --max-total-tokens 65536 "
        f"--max-running-requests {max(arguments.requests)} --cuda-graph-bs-decode {' '.join(sizes)}"
    ).split()
    if arguments.tree:
        steps, topk, nodes = arguments.tree.split(",")
        flags += ["--speculative-algorithm", "EAGLE3", "--speculative-num-steps", steps]
        flags += ["--speculative-eagle-topk", topk, "--speculative-num-draft-tokens", nodes]
        flags += ["--speculative-draft-model-path", str(synthetic.write_head(folder / "head"))]
    server_args = prepare_server_args(flags)
    one_batch._set_envs_and_config(server_args)
    one_batch.get_tokenizer = lambda *_, **__: None
    capture = ModelRunner.init_cuda_graphs
    ModelRunner.init_cuda_graphs = lambda *_, **__: None
    try:
        loaded, _ = one_batch.load_model(server_args, PortArgs.init_new(server_args), 0, 0)
    finally:
        ModelRunner.init_cuda_graphs = capture
    return loaded.torch_runner


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


def compared(runner: Any, path: dispatch.FastPath) -> list[dict[str, Any]]:
    """The worst finding of each step over the layers; what is off is dropped from the path."""
    worst: dict[tuple[str, str], selfcheck.Deviation] = {}
    for finding in selfcheck.compare(path, runner):
        key = finding.stage, finding.what
        if key not in worst or not finding.typical <= worst[key].typical:
            worst[key] = finding
        if finding.off:
            selfcheck.drop(path, finding)
    for finding in worst.values():
        say(f"{finding.stage:9} {finding}")
    return [asdict(finding) for finding in worst.values()]


def measure(runner: Any, nodes: int, path: dispatch.FastPath | None) -> list[dict[str, Any]]:
    """Milliseconds and kernels of a pass for every number of requests."""
    from sglang.srt.model_executor.model_runner_components.cuda_graph_setup import (
        capture_decode_graph,
    )

    for holder in (*runner.model.model.layers, runner.attn_backend, runner.model.lm_head):
        holder.__dict__.pop(hooks.PATH, None)
    if path is not None:
        hooks.install(path, runner)
    graphs = capture_decode_graph(model_runner=runner).runner
    rows = []
    for key, graph in sorted(graphs.backend._graphs.items(), key=lambda item: item[0].size):
        fill(runner, graphs, key.size, nodes)
        for _ in range(5):
            graph.replay()
        times = []
        for _ in range(3):
            start, end = torch.cuda.Event(True), torch.cuda.Event(True)
            start.record()
            for _ in range(30):
                graph.replay()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 30)
        kernels = launches(graph)
        rows.append(
            {
                "requests": key.size,
                "rows": key.size * nodes,
                "ms": round(min(times), 3),
                "kernels": sum(kernels.values()),
                "launches": dict(kernels.most_common(24)),
            }
        )
    graphs.backend.cleanup()
    torch.cuda.empty_cache()
    return rows


def fill(runner: Any, graphs: Any, requests: int, nodes: int) -> None:
    """Random tokens behind a context, in the buffers that a captured pass reads."""
    device, rows = runner.device, requests * nodes
    full, linear = runner.attn_backend.full_attn_backend, runner.attn_backend.linear_attn_backend

    def put(name: str, values: torch.Tensor) -> None:
        graphs.buffer_registry.get_slot(name).slice_for(requests, rows).copy_(values)

    generator = torch.Generator().manual_seed(0)
    put("input_ids", torch.randint(0, 1000, (rows,), generator=generator))
    put("positions", CONTEXT + torch.arange(rows) % nodes)
    put("out_cache_loc", OWN + torch.arange(rows))
    linear.state_indices_list[requests - 1].copy_(torch.arange(1, requests + 1))
    # A decode step's own token is among its indices, a verify's are not.
    length = CONTEXT + (nodes == 1)
    starts = torch.arange(requests + 1, device=device)
    full.kv_indptr[: requests + 1] = (starts * length).int()
    for request in range(requests):
        places = full.cuda_graph_kv_indices[request * length : (request + 1) * length]
        places.copy_(1 + request * SPACE + torch.arange(length))
        if nodes == 1:
            places[-1] = OWN + request
    if nodes > 1:
        full.mask_indptr[: requests + 1] = starts * nodes * (CONTEXT + nodes)
        if full._verify_mask is not None:
            full._verify_mask.buffer.fill_(1)


def launches(graph: Any) -> Counter[str]:
    """Kernels of one replay by name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        graph.replay()
        torch.cuda.synchronize()
    events = [event for event in profiled.events() if "CUDA" in str(event.device_type)]
    return Counter(event.name[:80] for event in events)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--tree", help="steps,topk,draft tokens; without it a decode step")
    parser.add_argument("--requests", default="1,8")
    parser.add_argument("--stages", action="append", help="a set joined by commas, or all")
    parser.add_argument("--any-rows", action="store_true", help="stages at any number of rows")
    arguments = parser.parse_args()
    if arguments.any_rows:
        dispatch.ROWS = dict.fromkeys(STAGES, dispatch.MAX_ROWS)
    arguments.requests = [int(word) for word in arguments.requests.split(",")]
    nodes = int(arguments.tree.split(",")[2]) if arguments.tree else 1
    with tempfile.TemporaryDirectory() as folder:
        runner = load(arguments, Path(folder))
    spread(runner.model)
    say(f"loaded on {torch.cuda.get_device_name()}")
    apply(hooks.hooks(Wanted(frozenset())))
    kernels = kernel_table.Kernels(
        runner.model.model, runner.attn_backend, dispatch.MAX_ROWS, runner.device
    )
    whole = preparation.build(runner, kernels, frozenset(STAGES))
    findings = compared(runner, whole)
    say(f"left of the stages: {sorted(whole.stages)}")

    from sglang.srt.model_executor.graph_shared_output import GraphSharedOutput
    from sglang.srt.model_executor.runner import EagerRunner

    runner.graph_shared_output = GraphSharedOutput.create_for_model_runner(runner)
    runner.eager_runner = EagerRunner(runner)
    measured = []
    for spelled in ("stock", *(arguments.stages or ["all"])):
        path = None
        if spelled != "stock":
            asked = whole.stages if spelled == "all" else frozenset(spelled.split(","))
            layers = {
                i: layer.with_stages(layer.stages & asked) for i, layer in whole.layers.items()
            }
            head = whole.lm_head if "lm_head" in asked else None
            path = dispatch.FastPath(kernels, layers, head, device=runner.device)
        for row in measure(runner, nodes, path):
            measured.append({"stages": sorted(path.stages) if path else [], **row})
            say(f"{spelled}: {row['rows']} rows {row['ms']} ms, {row['kernels']} kernels")
    result = {
        "device": torch.cuda.get_device_name(),
        "layers": arguments.layers,
        "context": CONTEXT,
        "speculation": arguments.tree or "none",
        "findings": findings,
        "passes": measured,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
