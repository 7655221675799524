"""What is around a verify and a draft extend of chains beside the installed SGLang's own functions.

    TRITON_INTERPRET=1 python -m tests.support.check_chains

Everything is SGLang's but the graphs, on a CPU; its kernels and ours run in Triton's interpreter.
Changes what is global, so it is for a process of its own. Prints how many were equal.
"""

import copy
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.speculative import eagle_utils, eagle_worker_v2
from sglang.srt.speculative.eagle_info import EagleDraftInput, EagleVerifyInput

from sglang_qwen3next_eagle3.overlay.seams import chains
from sglang_qwen3next_eagle3.overlay.seams.kernels import chain_links
from sglang_qwen3next_eagle3.overlay.seams.recording import GraphRecording
from tests.support import meta_cycle
from tests.support.meta_cycle import HIDDEN, MOST, POOL, VOCABULARY, Graph

NODES, CONTEXT = 4, meta_cycle.CONTEXT


def chance_for(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Replays:
    """What SGLang's graph would read, when it would."""

    def __init__(self, runner: Any, seed: int) -> None:
        self.seen: dict[str, torch.Tensor] = {}
        runner.backend.replay = self.replay
        self._runner, self._seed = runner, seed

    def replay(self, shape_key: Any, forward_batch: Any) -> Any:
        runner = self._runner
        attention, rows = runner.draft_extend_attn_backend, shape_key.size * NODES
        assert runner.model_runner.war_fastpath_read_done_event is not None
        given = vars(runner.buffers)
        of_requests = "req_pool_indices", "seq_lens", "extend_seq_lens"
        of_requests = *of_requests, "num_correct_drafts", "num_accept_tokens"
        self.seen = {name: given[name][: shape_key.size].clone() for name in of_requests}
        # Padded tokens keep what was there.
        real = self.seen["num_accept_tokens"].shape[0]
        for name in ("input_ids", "positions", "out_cache_loc", "hidden_states"):
            self.seen[name] = given[name][: real * NODES].clone()
        ends = attention.kv_indptr[: shape_key.size + 1].clone()
        self.seen["qo_indptr"] = attention.qo_indptr[: shape_key.size + 1].clone()
        self.seen["kv_indptr"] = ends
        self.seen["kv_indices"] = attention.cuda_graph_kv_indices[: int(ends[-1])].clone()
        chance = chance_for(self._seed)
        return LogitsProcessorOutput(
            next_token_logits=torch.randint(-9, 5, (rows, VOCABULARY), generator=chance).float(),
            hidden_states=torch.randn(rows, HIDDEN, generator=chance).bfloat16(),
        )


def extend(requests: int, seed: int, ours: bool) -> tuple[dict[str, torch.Tensor], Any]:
    """A draft extend of this many requests: what its graph reads, and what is left."""
    worker = meta_cycle.worker_of(1, NODES)
    chance = chance_for(seed)
    drafts = worker.draft_worker
    runner = drafts.cuda_graph_runner_for_draft_extend
    table = drafts.req_to_token_pool.req_to_token
    table.copy_(torch.randint(1, 900, table.shape, generator=chance))
    runner.disable_padding = False
    replays = Replays(runner, seed)
    batch = meta_cycle.batch_of(requests, 1, worker)
    batch.seq_lens = torch.randint(1, CONTEXT - NODES, (requests,), generator=chance)
    batch.req_pool_indices = torch.randperm(POOL, generator=chance)[:requests]
    rows = requests * NODES
    batch.out_cache_loc = torch.randint(900, (rows,), generator=chance)
    lens = torch.randint(1, NODES + 1, (requests,), generator=chance).int()
    verified = torch.randn(rows, 3 * HIDDEN, generator=chance).bfloat16()
    result = SimpleNamespace(
        accept_lens=lens, logits_output=SimpleNamespace(hidden_states=verified),
        next_token_ids=torch.randint(VOCABULARY, (rows,), generator=chance).int(),
        next_draft_input=EagleDraftInput(bonus_tokens=lens),
    )  # fmt: skip
    original = eagle_worker_v2.EagleDraftWorker._draft_extend_for_decode
    recording = GraphRecording(Graph, None, "meta")
    recording.begin()
    try:
        if ours:
            chains.draft_extend(never, drafts, batch, result)
        else:
            original(drafts, batch, result)
    finally:
        recording.abandon()
    return replays.seen, result.next_draft_input


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("it is SGLang's")


def sampled(requests: int, seed: int) -> bool:
    """Whether what a verify accepts is what SGLang accepts."""
    chance, worker = chance_for(seed), meta_cycle.worker_of(1, NODES)
    eagle_utils.verify_tree_greedy_func = greedy
    rows = requests * NODES
    logits = torch.randint(-9, 5, (rows, VOCABULARY), generator=chance).float()
    tokens = torch.randint(VOCABULARY, (requests, NODES), generator=chance)
    chosen = logits.argmax(-1).view(requests, NODES)[:, :-1]
    takes = torch.rand(chosen.shape, generator=chance) < 0.7
    tokens[:, 1:] = torch.where(takes, chosen, tokens[:, 1:])
    place, following, sibling = chain_links(requests, NODES, tokens.device)
    given = EagleVerifyInput(
        draft_token=tokens.flatten(), custom_mask=None, positions=None, retrieve_index=place,
        retrieve_next_token=following, retrieve_next_sibling=sibling, retrieve_cum_len=None,
        spec_steps=NODES - 1, topk=1, draft_token_num=NODES, capture_hidden_mode=None,
        seq_lens_sum=None, seq_lens_cpu=None,
    )  # fmt: skip
    batch = meta_cycle.batch_of(requests, 1, worker)
    out = LogitsProcessorOutput(next_token_logits=logits)
    recording = GraphRecording(Graph, None, "meta")
    recording.begin()
    try:
        expected = eagle_utils.eagle_sample(given, batch, copy.copy(out))
        found = chains.sample(never, given, batch, out)
    finally:
        recording.abandon()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other), (one, other)
    return bool((found[1] > 1).any())


def greedy(**given: Any) -> Any:
    eagle_utils.verify_tree_greedy_triton(**{k: v for k, v in given.items() if k != "topk"})
    return given["predicts"], given["accept_index"], given["accept_token_num"]


def main() -> None:
    meta_cycle.DEVICE = "cpu"
    setattr(chains, "are_ours", lambda *of: all(it.is_contiguous() for it in of))  # noqa: B010
    equal = taken = 0
    for requests in range(1, MOST + 1):
        for seed in range(3):
            expected, theirs = extend(requests, seed, ours=False)
            found, left = extend(requests, seed, ours=True)
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                assert found[name].dtype == tensor.dtype
                assert torch.equal(found[name], tensor), (name, found[name], tensor)
            for name in ("topk_p", "topk_index", "hidden_states", "bonus_tokens"):
                one, other = vars(left)[name], vars(theirs)[name]
                assert one.dtype == other.dtype, name
                assert torch.equal(one, other), name
            taken += sampled(requests, seed)
            equal += 1
    print(f"equal: {equal} draft extends and verifies; drafts were taken in {taken}")
    assert taken


if __name__ == "__main__":
    main()
