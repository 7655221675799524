"""A recorded cycle of batches of one size, by what such batches differ, and what it gives."""

import copy
import operator
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch

from sglang_qwen3next_eagle3.overlay.seams.recording import GraphRecording, NotRecordable

_KEPT: Final = 4
"""Cycles of a size whose tokens are kept, so that none waits until the last one's are copied."""
_TO_HOST: Final = "_qwen3next_eagle3_to_host"
_SAMPLING: Final = ("temperatures", "top_ps", "top_ks", "min_ps")
"""Tensors [B, ...] of SGLang's `SamplingBatchInfo` that sampling reads."""


class CyclePlan:
    """A recorded cycle of batches of one size."""

    def __init__(
        self, recording: GraphRecording, given: list[torch.Tensor], draft_tokens: int
    ) -> None:
        """given: tensors by which a batch differs from others, the first [B]."""
        self.recording = recording
        self.requests = given[0].shape[0]
        self._count = self.requests * draft_tokens
        # What the host copies is read on another stream: no graph's memory, which others write in.
        shape = _KEPT, self._count + self.requests
        self._outs = torch.empty(shape, dtype=torch.int32, device=given[0].device)
        self._turn = 0
        """Where the next cycle writes; told with what it is given."""
        places = torch.arange(_KEPT, device=given[0].device)
        self._places = [places[turn : turn + 1] for turn in range(_KEPT)]
        self._place = torch.zeros_like(self._places[0])
        self.inputs = [torch.clone(tensor) for tensor in given]
        by_type: dict[torch.dtype, list[int]] = {}
        every = [*self.inputs, self._place]
        for place, tensor in enumerate(every):
            by_type.setdefault(tensor.dtype, []).append(place)
        self._groups = [([every[place] for place in group], group) for group in by_type.values()]
        self.relay: Any = None
        """SGLang's `FutureMap`, where the recording takes from it and leaves in it."""
        self.published: Callable[[Any], None] = _nobody
        """Whom the run tells the new lengths."""
        self.held: tuple[Any, ...] = ()
        """What the recorded launches read and nobody else may keep."""
        self._runners: list[Callable[[], Any]] = []
        """Each either a weak reference, or what stands for None."""
        self._result: Any = None
        self._given: list[Any] = [None] * _KEPT
        self.tells: list[Callable[[], None]] = []
        """What the host does once a cycle is launched."""
        self.awaited = False
        """Whether the lengths are there for all from the next graph of SGLang's on."""

    def of(self, runners: Sequence[Any]) -> None:
        """Whose graphs and places are in it; it does not keep them."""
        self._runners = [_weakly(runner) for runner in runners]

    def is_of(self, runners: Sequence[Any]) -> bool:
        """Whether it is still theirs: SGLang may have captured anew, with a runner that lies where
        another lay."""
        held = [runner() for runner in self._runners]
        return len(held) == len(runners) and all(map(operator.is_, held, runners))

    def is_orphaned(self) -> bool:
        """Whether a runner that it was made of is gone: nobody can ask for it any more."""
        weak = (runner for runner in self._runners if isinstance(runner, weakref.ref))
        return any(runner() is None for runner in weak)

    def drop(self) -> None:
        """It is not run any more. What it gave may still be copied to the host."""
        self.recording.drop()
        self._given = [None] * _KEPT
        self._result, self.held, self.relay = None, (), None
        self.tells.clear()

    def run(self, given: list[torch.Tensor], publish: Callable[[Any], None]) -> Any:
        """One cycle; SGLang's `GenerationBatchResult`."""
        every = [*given, self._places[self._turn]]
        for places, group in self._groups:
            torch._foreach_copy_(places, [every[place] for place in group])
        if self._outs.is_cuda:
            self.wait_for_copies(torch.cuda.current_stream())
        self.published = publish
        self.recording.run()
        self.published = _nobody
        for tell in self.tells:
            tell()
        return self.fresh()

    def keep(self, result: Any) -> None:
        """The result that all runs have; while they are recorded."""
        if result.routed_experts_output is not None or result.indexer_topk_output is not None:
            raise NotRecordable("it gives routings")
        logits, others = result.logits_output, ("auxiliary_device_output", "sampling_mask_output")
        if any(getattr(logits, name, None) is not None for name in others):
            raise NotRecordable("it gives more than tokens")
        given = result.next_token_ids, result.accept_lens
        for place, tensor in zip(self.split(self._outs[0]), given, strict=True):
            if tensor.dtype != place.dtype or tensor.shape != place.shape:
                raise NotRecordable(f"it gives {tensor.dtype} {tuple(tensor.shape)}")
        if self._outs.is_cuda:
            from sglang_qwen3next_eagle3.overlay.seams import chain_kernels

            chain_kernels.keep(self._place, *given, self._outs)
        else:
            self._outs.index_copy_(0, self._place, torch.cat(given)[None])
        # They are read where the host finds them.
        result.next_token_ids = result.accept_lens = None
        # They were for tensors that are made anew in each cycle.
        result.extra_keep_alive_refs = None
        self._result = result

    def split(self, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B x N] and lengths [B], which lie side by side."""
        return out[: self._count], out[self._count :]

    def fresh(self) -> Any:
        """The result as SGLang makes it anew in every cycle: it writes into it."""
        made = copy.copy(self._result)
        made.logits_output = copy.copy(self._result.logits_output)
        made.next_draft_input = copy.copy(self._result.next_draft_input)
        out = self._outs[self._turn]
        made.next_token_ids, made.accept_lens = self.split(out)
        setattr(made, _TO_HOST, partial(self.to_host, out))
        self._given[self._turn] = made
        self._turn = (self._turn + 1) % _KEPT
        return made

    def left(self, payload: Any) -> bool:
        """Whether this is what the recording has stashed itself."""
        kept = self._result.next_draft_input.bonus_tokens
        return self.relay is not None and payload.bonus_tokens is kept

    def to_host(self, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and lengths on the host, once what is launched now is done."""
        host = torch.empty(out.shape, dtype=torch.int32, pin_memory=out.is_cuda)
        host.copy_(out, non_blocking=True)
        return self.split(host)

    def wait_for_copies(self, stream: Any) -> None:
        """What is copied to the host on another stream is not written over before it is there."""
        given = self._given[self._turn]
        done = None if given is None else given.copy_done
        if done is not None:
            stream.wait_event(done)


