"""A worker, batches and a relay with the ways of SGLang's, small, whose cycles are recorded."""

from types import SimpleNamespace
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles
from sglang_qwen3next_eagle3.overlay.seams.joining import NotJoinable

N, HIDDEN, MOST, VOCABULARY, POOL = 4, 8, 6, 50, 40


class Backend:
    """Of one of SGLang's graphs: fixed places that it reads and writes."""

    def __init__(self, work: Any) -> None:
        self._graphs = {"all": SimpleNamespace(replay=work)}
        self._outputs: dict[str, Any] = {}

    def replay(self, key: str) -> Any:
        self._graphs[key].replay()
        return self._outputs[key]


def sampled(logits: torch.Tensor, info: Any) -> torch.Tensor:
    """Tokens [rows], as SGLang draws them: cut by what is asked for, coins of torch's generator."""
    if info.is_all_greedy:
        return logits.argmax(-1)
    of: dict[str, torch.Tensor] = {
        name: getattr(info, name).view(-1).repeat_interleave(N)[:, None]
        for name in ("temperatures", "top_ps", "top_ks", "min_ps")
    }
    probs: torch.Tensor = (logits / of["temperatures"]).softmax(-1)
    if info.need_top_k_sampling:
        order = probs.argsort(-1, descending=True).argsort(-1)
        probs = probs.masked_fill(order >= of["top_ks"], 0.0)
    if info.need_top_p_sampling:
        probs = probs.masked_fill(probs < (1 - of["top_ps"]) * 0.1, 0.0)
    if info.need_min_p_sampling:
        probs = probs.masked_fill(probs < probs.amax(-1, keepdim=True) * of["min_ps"], 0.0)
    coins = torch.rand_like(probs[:, 0]) * probs.sum(-1)
    return (probs.cumsum(-1) > coins[:, None]).to(torch.int32).argmax(-1)


class Worker:
    """As SGLang's: fills places, lets a graph run, looks at what it wrote, and so on."""

    def __init__(self, cycles: Cycles, device: str = "cpu") -> None:
        self._cycles, self.said, self.device = cycles, 0, device
        self.speculative_num_draft_tokens = N
        self.server_args = SimpleNamespace(tp_size=1)
        self.speculative_num_steps = 1  # a verify and a draft extend replay a graph, no draft does
        # By the names of the releases.
        self.last_reader = SimpleNamespace(
            war_fastpath_read_done_event=None, shared_read_done_event=None
        )
        self.war_fastpath_runner = self.last_shared_read_runner = self.last_reader
        self.draft_worker = SimpleNamespace(
            cuda_graph_runner=object(), cuda_graph_runner_for_draft_extend=object()
        )
        self.target_worker = SimpleNamespace(
            model_runner=SimpleNamespace(decode_cuda_graph_runner=object())
        )
        chance = torch.Generator().manual_seed(1)
        self.tokens = torch.zeros(MOST * N, dtype=torch.int64, device=device)
        self.rows = torch.zeros(MOST, HIDDEN, device=device)
        self.logits = torch.zeros(MOST * N, VOCABULARY, device=device)
        self.table = torch.rand(VOCABULARY, VOCABULARY, generator=chance).to(device)
        self.backend = Backend(self.verify)
        self.backend._outputs["all"] = self.logits
        self.activated: list[int] = []

    @property
    def read_done(self) -> Any:
        """The event by which the scheduler goes on."""
        return variants.host().read_done(self.last_reader)

    @read_done.setter
    def read_done(self, event: Any) -> None:
        variants.host().say_read_done(self.last_reader, event)

    def verify(self) -> None:
        self.logits.copy_(self.table[self.tokens] + self.rows.sum())

    def activate_step_by_batch(self, batch_size: int) -> None:
        self.activated.append(batch_size)

    def cycle(self, _: Any, batch: Any, on_publish: Any, grammar_barrier: Any = None) -> Any:
        self.said += 1
        spec, size = batch.spec_info, batch.seq_lens.shape[0]
        batch.input_ids = spec.topk_index[:, 0] + torch.arange(size, device=self.device)
        self.tokens[: size * N] = (
            (spec.bonus_tokens + batch.seq_lens)[:, None] * 7
            + torch.arange(N, device=self.device)
            + batch.input_ids[:, None]
        ).reshape(-1) % VOCABULARY
        self.rows[:size].copy_(spec.hidden_states)
        if batch.mamba_track_indices is not None:
            self.rows[:size] += batch.mamba_track_indices[:, None]
        around = self._cycles.replay
        logits = around(lambda backend, key: backend.replay(key), self.backend, "all")
        predict = sampled(logits[: size * N], batch.sampling_info).to(torch.int32)
        lens = (predict.view(size, N).sum(-1) % N + 1).to(torch.int32)
        on_publish(batch.seq_lens + lens)
        self.read_done = "theirs"
        last = torch.arange(0, size * N, N, device=self.device) + lens - 1
        self.rows[:size].mul_(0.5)
        around(lambda backend, key: backend.replay(key), self.backend, "all")
        topk_index = self.logits[last].argmax(-1, keepdim=True)
        batch.spec_info = "another"
        return result_of(predict, lens, predict[last], topk_index, logits[last][:, :HIDDEN])


