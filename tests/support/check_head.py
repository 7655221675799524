"""check_head.py OUT TARGET RANK -- SGLANG FLAGS

Load a target and its head with stock SGLang on the CPU and compare the head's fast path with it,
with references in place of the kernels: step by step, over whole chains of drafts, then with each
kernel spoilt in turn. OUT: JSON. RANK: of tensor parallelism; every rank is a process of its own.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import conditions, head_check, hooks, preparation
from sglang_qwen3next_eagle3.overlay.fast.conditions import Unsupported
from sglang_qwen3next_eagle3.overlay.fast.head import FastHead, HeadKernels, HeadPass, check
from sglang_qwen3next_eagle3.overlay.fast.kernels import attention, head_linear, head_steps
from sglang_qwen3next_eagle3.overlay.fast.stages import HEAD, Stage, Wanted
from sglang_qwen3next_eagle3.overlay.hooks import apply
from tests.support.check_fast import without_nccl
from tests.support.streams import StreamRunner

SPOILABLE = ("enter", "norm", "linear", "gated", "logits", "attention")
REQUESTS, LENGTH = 2, 90


def worker_of(runner: Any) -> Any:
    """SGLang's `EagleDraftWorker` beside a loaded target, without graphs."""
    target = SimpleNamespace(
        model_runner=runner, device=runner.device, model_config=runner.model_config, random_seed=1
    )
    worker = (_worker if variants.has_layer_boundaries() else _worker_of_a_copy)(runner, target)
    worker.alloc_memory_pool(
        memory_pool_config=runner.memory_pool_config,
        req_to_token_pool=runner.req_to_token_pool,
        token_to_kv_pool_allocator=runner.token_to_kv_pool_allocator,
    )
    worker.init_attention_backends()
    worker.draft_worker.init_cuda_graphs(capture_decode_cuda_graph=False)
    return worker


def _worker(runner: Any, target: Any) -> Any:
    from sglang.srt.speculative.eagle_worker_v2 import EagleDraftWorker

    return EagleDraftWorker(runner.server_args, runner.gpu_id, 0, target)


def _worker_of_a_copy(runner: Any, target: Any) -> Any:
    """0.5.17: its drafts have arguments of their own, and so has the process while they load."""
    from sglang.srt.runtime_context import get_context
    from sglang.srt.speculative.draft_worker_common import draft_server_args_copy
    from sglang.srt.speculative.eagle_worker_v2 import EagleDraftWorker

    arguments = draft_server_args_copy(
        server_args=runner.server_args, target_model_config=runner.model_config
    )
    get_context().set_server_args(arguments)
    return EagleDraftWorker(arguments, runner.gpu_id, runner.ps, 0, target)


@torch.no_grad()
def spread(model: Any) -> None:
    """Dummy weights of a size at which every layer changes what comes out."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.copy_(1 + torch.randn_like(parameter) * 0.1)
        elif "embed" not in name:
            parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)


class ReferenceHeadKernels(HeadKernels):
    """References in plain torch, and the metadata of SGLang's CPU backend."""

    enter = staticmethod(head_steps.reference_head_enter)
    norm = staticmethod(head_steps.reference_head_norm)
    linear = staticmethod(head_linear.reference_head_linear)
    gated = staticmethod(head_linear.reference_head_gated)
    logits = staticmethod(head_linear.reference_head_logits)
    argmax = staticmethod(lambda logits: logits.float().argmax(-1))

    @staticmethod
    def largest(x: torch.Tensor, weight: torch.Tensor) -> Any:
        logits = head_linear.reference_head_linear(x, weight).float()
        values, places = logits.max(-1, keepdim=True)
        return head_linear.Largest(values, places.int())

    @staticmethod
    def choose(largest: Any, table: Any, out: torch.Tensor, positions: torch.Tensor) -> None:
        places = largest.places[:, 0].long()
        out.copy_(places if table is None else table[places])
        positions.add_(1)

    def attention(self, at: HeadPass, attn: Any, qkv: torch.Tensor) -> torch.Tensor:
        batch, backend = at.batch, at.backend
        table, lengths = backend.req_to_token_pool.req_to_token, batch.seq_lens
        rows = batch.req_pool_indices
        if at.accepted is not None:
            lengths = lengths - at.nodes
        elif backend.draft_decode_metadata is not None:
            table, lengths, rows = backend.draft_decode_metadata
        places = [table[row, :n] for row, n in zip(rows.tolist(), lengths.tolist(), strict=True)]
        indptr = torch.tensor([0, *lengths.tolist()]).cumsum(0).int()
        keys, values = backend.token_to_kv_pool.get_kv_buffer(attn.attn.layer_id)
        out = attention.reference_attention(
            qkv, None, None, 0.0, batch.positions, attn.rotary_emb.cos_sin_cache, keys, values,
            batch.out_cache_loc, indptr, torch.cat(places).long(), at.paths,
        )  # fmt: skip
        if at.accepted is None:
            return out
        return out[torch.arange(at.requests) * at.nodes + at.accepted - 1]