def inputs_of(batch: Any) -> list[torch.Tensor]:
    """The tensors by which a plain batch differs from another one of its size."""
    spec = batch.spec_info
    given = [
        batch.seq_lens,
        batch.req_pool_indices,
        spec.bonus_tokens,
        spec.topk_index,
        spec.topk_p,
        spec.hidden_states,
    ]
    return given + _others(batch)


def put(batch: Any, tensors: list[torch.Tensor]) -> None:
    """These in place of what `inputs_of` gives."""
    spec = batch.spec_info
    (
        batch.seq_lens,
        batch.req_pool_indices,
        spec.bonus_tokens,
        spec.topk_index,
        spec.topk_p,
        spec.hidden_states,
        *others,
    ) = tensors
    _put_others(batch, others)


def places_of(batch: Any) -> list[torch.Tensor]:
    """The same where all else is taken from SGLang's relay."""
    return [batch.spec_info.future_indices, batch.req_pool_indices, *_others(batch)]


def put_places(batch: Any, tensors: list[torch.Tensor]) -> None:
    batch.spec_info.future_indices, batch.req_pool_indices, *others = tensors
    _put_others(batch, others)


def _others(batch: Any) -> list[torch.Tensor]:
    """How it is sampled, if it is, and which states are tracked, if any are."""
    tracked = [] if batch.mamba_track_indices is None else [batch.mamba_track_indices]
    if batch.sampling_info.is_all_greedy:
        return tracked
    return [*(getattr(batch.sampling_info, name) for name in _SAMPLING), *tracked]


def _put_others(batch: Any, tensors: list[torch.Tensor]) -> None:
    if not batch.sampling_info.is_all_greedy:
        # The batch's own stays as it is.
        batch.sampling_info = copy.copy(batch.sampling_info)
        for name in _SAMPLING:
            setattr(batch.sampling_info, name, tensors.pop(0))
    batch.mamba_track_indices = tensors[0] if tensors else None


def copy_to_cpu(
    original: Callable[..., None],
    result: Any,
    return_logprob: bool,
    return_hidden_states: bool = True,
) -> None:
    """Around the copies of what a cycle gave: of a recorded one they are a single copy."""
    to_host = getattr(result, _TO_HOST, None)
    if to_host is None or return_logprob or return_hidden_states:
        original(result, return_logprob=return_logprob, return_hidden_states=return_hidden_states)
        return
    result.next_token_ids, result.accept_lens = to_host()
    result.copy_done.record()


def _weakly(thing: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(thing)
    except TypeError:  # None, and what has no room for it
        return lambda: thing


def _nobody(lens: Any) -> None:
    raise RuntimeError("lengths are published outside a cycle")