def result_of(predict: Any, lens: Any, bonus: Any, topk_index: Any, hidden: Any) -> Any:
    left = SimpleNamespace(
        bonus_tokens=bonus, topk_index=topk_index, topk_p=torch.ones_like(topk_index).float(),
        hidden_states=hidden,
    )  # fmt: skip
    return SimpleNamespace(
        next_token_ids=predict, accept_lens=lens, next_draft_input=left, copy_done=None,
        logits_output=SimpleNamespace(hidden_states=hidden), routed_experts_output=None,
        indexer_topk_output=None, extra_keep_alive_refs=[object()],
    )  # fmt: skip


def batch_of(
    size: int,
    seed: int,
    tracks: bool = False,
    device: str = "cpu",
    asked: tuple[bool, bool, bool] | None = None,
) -> Any:
    """asked: sampled, with top_k, top_p, min_p or without."""
    chance = torch.Generator().manual_seed(seed)
    top_k, top_p, min_p = asked or (False, False, False)
    of = torch.Generator().manual_seed(seed + 1000)

    def each(*shape: int) -> torch.Tensor:
        return torch.rand(size, *shape, generator=of).to(device)

    info = SimpleNamespace(
        is_all_greedy=asked is None, acc_additive_penalties=None, acc_scaling_penalties=None,
        logit_bias=None, has_custom_logit_processor=False, sampling_seed=None,
        return_sampling_masks=[False] * size, need_top_k_sampling=top_k, need_top_p_sampling=top_p,
        need_min_p_sampling=min_p, temperatures=0.2 + each(1), top_ps=each(), min_ps=0.3 * each(),
        top_ks=(1 + 9 * each()).to(torch.int32),
    )  # fmt: skip
    tracked = torch.arange(size, device=device) if tracks else None
    spec = SimpleNamespace(
        bonus_tokens=torch.randint(VOCABULARY, (size,), generator=chance).to(device),
        topk_index=torch.randint(VOCABULARY, (size, 1), generator=chance).to(device),
        topk_p=torch.rand(size, 1, generator=chance).to(device),
        hidden_states=torch.rand(size, HIDDEN, generator=chance).bfloat16().to(device),
        draft_probs=None, dsa_topk_indices=None,
    )  # fmt: skip
    sampling = SimpleNamespace(
        presence_penalty=0, frequency_penalty=0, repetition_penalty=1, min_new_tokens=0
    )
    return SimpleNamespace(
        seq_lens=torch.randint(1, 900, (size,), generator=chance).to(device),
        req_pool_indices=torch.randperm(99, generator=chance)[:size].to(device),
        forward_mode=SimpleNamespace(is_decode=lambda: True),
        is_extend_in_batch=False, has_grammar=False, return_logprob=False,
        return_hidden_states=False, sampling_info=info, spec_info=spec,
        mamba_track_indices=tracked, mamba_track_mask=None,
        mamba_track_seqlens=None, mamba_prefill_track_mask_cpu=None, mamba_track_seqlens_cpu=None,
        reqs=[SimpleNamespace(sampling_params=sampling)] * size,
        seq_lens_cpu=None, global_num_tokens=None, input_ids=None,
    )  # fmt: skip


