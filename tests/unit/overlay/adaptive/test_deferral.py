"""Draft extends that are put off, against a head whose cache is filled in every cycle: whatever
comes after one another, what a draft begins with is the same, and so is the cache."""

import contextlib
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.adaptive import deferral
from sglang_qwen3next_eagle3.overlay.adaptive.deferral import Deferral
from sglang_qwen3next_eagle3.overlay.adaptive.states import cycles_at_once

POOL, WIDTH, MOST = 6, 4, 4


class Mode(SimpleNamespace):
    def is_extend(self) -> bool:
        return bool(self.prefill)

    def is_idle(self) -> bool:
        return False


class Served:
    """A worker, its draft worker and the relay, as far as they are asked. cache: what the head has
    of each place: the token, where it stands, whose it is and the target's state."""

    def __init__(self, kept: Deferral, relay: str) -> None:
        """relay: none, where a cycle's drafts go straight to the next one; read before a cycle; or
        recorded, where a cycle that drafts reads it by itself and steps change before that."""
        self.kept, self.relay = kept, relay
        self.speculative_num_steps = self.wanted = 0
        self.draft_worker = self
        self.draft_runner = SimpleNamespace(tp_group=None)
        self.war_fastpath_runner = SimpleNamespace(war_fastpath_read_done_event=None)
        self.draft_tp_context = lambda group: contextlib.nullcontext()
        self.cache: dict[int, tuple[int, int, int, float]] = {}
        self.extends: list[int] = []
        self.filled: list[int] = []
        kept._cache = SimpleNamespace(fill=self._fill)
        self.topk_p_buf = torch.zeros(POOL, 1)
        self.topk_index_buf = torch.zeros(POOL, 1, dtype=torch.int64)
        self.hidden_states_buf = torch.zeros(POOL, WIDTH)

    def activate_step_by_batch(self, size: int) -> None:
        if self.wanted != self.speculative_num_steps:
            state = SimpleNamespace(speculative_num_steps=self.wanted)
            self.kept.apply(self._apply, self, state)

    def _apply(self, worker: Any, state: Any) -> None:
        self.speculative_num_steps = state.speculative_num_steps

    def _draft_extend_for_decode(self, batch: Any, result: Any) -> None:
        self.kept.extend(self._extend, self, batch, result)

    def _extend(self, worker: Any, batch: Any, result: Any) -> None:
        given = [result.next_token_ids, batch.seq_lens, batch.req_pool_indices]
        rows = [tensor.tolist() for tensor in (*given, result.logits_output.hidden_states[:, 0])]
        # SGLang's kernels count from the first one's place.
        assert all(tensor.is_contiguous() for tensor in (*given, batch.out_cache_loc))
        self.extends.append(len(rows[0]))
        for place, *row in zip(batch.out_cache_loc.tolist(), *rows, strict=True):
            self.cache[place] = tuple(row)
        if batch.seq_lens_cpu is not None:
            assert batch.seq_lens_cpu.tolist() == rows[1]
            assert batch.seq_lens_sum == sum(rows[1])
        left = result.next_draft_input
        left.topk_index = result.next_token_ids[:, None] + 1000
        left.topk_p = torch.ones(len(rows[0]), 1)
        left.hidden_states = result.logits_output.hidden_states * 2

    def _fill(self, tokens: Any, positions: Any, places: Any, hidden: Any) -> None:
        self.filled.append(len(tokens))
        given = [tensor.tolist() for tensor in (places, tokens, positions, hidden[:, 0])]
        assert all(tensor.is_contiguous() for tensor in (tokens, positions, places, hidden))
        for place, token, position, state in zip(*given, strict=True):
            # The only one without attention: what it is of does not tell whose it is.
            self.cache[place] = token, position, place // 1000, state

    def _stub_skipped_draft_extend(self, batch: Any, result: Any) -> None:
        left, requests = result.next_draft_input, len(batch.reqs)
        left.topk_index = torch.zeros(requests, 1, dtype=torch.int64)
        left.topk_p = torch.zeros(requests, 1)
        left.hidden_states = torch.zeros(requests, WIDTH)


