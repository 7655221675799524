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

    def tell_longest(self, batch: Any, held: list[int]) -> None:
        if batch.seq_lens_cpu is None:
            batch.max_seq_len_host = max(held)