class Relay:
    """As SGLang's `FutureMap`: what each request's last cycle left, by its place."""

    def __init__(self, cycles: Cycles, device: str = "cpu") -> None:
        chance = torch.Generator().manual_seed(7)
        self._cycles = cycles
        self.new_seq_lens_buf = torch.randint(1, 900, (POOL,), generator=chance).to(device)
        made = {
            "bonus_tokens": torch.randint(VOCABULARY, (POOL,), generator=chance),
            "topk_index": torch.randint(VOCABULARY, (POOL, 1), generator=chance),
            "topk_p": torch.rand(POOL, 1, generator=chance),
            "hidden_states": torch.rand(POOL, HIDDEN, generator=chance).bfloat16(),
        }
        self.rows = {name: rows.to(device) for name, rows in made.items()}
        self.gathered = self.stashed = 0

    def resolve(self, _: Any, batch: Any) -> None:
        self.gathered += 1
        for name, rows in self.rows.items():
            setattr(batch.spec_info, name, rows[batch.spec_info.future_indices])

    def put(self, _: Any, indices: Any, payload: Any) -> None:
        self.stashed += 1
        for name, rows in self.rows.items():
            rows[indices] = getattr(payload, name).to(rows.dtype)

    def stash(self, indices: Any, payload: Any) -> None:
        self._cycles.stash(self.put, self, indices, payload)

    def publish(self, lens: Any, indices: Any) -> None:
        self.new_seq_lens_buf[indices] = lens


def turn_of(
    worker: Worker,
    relay: Relay,
    cycles: Cycles | None,
    places: Any,
    seed: int,
    asked: tuple[bool, bool, bool] | None = None,
) -> Any:
    """A turn of the scheduler, with or without recordings."""
    batch = batch_of(len(places), seed, device=worker.device, asked=asked)
    batch.req_pool_indices = batch.spec_info.future_indices = places
    batch.seq_lens = relay.new_seq_lens_buf[places]

    def publish(lens: Any) -> None:
        relay.publish(lens, places)

    if cycles is None:
        relay.resolve(relay, batch)
        result = worker.cycle(worker, batch, publish)
        relay.put(relay, places, result.next_draft_input)
        return result
    batch.has_grammar = seed % 7 == 6
    cycles.resolve(relay.resolve, relay, batch)
    if seed % 11 == 10:
        # It turns out later that the batch is not plain.
        batch.has_grammar = True
    result = cycles.around(worker.cycle, worker, batch, on_publish=publish)
    relay.stash(places, result.next_draft_input)
    return result


class Published:
    """The lengths as they were when they were published."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, lens: Any) -> None:
        self.seen.append(lens.clone())


def values(result: Any, published: Published) -> list[Any]:
    left = result.next_draft_input
    return [
        tensor.clone()
        for tensor in (
            result.next_token_ids, result.accept_lens, left.bonus_tokens, left.topk_index,
            left.topk_p, left.hidden_states, *published.seen,
        )
    ]  # fmt: skip


class FakeJoins:
    """What is captured on a CPU takes operations in by doing them."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.parts, self.marks = refuses, 0, 0

    def child(self, graph: Any) -> None:
        if self.refuses:
            raise NotJoinable("CUDA refuses: no")
        self.parts += 1
        graph.replay()

    def mark(self) -> Any:
        self.marks += 1
        return f"mark {self.marks}"