class Request:
    def __init__(self, rid: int, slot: int, length: int) -> None:
        self.rid, self.slot, self.length = str(rid), slot, length
        self.token, self.state = rid * 100, 0.0
        self.drafts: tuple[Any, Any, Any] = (None, None, None)
        self.filled: dict[int, tuple[int, int, int, float]] = {}


NAMES = "topk_p", "topk_index", "hidden_states"


class Scheduler:
    """Requests come and go, and steps change, as it is drawn."""

    def __init__(self, served: Served, seed: int) -> None:
        self.served, self.drawn = served, random.Random(seed)
        self.on_host = self.drawn.random() < 0.5
        self.running: list[Request] = []
        self.count = self.drafted = 0

    def batch(self, requests: list[Request], prefill: bool) -> Any:
        return SimpleNamespace(
            forward_mode=Mode(prefill=prefill), is_extend_in_batch=False, reqs=requests,
            seq_lens=torch.tensor([one.length for one in requests]),
            seq_lens_cpu=torch.tensor([one.length for one in requests]) if self.on_host else None,
            seq_lens_sum=sum(one.length for one in requests),
            req_pool_indices=torch.tensor([one.slot for one in requests]),
            req_to_token_pool=SimpleNamespace(req_to_token=torch.zeros(POOL, 1)),
            out_cache_loc=torch.tensor([one.slot * 1000 + one.length for one in requests]),
            spec_info=SimpleNamespace(topk_p=None, topk_index=None, hidden_states=None),
        )  # fmt: skip

    def prefill(self, request: Request) -> None:
        def original(worker: Any, batch: Any) -> None:
            self.check_cache(self.running)
            # It may be where another one's was.
            for place in range(request.length):
                self.served.cache.pop(request.slot * 1000 + place, None)

        self.served.kept.cycle(original, self.served, self.batch([request], True))
        self.keep([request], torch.tensor([[1.0]]), torch.tensor([[request.token + 1000]]))
        self.running.append(request)

    def decode(self) -> None:
        served, requests = self.served, self.running
        batch = self.batch(requests, False)

        def gather(relay: Any, batch: Any) -> None:
            if served.relay == "recorded":
                served.activate_step_by_batch(len(batch.reqs))
            for name in NAMES:
                rows = getattr(relay, f"{name}_buf")[batch.req_pool_indices]
                setattr(batch.spec_info, name, rows)

        if served.relay != "none":
            served.kept.resolve(gather, served, batch)
        else:
            for column, name in enumerate(NAMES):
                rows = torch.cat([one.drafts[column] for one in requests])
                setattr(batch.spec_info, name, rows)
        result = served.kept.cycle(self.cycle, served, batch)
        left = result.next_draft_input
        self.keep(requests, left.topk_p, left.topk_index, left.hidden_states)

    def keep(self, requests: list[Request], p: Any, index: Any, hidden: Any = None) -> None:
        hidden = torch.zeros(len(requests), WIDTH) if hidden is None else hidden
        slots = [one.slot for one in requests]
        for name, values in zip(NAMES, (p, index, hidden), strict=True):
            getattr(self.served, f"{name}_buf")[slots] = values
        for row, one in enumerate(requests):
            one.drafts = p[row : row + 1], index[row : row + 1], hidden[row : row + 1]

    def cycle(self, worker: Any, batch: Any) -> Any:
        served = self.served
        served.activate_step_by_batch(len(batch.reqs))
        if served.speculative_num_steps:
            self.check_cache(batch.reqs)
            self.drafted += 1
            spec, slots = batch.spec_info, batch.req_pool_indices
            index, hidden = spec.topk_index, spec.hidden_states
            if served.relay == "recorded":
                index, hidden = served.topk_index_buf[slots], served.hidden_states_buf[slots]
            assert index[:, 0].tolist() == [one.token + 1000 for one in batch.reqs]
            assert hidden[:, 0].tolist() == [2 * one.state for one in batch.reqs]
        states = torch.rand(len(batch.reqs), WIDTH)
        for row, one in enumerate(batch.reqs):
            one.token += 1
            place = one.slot * 1000 + one.length
            one.state = states[row, 0].item()
            one.filled[place] = one.token, one.length, one.slot, one.state
            one.length += 1
        result = SimpleNamespace(
            logits_output=SimpleNamespace(hidden_states=states),
            next_token_ids=torch.tensor([one.token for one in batch.reqs]),
            accept_lens=torch.ones(len(batch.reqs), dtype=torch.int32),
            next_draft_input=SimpleNamespace(),
        )
        served._draft_extend_for_decode(batch, result)
        return result

    def check_cache(self, requests: list[Request]) -> None:
        for one in requests:
            for place, row in one.filled.items():
                assert self.served.cache[place] == row, (place, one.rid)

    def run(self, turns: int) -> None:
        for _ in range(turns):
            choice = self.drawn.random()
            free = set(range(1, POOL)) - {one.slot for one in self.running}
            if not self.running or (choice < 0.1 and free):
                self.count += 1
                slot = self.drawn.choice(sorted(free))
                self.prefill(Request(self.count, slot, self.drawn.randint(1, 5)))
                continue
            if choice < 0.16:
                # Its slot may be the next one's. What it has is whole before another computes.
                self.running = [one for one in self.running if one is not self.running[0]]
                continue
            if choice < 0.25:
                self.served.wanted = 1 - self.served.wanted
            self.decode()


