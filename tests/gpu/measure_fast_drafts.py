"""What drafting costs in stock SGLang and with the head's fast path, without a server.

    python tests/gpu/measure_fast_drafts.py OUT.json --tree 3,1,4

One process on one Hopper GPU loads a head of the published shapes with random weights beside a
target of a few layers and experts, of which only the embedding counts, and captures SGLang's graphs
of draft steps and draft extends: stock's, then ours, behind the check at start. Both are timed
behind --context tokens, and their drafts, logits and states compared.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN", "1")

import torch

from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.overlay.fast import head_check, hooks, preparation
from sglang_qwen3next_eagle3.overlay.fast.head import FastHead
from sglang_qwen3next_eagle3.overlay.fast.stages import HEAD, Wanted
from sglang_qwen3next_eagle3.overlay.hooks import apply
from tests.gpu.measure_fast_passes import began, launches, replays, say
from tests.support.check_head import worker_of

ROOM = 64
"""Places in the cache for what is drafted, a request."""


def load(arguments: argparse.Namespace, folder: Path) -> Any:
    """SGLang's `EagleDraftWorker` without graphs."""
    from sglang.benchmark import one_batch
    from sglang.srt.model_executor.model_runner import ModelRunner
    from sglang.srt.server_args import PortArgs, prepare_server_args

    target = synthetic.write_target(folder / "target", "bf16")
    config = json.loads((target / "config.json").read_text())
    config |= {"num_hidden_layers": 8, "num_experts": 16}
    (target / "config.json").write_text(json.dumps(config))
    head = synthetic.write_head(folder / "head")
    steps, topk, nodes = map(str, arguments.tree)
    requests = [str(count) for count in arguments.requests]
    tokens = max(arguments.requests) * (arguments.context + ROOM) + 256
    flags = (
        f"--model-path {target} --load-format dummy --skip-tokenizer-init --random-seed 1 "
        "--attention-backend triton --disable-radix-cache --disable-prefill-cuda-graph "
        f"--mem-fraction-static 0.9 --max-total-tokens {tokens} --context-length 8192 "
        f"--max-running-requests {requests[-1]} --cuda-graph-bs-decode {' '.join(requests)} "
        f"--speculative-algorithm EAGLE3 --speculative-num-steps {steps} "
        f"--speculative-eagle-topk {topk} --speculative-num-draft-tokens {nodes} "
        f"--speculative-draft-model-path {head} --speculative-draft-load-format auto"
    ).split()
    server_args = prepare_server_args(flags)
    one_batch._set_envs_and_config(server_args)
    one_batch.get_tokenizer = lambda *_, **__: None
    capture = ModelRunner.init_cuda_graphs
    ModelRunner.init_cuda_graphs = lambda *_, **__: None
    try:
        loaded, _ = one_batch.load_model(server_args, PortArgs.init_new(server_args), 0, 0)
    finally:
        ModelRunner.init_cuda_graphs = capture
    return worker_of(loaded.torch_runner)


def places_of(worker: Any, requests: int, context: int) -> head_check.Places:
    """Random keys and values of all contexts, and the requests' places in them."""
    runner = worker.draft_runner
    used = 1 + torch.arange(requests * (context + ROOM), device=worker.device).view(requests, -1)
    table = runner.req_to_token_pool.req_to_token
    table[:requests, : used.shape[1]] = used.to(table.dtype)
    layer = runner.model.model.layers[0].self_attn.attn.layer_id
    generator = torch.Generator(worker.device).manual_seed(3)
    for part in runner.token_to_kv_pool.get_kv_buffer(layer):
        part.copy_(torch.randn(part.shape, generator=generator, device=worker.device))
    return head_check.Places(used, [context] * requests)