@contextmanager
def in_place(model: Any) -> Iterator[None]:
    """Stock's forward as it is on a GPU: it adds to the state that it is given."""

    def forward(input_ids: torch.Tensor, positions: torch.Tensor, batch: Any) -> Any:
        output = type(model).forward(model, input_ids, positions, batch)
        batch.spec_info.hidden_states.add_(3.0)
        return output

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


def spoilt(head: FastHead, worker: Any, name: str) -> list[str]:
    """What the check finds off when a kernel returns its columns in another order."""
    right = getattr(head.kernels, name)

    def wrong(*arguments: Any) -> Any:
        result = right(*arguments)
        if name == "logits":
            arguments[2].copy_(arguments[2].roll(1, -1))
            return None
        if isinstance(result, torch.Tensor):
            return result.roll(1, -1)
        return tuple(part.roll(1, -1) for part in result)

    setattr(head.kernels, name, wrong)
    try:
        found = head_check.compare(head, worker)
    finally:
        delattr(head.kernels, name)
    return [finding.what for finding in found if finding.off]


@torch.no_grad()
def chains(head: FastHead, worker: Any) -> dict[str, Any]:
    """Drafts of stock's `draft_forward` and of ours, through the hooks, from the same caches."""
    from sglang.srt.model_executor import runner as graph_runner
    from sglang.srt.model_executor.forward_batch_info import (
        CaptureHiddenMode,
        ForwardBatch,
        ForwardMode,
    )
    from sglang.srt.speculative.eagle_info import EagleDraftInput

    runner, topk, steps = worker.draft_runner, worker.topk, worker.speculative_num_steps
    generator = torch.Generator().manual_seed(3)
    room = LENGTH + topk * steps
    table = runner.req_to_token_pool.req_to_token
    for request in range(REQUESTS):
        table[request, :room] = 1 + request * room + torch.arange(room)
    cache = runner.token_to_kv_pool.get_kv_buffer(head.attn.attn.layer_id)
    start = [torch.randn(part.shape, generator=generator).bfloat16() for part in cache]
    hidden = torch.randn(REQUESTS, head.embedding.shape[1], generator=generator).bfloat16()
    first = torch.randint(0, head.vocabulary, (REQUESTS, topk), generator=generator)
    chances = torch.rand(REQUESTS, topk, generator=generator).sort(-1, descending=True).values
    found: dict[str, Any] = {}
    for who in ("stock", "ours"):
        for part, drawn in zip(cache, start, strict=True):
            part.copy_(drawn)
        lengths = torch.full((REQUESTS,), LENGTH)
        places = [table[r, LENGTH:room] for r in range(REQUESTS)]
        batch = ForwardBatch(
            forward_mode=ForwardMode.DECODE, batch_size=REQUESTS, input_ids=None,
            req_pool_indices=torch.arange(REQUESTS), seq_lens=lengths, seq_lens_cpu=lengths,
            orig_seq_lens=lengths, out_cache_loc=torch.cat(places).long(),
            seq_lens_sum=REQUESTS * LENGTH, positions=lengths.repeat_interleave(topk),
            return_logprob=False, spec_algorithm=runner.spec_algorithm,
            capture_hidden_mode=CaptureHiddenMode.LAST,
        )  # fmt: skip
        batch.spec_info = EagleDraftInput(
            topk_p=chances.clone(), topk_index=first.clone(), hidden_states=hidden.clone(),
            capture_hidden_mode=CaptureHiddenMode.LAST,
        )  # fmt: skip
        graph_runner.get_is_capture_mode = lambda who=who: who == "ours"
        worker.draft_attn_backend.init_forward_metadata(batch)
        batch.mark_forward_metadata_ready()
        parents, scores, drafts, chosen = worker.draft_forward(batch)
        assert chosen is None
        own = torch.cat(places).long()
        found[who] = {
            "drafts": drafts.tolist(),
            "parents": parents.tolist(),
            "scores": scores.tolist(),
            "positions": batch.positions.tolist(),
            "kept": [part[own].float() for part in cache],
        }
    graph_runner.get_is_capture_mode = lambda: False
    for backend in worker.draft_attn_backend.attn_backends:
        backend.draft_decode_metadata = None
    kept = [found[who].pop("kept") for who in ("stock", "ours")]
    # The last step's place is drafted into by nobody.
    pairs = zip(*kept, strict=True)
    found["off"] = max(float((a - b).norm() / a.norm()) for a, b in pairs)
    return found