@pytest.mark.parametrize("relay", ["none", "read", "recorded"])
@pytest.mark.parametrize("seed", range(6))
def test_drafts_begin_with_what_they_would_have(relay: str, seed: int) -> None:
    kept = Deferral(MOST)
    kept._tokens = 8
    served = Served(kept, relay)
    scheduler = Scheduler(served, seed)
    scheduler.run(400)
    assert scheduler.drafted > 20
    # Some were for several cycles of several requests; SGLang's own are for one of each.
    assert max(served.filled) == 8
    assert max(served.extends) < POOL


def test_as_many_cycles_are_filled_at_once_as_there_is_room_for() -> None:
    kept = Deferral(MOST)
    kept._tokens = 8
    served = Served(kept, "none")
    scheduler = Scheduler(served, 0)
    for slot in (1, 2, 3):
        scheduler.prefill(Request(slot, slot, 1))
        for _ in range(9):
            scheduler.decode()
    # 1 request: 4 cycles; 2 requests: 4 cycles of 2; 3 requests: 2 cycles of 3. What was kept of
    # the last ones before a prefill leaves first drafts: those are SGLang's extends.
    assert served.filled == [4, 4, 8, 8, 6, 6, 6, 6]
    assert served.extends == [1, 2]
    served.filled.clear()
    scheduler.running = scheduler.running[:1]
    # Of the others a cycle was left.
    scheduler.decode()
    scheduler.decode()
    assert (served.filled, served.extends) == ([3], [1, 2])
    # A switch leaves first drafts, too.
    served.wanted = 1
    scheduler.decode()
    assert (served.filled, served.extends) == ([3, 1], [1, 2, 1, 1])


def test_where_there_is_room_for_one_cycle_none_is_kept() -> None:
    kept = Deferral(MOST)
    kept._tokens = 3
    served = Served(kept, "read")
    scheduler = Scheduler(served, 0)
    for slot in (1, 2):
        scheduler.prefill(Request(slot, slot, 1))
        scheduler.decode()
    scheduler.decode()
    assert (served.filled, served.extends) == ([], [1, 2, 2])


@pytest.mark.parametrize(("slots", "cycles"), [(49, 445), (257, 85), (4097, 5), (90000, 0)])
def test_what_is_kept_has_room_in_memory(slots: int, cycles: int) -> None:
    config = SimpleNamespace(hidden_size=2048, dtype=torch.bfloat16)
    pool = SimpleNamespace(req_to_token=torch.zeros(1, 1).expand(slots, 1))
    worker = SimpleNamespace(
        draft_worker=SimpleNamespace(draft_runner=SimpleNamespace(model_config=config)),
        target_worker=SimpleNamespace(model_runner=SimpleNamespace(req_to_token_pool=pool)),
    )
    assert deferral.cycles_in_memory(worker) == cycles


@pytest.mark.parametrize("text", ["-1", "x", "65", "1.5", "\u00b2", "9" * 5000])
def test_a_number_of_cycles_that_is_none_is_refused(text: str) -> None:
    assert (cycles_at_once(None), cycles_at_once(" "), cycles_at_once(" 8 ")) == (0, 0, 8)
    with pytest.raises(UserError, match="say a number of cycles from 0 to 64"):
        cycles_at_once(text)