def drafted(worker: Any, head: FastHead, places: head_check.Places) -> list[Any]:
    """What a replay of the draft steps leaves: parents, scores and tokens."""
    from sglang.srt.model_executor.forward_batch_info import (
        CaptureHiddenMode,
        ForwardBatch,
        ForwardMode,
    )
    from sglang.srt.speculative.eagle_info import EagleDraftInput

    device, requests, topk = worker.device, len(places.lengths), worker.topk
    generator = torch.Generator(device).manual_seed(5)
    lengths = torch.tensor(places.lengths, device=device)
    own = [
        row[n : n + topk * worker.speculative_num_steps]
        for row, n in zip(places.used, places.lengths, strict=True)
    ]
    batch = ForwardBatch(
        forward_mode=ForwardMode.DECODE, batch_size=requests, input_ids=None,
        req_pool_indices=torch.arange(requests, device=device), seq_lens=lengths,
        seq_lens_cpu=lengths.cpu(), orig_seq_lens=lengths, out_cache_loc=torch.cat(own).long(),
        seq_lens_sum=sum(places.lengths), positions=lengths.repeat_interleave(topk),
        return_logprob=False, spec_algorithm=worker.draft_runner.spec_algorithm,
        capture_hidden_mode=CaptureHiddenMode.LAST,
    )  # fmt: skip
    chances = torch.rand(requests, topk, generator=generator, device=device)
    width = head.embedding.shape[1]
    batch.spec_info = EagleDraftInput(
        topk_p=chances.sort(-1, descending=True).values,
        topk_index=torch.randint(
            0, head.vocabulary, (requests, topk), generator=generator, device=device
        ),
        hidden_states=torch.randn(requests, width, generator=generator, device=device).bfloat16(),
        capture_hidden_mode=CaptureHiddenMode.LAST,
    )
    left = worker.cuda_graph_runner.execute(batch)
    return [part.tolist() for part in left if part is not None]


def extended(worker: Any, head: FastHead, places: head_check.Places) -> list[torch.Tensor]:
    """Logits and states of the rows of a draft extend that are read."""
    nodes = worker.speculative_num_draft_tokens
    batch, _ = head_check.extend_batch(head, worker, places, nodes)
    rows = torch.arange(len(places.lengths), device=worker.device) * nodes
    rows += batch.spec_info.num_accept_tokens - 1
    left = worker.cuda_graph_runner_for_draft_extend.execute(batch)
    return [left.next_token_logits[rows].float(), left.hidden_states[rows].float()]


def measured(
    worker: Any, head: FastHead, arguments: argparse.Namespace, who: str
) -> tuple[list[dict[str, Any]], dict[int, tuple[list[Any], list[torch.Tensor]]]]:
    worker._capture_cuda_graphs()
    say(f"{who}: captured")
    rows: list[dict[str, Any]] = []
    left = {}
    graphs = {"draft": worker.cuda_graph_runner}
    graphs["extend"] = worker.cuda_graph_runner_for_draft_extend
    for requests in arguments.requests:
        places = places_of(worker, requests, arguments.context)
        left[requests] = drafted(worker, head, places), extended(worker, head, places)
        for name, runner in graphs.items():
            kept = runner.backend._graphs
            graph = next(graph for key, graph in kept.items() if key.size == requests)
            times = sorted(replays(graph))
            kernels = launches(graph)
            row = {
                "who": who, "graph": name, "requests": requests, "us": round(times[0] * 1000, 1),
                "median_us": round(times[len(times) // 2] * 1000, 1),
                "kernels": sum(kernel["count"] for kernel in kernels), "launches": kernels,
            }  # fmt: skip
            rows.append(row)
            say(" ".join(f"{key} {value}" for key, value in row.items() if key != "launches"))
    return rows, left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tree", default="3,1,4")
    parser.add_argument("--requests", default="1,8")
    parser.add_argument("--context", type=int, default=512)
    arguments = parser.parse_args()
    arguments.tree = tuple(map(int, arguments.tree.split(",")))
    arguments.requests = sorted(map(int, arguments.requests.split(",")))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        worker = load(arguments, Path(folder))
    say(f"loaded on {torch.cuda.get_device_name()}")
    head = preparation.build_head(worker)
    stock, wanted = measured(worker, head, arguments, "stock")
    apply(hooks.hooks(Wanted(frozenset({"head"}))))
    ours, got = measured(worker, head, arguments, "ours")
    if HEAD not in worker.draft_runner.model.__dict__:
        say("FAILED: the head stayed with stock, and `ours` is stock")
    checks = {}
    for requests, (drafts, states) in got.items():
        stock_drafts, stock_states = wanted[requests]
        rows = zip(drafts[2], stock_drafts[2], strict=True)
        same = [a == b for pair in rows for a, b in zip(*pair, strict=True)]
        off = [
            float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())
            for a, b in zip(states, stock_states, strict=True)
        ]
        checks[requests] = {
            "drafts": f"{sum(same)} of {len(same)} the same",
            "logits": round(off[0], 5),
            "states": round(off[1], 5),
        }
    result = {
        "device": torch.cuda.get_device_name(), "tree": arguments.tree,
        "context": arguments.context, "checks": checks, "graphs": stock + ours,
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for before, after in zip(stock, ours, strict=True):
        say(
            f"{before['graph']:7} {before['requests']:3} requests: stock {before['us']} us of "
            f"{before['kernels']} kernels, ours {after['us']} us of {after['kernels']}"
        )
    say(f"{checks}; {arguments.out.name} is whole")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    assert began
    main()
