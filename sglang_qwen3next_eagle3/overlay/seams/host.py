"""What SGLang's host code calls things, where its releases differ; `variants.host` chooses."""

from typing import Any


class CycleHost:
    """0.5.17."""

    def ranks(self, receiver: Any) -> Any:
        """Of a `SchedulerRequestReceiver`: `tp_rank`, `tp_size` and `pp_size`."""
        return receiver.ps

    def requests_group(self, receiver: Any) -> tuple[Any, int]:
        """By which group its ranks hear of requests, and whose number is the first in it."""
        return receiver.tp_cpu_group, receiver.tp_group.ranks[0]

    def has_dp_attention(self) -> bool:
        """Whether attention is data-parallel in this process."""
        from sglang.srt.runtime_context import get_parallel

        return bool(get_parallel().enable_dp_attention)

    def has_relay_rows(self, relay: Any, payload: Any) -> bool:
        """Whether a `FutureMap` has rows for what a payload leaves, and nobody else fills them."""
        return bool(relay._forward_buf_initialized)

    def of_verify(self, given: tuple[Any, ...]) -> tuple[int, Any, Any, Any]:
        """Of what the Triton backend is given before the graph of a verify: how many requests,
        their lengths, their places in the pool, the verify's input."""
        requests, seq_lens, places, spec_info = given
        return requests, seq_lens, places, spec_info

    def of_draft_extend(self, given: tuple[Any, ...]) -> tuple[int, Any, Any, Any, Any]:
        """The same before the graph of a draft extend, and at the end the forward mode."""
        requests, seq_lens, places, mode, spec_info = given
        return requests, seq_lens, places, spec_info, mode

    def verify_tokens(self, backend: Any, spec_info: Any) -> int:
        """How many tokens of each request a verify has, by the Triton backend."""
        asked = getattr(spec_info, "draft_token_num", None)
        return int(backend.num_draft_tokens if asked is None else asked)

    def reads_slots_as_they_are(self, backend: Any) -> bool:
        """Whether the Triton backend reads the slots that a request's row holds, untranslated."""
        return True

    def committed(self, request: Any) -> int:
        """How many of a request's tokens are known to be in the cache."""
        return int(request.kv_committed_len)

    def tell_longest(self, batch: Any, held: list[int]) -> None:
        """What a decode's preparation says besides, of how many slots each of its requests held."""

    def last_reader(self, worker: Any) -> Any:
        """Of the worker's runners the one whose graph is a cycle's last to read what the scheduler
        writes."""
        return worker.war_fastpath_runner

    def read_done(self, runner: Any) -> Any:
        """The event by which it says that it has read; None: the scheduler waits for all."""
        return runner.war_fastpath_read_done_event

    def say_read_done(self, runner: Any, event: Any) -> None:
        runner.war_fastpath_read_done_event = event

    def is_relay_made(self, relay: Any) -> bool:
        """Whether a `FutureMap` has all of its rows, and nobody else fills them."""
        return bool(relay._forward_buf_initialized)

    def forget_tracking(self, batch: Any) -> None:
        """What is said of tracked states besides which they are holds for prefills."""
        batch.mamba_track_mask = batch.mamba_track_seqlens = None

    def hindrances(self, worker: Any) -> dict[str, bool]:
        """What else keeps cycles from being recorded, by name: whether it holds."""
        return {}


class PlanningCycleHost(CycleHost):
    """0.5.23, which plans where a cycle's tokens lie, once for all of its graphs."""

    def ranks(self, receiver: Any) -> Any:
        from sglang.srt.runtime_context import get_parallel

        return get_parallel()

    def requests_group(self, receiver: Any) -> tuple[Any, int]:
        group = self.ranks(receiver).tp_group
        return group.cpu_group, group.ranks[0]

    def has_dp_attention(self) -> bool:
        from sglang.srt.runtime_context import get_parallel

        return bool(get_parallel().attn_dp_enabled)

    def has_relay_rows(self, relay: Any, payload: Any) -> bool:
        relay._maybe_init_forward_bufs(payload)
        return relay._relay is None

    def of_verify(self, given: tuple[Any, ...]) -> tuple[int, Any, Any, Any]:
        _, requests, seq_lens, spec_info, places = given
        return requests, seq_lens, places, spec_info

    def of_draft_extend(self, given: tuple[Any, ...]) -> tuple[int, Any, Any, Any, Any]:
        _, requests, seq_lens, mode, spec_info, places = given
        return requests, seq_lens, places, spec_info, mode

    def verify_tokens(self, backend: Any, spec_info: Any) -> int:
        return int(backend._target_verify_num_tokens_per_req(spec_info))

    def reads_slots_as_they_are(self, backend: Any) -> bool:
        return not backend.kv_index_translator.is_translating

    def committed(self, request: Any) -> int:
        return int(request.kv.kv_committed_len)

    def last_reader(self, worker: Any) -> Any:
        return worker.last_shared_read_runner

    def read_done(self, runner: Any) -> Any:
        return runner.shared_read_done_event

    def say_read_done(self, runner: Any, event: Any) -> None:
        runner.shared_read_done_event = event

    def is_relay_made(self, relay: Any) -> bool:
        return relay._relay is None

    def forget_tracking(self, batch: Any) -> None:
        super().forget_tracking(batch)
        batch.mamba_prefill_track_mask_cpu = batch.mamba_track_seqlens_cpu = None

    def hindrances(self, worker: Any) -> dict[str, bool]:
        from sglang.srt.environ import envs
        from sglang.srt.model_executor.runner_utils.pool import graph_pool_borrow_enabled
        from sglang.srt.utils import is_confidential_compute

        target = worker.target_worker.model_runner
        return {
            "SGLANG_ENABLE_GRAPH_POOL_BORROW": graph_pool_borrow_enabled(),
            "SGLANG_ENABLE_METADATA_GLUE_GRAPH": envs.SGLANG_ENABLE_METADATA_GLUE_GRAPH.get(),
            "copies by another thread": is_confidential_compute(),
            "watermarks": target.watermark_state is not None,
            "--enable-hisparse": target.hisparse_coordinator is not None,
            "translated slots": target.kv_index_translator.is_translating,
        }

    def tell_longest(self, batch: Any, held: list[int]) -> None:
        if batch.seq_lens_cpu is None:
            batch.max_seq_len_host = max(held)