@torch.no_grad()
def unread(head: FastHead, worker: Any) -> bool:
    """Whether a draft extend leaves alone the logits of the rows that nobody reads."""
    nodes = worker.speculative_num_draft_tokens
    with head_check.made_up_places(worker, nodes) as places:
        batch, backend = head_check.extend_batch(head, worker, places, nodes)
        batch.next_token_logits_buffer.fill_(-7.0)
        backend.init_forward_metadata(batch)
        at = head.extending(batch, backend, len(places.lengths), nodes)
        logits = head.forward(at).next_token_logits
        if at.alone:
            return len(logits) == at.requests and not (logits == -7).any()
        read = torch.arange(at.requests) * nodes + batch.spec_info.num_accept_tokens - 1
        others = [row for row in range(len(logits)) if row not in read.tolist()]
        return bool((logits[others] == -7).all()) and not (logits[read] == -7).any()


def refused(head: FastHead, worker: Any) -> dict[str, str | None]:
    """Why a head or a worker with something else stays with stock."""
    model, attn = head.model.model, head.attn
    weight = attn.o_proj.weight
    reasons: dict[str, str | None] = {"worker": conditions.of_drafts(worker)}
    changes: list[tuple[str, Any, str, Any]] = [
        ("output", model, "norm_output", True),
        ("window", attn.attn, "sliding_window_size", 64),
        ("cap", attn.attn, "logit_cap", 30.0),
        ("caches", attn.attn, "k_scale", 1.0),
        ("logits", head.model.logits_processor, "logit_scale", 0.5),
        ("heads", attn, "num_heads", 6),
        ("weights", weight, "data", weight.data.float()),
        ("layers", model, "layers", [*model.layers, *model.layers]),
        ("model", head, "model", worker.target_worker.model_runner.model),
    ]
    for name, owner, attribute, value in changes:
        before = getattr(owner, attribute)
        owner.__dict__[attribute] = value
        if attribute == "data":
            owner.data = value
        try:
            check(head.model)
            reasons[name] = None
        except Unsupported as error:
            reasons[name] = str(error)
        finally:
            del owner.__dict__[attribute]
            setattr(owner, attribute, before)
    check(head.model)
    return reasons


