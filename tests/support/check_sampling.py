"""SGLang's own sampling of a verify, recorded: the same tokens where the same numbers are drawn.

On a CPU, chains only; what are CUDA's kernels in it is torch's here. For the process of
tests/support/check_cycles.py, which has put a device's ways in place of a CPU's.
"""

from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from sglang.srt.speculative import eagle_utils

from sglang_qwen3next_eagle3.overlay.requests import min_p
from sglang_qwen3next_eagle3.overlay.seams.recording import GraphRecording
from tests.support import meta_cycle
from tests.support.op_graph import OpGraph

REQUESTS, NODES, VOCABULARY = 3, 4, 60
KINDS = ((False, False, False), (True, False, False), (False, True, False), (True, True, True))
"""Whether top_k, top_p and min_p are asked for."""
BATCHES = 8


def top_k(probs: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    places = probs.argsort(-1, descending=True).argsort(-1)
    kept = probs.masked_fill(places >= limits[:, None], 0.0)
    return kept / kept.sum(-1, keepdim=True)


def top_p(probs: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    ordered, order = probs.sort(-1, descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered > limits[:, None], 0.0)
    kept = torch.zeros_like(probs).scatter(-1, order, ordered)
    return kept / kept.sum(-1, keepdim=True)


def chain(
    *,
    predicts: torch.Tensor,
    accept_index: torch.Tensor,
    accept_token_num: torch.Tensor,
    candidates: torch.Tensor,
    uniform_samples: torch.Tensor,
    uniform_samples_for_final_sampling: torch.Tensor,
    target_probs: torch.Tensor,
    **_: Any,
) -> None:
    """Drafts are taken as long as the target's probability is above the coin."""
    drafts = candidates[:, 1:]
    likely = target_probs[:, :-1].gather(2, drafts[:, :, None]).squeeze(2)
    taken = (likely > uniform_samples[:, :-1]).int().cumprod(1).sum(1)
    rows, nodes = torch.arange(len(candidates)), torch.arange(NODES)[None]
    last = target_probs[rows, taken]
    coin = uniform_samples_for_final_sampling[:, None] * last.sum(-1, keepdim=True)
    drawn = (last.cumsum(-1) > coin).int().argmax(-1)
    tokens = torch.cat([drafts, drawn[:, None]], dim=1)
    tokens = torch.where(nodes == taken[:, None], drawn[:, None], tokens)
    within = nodes <= taken[:, None]
    predicts.copy_(torch.where(within, tokens, 0).flatten())
    accept_index.copy_(torch.where(within, nodes + NODES * rows[:, None], -1))
    accept_token_num.copy_(taken)


def sampled(logits: torch.Tensor, tokens: torch.Tensor, info: Any) -> tuple[torch.Tensor, ...]:
    """What `eagle_sample` gives, with min_p."""
    verify = SimpleNamespace(
        draft_token=tokens, draft_token_num=NODES, max_tree_depth=NODES, retrieve_index=None,
        retrieve_next_token=None, retrieve_next_sibling=None, draft_probs=None, tree_topk=1,
    )  # fmt: skip
    batch = SimpleNamespace(
        device="cpu", forward_mode=ForwardMode.TARGET_VERIFY, sampling_info=info,
        seq_lens=torch.zeros(REQUESTS),
    )  # fmt: skip
    outputs = SimpleNamespace(next_token_logits=logits)
    found: tuple[torch.Tensor, ...] = min_p.verify(eagle_utils.eagle_sample, verify, batch, outputs)
    return found


def made_up(seed: int, kind: tuple[bool, bool, bool]) -> tuple[list[torch.Tensor], Any]:
    """What is verified and how it is sampled: logits, tokens, the rest; and its info."""
    torch.manual_seed(seed)
    given = [
        torch.randn(REQUESTS * NODES, VOCABULARY) * 4,
        torch.randint(VOCABULARY, (REQUESTS * NODES,)),
        torch.rand(REQUESTS, 1) + 0.3,
        torch.rand(REQUESTS),
        torch.randint(1, 30, (REQUESTS,), dtype=torch.int32),
        torch.rand(REQUESTS) * 0.2,
    ]
    # The likeliest are drafted often, so that some are taken.
    given[1][1:] = torch.where(torch.rand(REQUESTS * NODES - 1) < 0.6, given[0][:-1].argmax(-1),
                               given[1][1:])  # fmt: skip
    return given, info_of(given, kind)


def info_of(given: list[torch.Tensor], kind: tuple[bool, bool, bool]) -> Any:
    temperatures, top_ps, top_ks, min_ps = given[2:]
    needs = dict(zip(("need_top_k_sampling", "need_top_p_sampling", "need_min_p_sampling"), kind,
                     strict=True))  # fmt: skip
    return SamplingBatchInfo(
        temperatures=temperatures, top_ps=top_ps, top_ks=top_ks, min_ps=min_ps,
        is_all_greedy=False, is_any_greedy=True, vocab_size=VOCABULARY, device="cpu", **needs,
    )  # fmt: skip


def compare() -> tuple[int, int]:
    """Batches whose recorded sampling gave what SGLang's gave, and the drafts that were taken."""
    kernels: Any = ModuleType("sgl_kernel")
    kernels.top_k_renorm_prob, kernels.top_p_renorm_prob = top_k, top_p
    kernels.tree_speculative_sampling_target_only = partial(min_p.tree_sampling, chain)
    meta_cycle.put_kernels(kernels)
    equal = taken = 0
    for kind in KINDS:
        places, _ = made_up(0, kind)
        recording = GraphRecording(OpGraph, None, "cpu")
        recording.begin()
        recorded = sampled(places[0], places[1], info_of(places, kind))
        recording.end()
        for seed in range(1, 1 + BATCHES):
            given, info = made_up(seed, kind)
            for place, value in zip(places, given, strict=True):
                place.copy_(value)
            torch.manual_seed(100 + seed)
            expected = sampled(given[0], given[1], info)
            left = torch.rand(1)
            torch.manual_seed(100 + seed)
            recording.run()
            equal += all(torch.equal(*pair) for pair in zip(recorded, expected, strict=True))
            assert torch.equal(torch.rand(1), left), "another count of numbers was drawn"
            taken += int(expected[1].sum()) - REQUESTS
    return equal, taken
