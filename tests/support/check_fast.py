"""check_fast.py OUT KIND TARGET RANK -- SGLANG FLAGS

Load a target with stock SGLang on the CPU and compare the fast path with it, step by step and over
a whole model, then with each kernel spoilt in turn. OUT: JSON. KIND: `reference` or `interpreted`.
RANK: of tensor parallelism; every rank is a process of its own.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from sglang_qwen3next_eagle3.overlay import capture
from sglang_qwen3next_eagle3.overlay.fast import (
    cuda_modules,
    dispatch,
    hooks,
    prefill_rehearsal,
    preparation,
    rehearsal,
    selfcheck,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.attention import chunk_count
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_TARGET, Wanted
from sglang_qwen3next_eagle3.overlay.hooks import apply
from tests.support import fast_kernels
from tests.support.fast_equality import Drafts, Passes, differs
from tests.support.parts import elsewhere
from tests.support.streams import StreamRunner

PROMPT = list(range(20, 91))
STEPS = 4


def main() -> None:
    out, kind, target, rank = sys.argv[1:5]
    without_nccl()
    runner = StreamRunner(Path(target), sys.argv[6:], int(rank))
    runner.spread_dummy_weights()
    model_runner = runner._runner.torch_runner
    fast_kernels.fuse_shared_experts()
    of_kind = {
        "reference": fast_kernels.ReferenceKernels,
        "interpreted": fast_kernels.InterpretedKernels,
    }[kind]
    kernels = of_kind(model_runner.model.model, model_runner.attn_backend, 32, "cpu")
    path = preparation.build(model_runner, kernels, frozenset(OF_TARGET))
    apply(hooks.hooks(Wanted(frozenset(OF_TARGET))))
    if kernels.ranks == 1:
        # What is compiled ahead on a GPU runs here, so that every step of it can be run.
        rehearsal.go_through(path, model_runner, lambda step: step())
        prefills: list[Any] = []
        prefill_rehearsal.go_through(path, model_runner, lambda step: prefills.append(step()))
    findings = selfcheck.compare(path, model_runner)
    for finding in findings:
        if finding.off:
            selfcheck.drop(path, finding)
    states = model_runner.req_to_token_pool.mamba_pool.mamba_cache
    nodes = model_runner.server_args.speculative_num_draft_tokens or 1
    longest = chunk_count(model_runner.model_config.context_len + nodes)
    report: dict[str, Any] = {
        "findings": [{**asdict(finding), "off": finding.off} for finding in findings],
        "builds": [name for _, name, _ in cuda_modules.builds(model_runner.model)],
        "prefills": len(prefills) if kernels.ranks == 1 else 0,
        "room": kernels.workspace.sums.shape[2] >= longest,
        "clean": not states.conv[0][:, 1:].any() and not states.temporal[:, 1:].any(),
    }
    verify = model_runner.spec_algorithm.is_eagle()
    if not verify:
        report["streams"] = streams(runner, path, model_runner)
        if kernels.ranks > 1:
            # Sums over ranks with the norms behind them, as a reference adds them up.
            kernels.peers = kernels
            again = [asdict(finding) for finding in selfcheck.compare(path, model_runner)]
            fused = {"stages": sorted(path.stages), "findings": again}
            report["fused"] = fused | {"streams": streams(runner, path, model_runner)}
            kernels.peers = None
        report["unequal"] = unequal(path, model_runner)
    if kind == "reference" and kernels.ranks == 1 and not elsewhere():
        spoilable = ["add_norm_quantize", "skinny_gemm", "attention", "experts", "lm_head"]
        spoilable += ["gdn_verify", "gdn_commit"] if verify else ["gdn_decode"]
        report["spoilt"] = {name: spoilt(kernels, name, path, model_runner) for name in spoilable}
    Path(out).write_text(json.dumps(report))


def without_nccl() -> None:
    """Ranks on a CPU: SGLang makes the communicator of GPUs there too."""
    from sglang.srt.distributed.device_communicators import pynccl

    pynccl.PyNcclCommunicator = lambda **_: None


def spoilt(kernels: Any, name: str, path: dispatch.FastPath, model_runner: Any) -> Any:
    """What the check leaves of each layer's stages when a kernel returns its columns in another
    order, as a wrong index does, and what the log says."""
    layers, head, right = dict(path.layers), path.lm_head, getattr(kernels, name)

    def wrong(*arguments: Any) -> Any:
        if name == "gdn_commit":
            at, states, slots, last, *others = arguments
            return right(at, states, slots, last.roll(1), *others)
        result = right(*arguments)
        if isinstance(result, torch.Tensor):
            return result.roll(1, -1)
        first, rest = result[0].roll(1, -1), result[1:]
        return type(result)(first, *rest) if hasattr(result, "_fields") else (first, *rest)

    setattr(kernels, name, wrong)
    try:
        described = selfcheck.check(path, model_runner)
    finally:
        delattr(kernels, name)
    left = {number: sorted(layer.stages) for number, layer in path.layers.items()}
    stages = sorted(path.stages)
    path.layers, path.lm_head = layers, head
    return {"described": described, "left": left, "stages": stages}


def streams(runner: StreamRunner, path: dispatch.FastPath, model_runner: Any) -> dict[str, Any]:
    """Prefill and decode with every layer's entering stream captured: stock's, then ours."""
    from sglang.srt.model_executor import runner as graph_runner

    from sglang_qwen3next_eagle3.model import aux_layers

    target = capture.target_of(runner.model.config)
    last = len(runner.model.model.layers) - 1
    wanted = f"input:0,input:3,output:3,output:{last}" if last > 3 else "input:0,input:3,output:3"
    selection = aux_layers.on_target(wanted, target, count=None, allow_gdn=True)
    capture.install(runner.model, selection)
    tokens, stock = runner.capture(PROMPT, STEPS)
    hooks.install(path, model_runner)
    graph_runner.get_is_capture_mode = lambda: True
    taken = []
    begin = path.begin

    def count(batch: Any) -> None:
        begin(batch)
        taken.append(path.current is not None)

    path.begin = count  # type: ignore[method-assign]
    ours_tokens, ours = runner.capture(PROMPT, STEPS)
    graph_runner.get_is_capture_mode = lambda: False
    path.begin = begin  # type: ignore[method-assign]
    off = [
        ((a - b).norm(dim=-1) / b.norm(dim=-1)).max().item()
        for a, b in zip(ours, stock, strict=True)
    ]
    return {"taken": taken, "off": off, "tokens": [tokens, ours_tokens]}


def unequal(path: dispatch.FastPath, model_runner: Any) -> dict[str, list[str]]:
    """By shape of the drafts: what of a verify and its commit is not what decoding gives."""

    def ours(batch: Any) -> None:
        path.current = path.prepare(batch, model_runner.attn_backend)

    path.begin = ours  # type: ignore[method-assign]
    passes = Passes(model_runner, path)
    shapes = {
        "1 chain of 4": Drafts.chain(1, 4),
        "2 chains of 4": Drafts.chain(2, 4),
        "1 tree of 8": Drafts.tree(1, 8),
    }
    return {name: differs(passes, drafts) for name, drafts in shapes.items()}


if __name__ == "__main__":
    main()