def prepared(worker: Any) -> dict[str, list[str]]:
    """What the log says when a worker's head is prepared as in a server on a GPU: where all is
    right, where a kernel errs or raises, and where the check itself does."""
    said: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    class Wrong(ReferenceHeadKernels):
        @staticmethod
        def gated(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return head_linear.reference_head_gated(x, weight).roll(1, -1)

    class Raising(ReferenceHeadKernels):
        @staticmethod
        def gated(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            raise ValueError("of a kernel")

    def broken(*_: Any) -> Any:
        raise ValueError("of the check")

    found: dict[str, list[str]] = {}
    build, compare = preparation.build_head, head_check.compare
    conditions.of_device = conditions.of_drafts = lambda *_: None
    for logger in (preparation.logger, head_check.logger):
        logger.addHandler(Kept())
        logger.setLevel(logging.INFO)
    for name, kernels in {
        "right": ReferenceHeadKernels, "wrong": Wrong, "raising": Raising,
        "broken": ReferenceHeadKernels,
    }.items():  # fmt: skip
        preparation.build_head = partial(build, kernels=kernels)
        head_check.compare = broken if name == "broken" else compare
        asked = frozenset[Stage]({"head"} if name != "right" else {"head", "head_w8"})
        for wanted in (Wanted(asked - {"head_w8"}), Wanted(asked, required=True)):
            said.clear()
            try:
                head = preparation.prepare_head(worker, wanted)
                assert (head is not None) == (name == "right")
                found.setdefault(name, []).append(said[-1])
                found.setdefault("all of it", []).extend(said)
            except SystemExit as error:
                found.setdefault(name, []).append(f"ended: {error}")
    preparation.build_head, head_check.compare = build, compare
    return found


def further(head: FastHead, worker: Any) -> dict[int, list[bool]]:
    """By draft tokens of other states of adaptive drafting: whether the head passes its check for
    them, and whether one with an erring kernel does."""
    before = worker.speculative_num_steps, worker.speculative_num_draft_tokens
    found = {}
    for steps in (0, 1, 2):
        worker.speculative_num_steps, worker.speculative_num_draft_tokens = steps, steps + 1
        wanted, said = Wanted(frozenset({"head"})), []
        said.append(preparation.serves_further(head, worker, wanted))
        # With 0 steps nothing is computed but keys and values.
        head.kernels.__dict__["enter"] = lambda *of: head_steps.reference_head_enter(*of).roll(
            1, -1
        )
        said.append(preparation.serves_further(head, worker, wanted))
        del head.kernels.__dict__["enter"]
        found[steps + 1] = said
    worker.speculative_num_steps, worker.speculative_num_draft_tokens = before
    return found


def rounded(worker: Any) -> dict[str, Any]:
    """A head whose weights are in 8 bits: as it is, with scales of other rows, and with weights
    that 8 bits are not enough for."""
    head = preparation.build_head(worker, ReferenceHeadKernels, rounded=True)
    before = {name: head.weights.bf16(name).clone() for name in head.weights.loaded}
    found = {"right": head_check.compare(head, worker)}
    kept = all(torch.equal(head.weights.bf16(name), weight) for name, weight in before.items())
    for name, codes in head.weights.codes.items():
        head.weights.codes[name] = codes._replace(scales=codes.scales.roll(1))
        found[name] = head_check.compare(head, worker)
        head.weights.codes[name] = codes
    return {
        "findings": {name: [str(one) for one in of if one.off] for name, of in found.items()},
        "worst": max(one.worst for one in found["right"] if one.stage == "head"),
        "weights": {one.what: one.typical for one in found["right"] if one.stage == "head_w8"},
        "kept": kept,
        "bytes": [head.weights.extra_bytes, sum(weight.nbytes for weight in before.values())],
    }


def main() -> None:
    out, target, rank = sys.argv[1:4]
    without_nccl()
    torch.manual_seed(1)
    runner = StreamRunner(Path(target), sys.argv[5:], int(rank))
    worker = worker_of(runner._runner.torch_runner)
    torch.manual_seed(1)
    spread(worker.draft_runner.model)
    with torch.no_grad():
        worker.draft_runner.model.model.embed_tokens.weight.normal_()
    apply(hooks.hooks(Wanted(frozenset({"head"}))))
    head = preparation.build_head(worker, ReferenceHeadKernels)
    cache = worker.draft_runner.token_to_kv_pool.get_kv_buffer(head.attn.attn.layer_id)
    for part in cache:
        part.zero_()
    with in_place(head.model):
        findings = head_check.compare(head, worker)
    context = worker.draft_runner.model_config.context_len
    longest = attention.chunk_count(context + worker.speculative_num_draft_tokens)
    report: dict[str, Any] = {
        "findings": [{**asdict(finding), "off": finding.off} for finding in findings],
        "clean": not any(part.any() for part in cache),
        "unread": unread(head, worker),
        "room": head.kernels.workspace.sums.shape[2] >= longest,
    }
    if head.ranks == 1:
        report["refused"] = refused(head, worker)
        report["prepared"] = prepared(worker)
        report["rounded"] = rounded(worker)
        if worker.topk == 1:
            report["further"] = further(head, worker)
        report["spoilt"] = {name: spoilt(head, worker, name) for name in SPOILABLE}
    head.model.__dict__[HEAD] = head
    report["without_table"] = chains(head, worker)
    generator = torch.Generator().manual_seed(5)
    vocabulary = worker.draft_runner.model_config.vocab_size
    worker.hot_token_id = torch.randperm(vocabulary, generator=generator)[: head.vocabulary]
    report["with_table"] = chains(head, worker)
    Path(out).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
