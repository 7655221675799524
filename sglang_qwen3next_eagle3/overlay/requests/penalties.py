"""Penalties and `min_tokens`, exact for every token, with a draft tree and without.

What may follow a draft token depends on the tokens before it, the drafts on its own branch
included. Stock SGLang 0.5.17 counts one token per step of speculation (the last) and gives all
drafts of a step the same penalties; with overlapped scheduling it is a token late even without
speculation. Here each request carries what its penalties have added up to,
and a step extends that along every branch, token by token, with the sums in the order in which
decoding without speculation makes them, so that not even rounding differs.

All of it stays on the device and in the order of the forward passes: with overlapped scheduling the
host does not know the last tokens yet.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

_STATE = "_qwen3next_eagle3_penalties"
_SAID = "_qwen3next_eagle3_said_before_prefill"
_REQUESTS = "_qwen3next_eagle3_requests"
_ELEMENTS_AT_ONCE = 1 << 26


@dataclass
class Totals:
    """What the penalties of R requests have added up to, V being the vocabulary.

    frequency: [R, ..., V], the sum of the frequency penalties.
    said: [R, ..., V], whether a token was said.
    length: [R, ...], how many tokens were said.
    """

    frequency: Tensor
    said: Tensor
    length: Tensor

    def at(self, node: Any) -> "Totals":
        """Totals of single draft tokens, by R of their indices or by one index for all."""
        rows = torch.arange(self.length.shape[0], device=self.length.device)
        return Totals(self.frequency[rows, node], self.said[rows, node], self.length[rows, node])


@dataclass(frozen=True)
class Rates:
    """What R requests ask for, each [R, 1]; forbidden: [R, V], -inf where a token would end the
    answer before `least` tokens are said, else 0."""

    presence: Tensor
    frequency: Tensor
    repetition: Tensor
    least: Tensor
    forbidden: Tensor


def wants_penalties(sampling: Any) -> bool:
    """sampling: SGLang's `SamplingParams`."""
    return bool(
        sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
        or sampling.repetition_penalty != 1
        or sampling.min_new_tokens > 0
    )


def parents(next_token: Tensor, next_sibling: Tensor) -> Tensor:
    """The draft token before each draft token, [B, N], the root's and unlinked ones' being 0.

    next_token, next_sibling: [B, N], first child and next sibling, -1 for none. Both are always of
    a higher number, in a chain and in a tree.
    """
    count = next_token.shape[1]
    found = torch.zeros_like(next_token)
    rows = torch.arange(next_token.shape[0], device=next_token.device)
    for node in range(count):
        for link, parent in (
            (next_token[:, node], torch.full_like(rows, node)),
            (next_sibling[:, node], found[:, node]),
        ):
            linked = link > node
            target = torch.where(linked, link, torch.zeros_like(link))
            # Row 0 takes what is not linked; it is the root's and set right below.
            found[rows, target] = torch.where(linked, parent.to(found.dtype), found[rows, target])
    found[:, 0] = 0
    return found


def along_the_tree(base: Totals, rates: Rates, tokens: Tensor, parent: Tensor) -> Totals:
    """Totals before each draft token's successor: the token itself and all before it counted.

    base: of the tokens before the root, [R, V] and [R].
    tokens, parent: [R, N].
    Returns:
        [R, N, V] and [R, N].
    """
    requests, count = tokens.shape
    rows = torch.arange(requests, device=tokens.device)
    vocabulary = base.said.shape[1]
    frequency = base.frequency.new_empty(requests, count, vocabulary)
    said = base.said.new_empty(requests, count, vocabulary)
    length = base.length.new_empty(requests, count)
    for node in range(count):
        token = tokens[:, node].long()
        before = base if node == 0 else Totals(frequency, said, length).at(parent[:, node])
        frequency[:, node] = before.frequency
        frequency[rows, node, token] += rates.frequency[:, 0]
        said[:, node] = before.said
        said[rows, node, token] = True
        length[:, node] = before.length + 1
    return Totals(frequency, said, length)


def apply(logits: Tensor, totals: Totals, rates: Rates) -> None:
    """Penalize logits in place.

    logits: [R, N, V], of the successors of the draft tokens whose totals are given.
    """
    presence = torch.where(totals.said, rates.presence.unsqueeze(1), 0.0)
    too_short = (totals.length < rates.least).unsqueeze(-1)
    additive = -totals.frequency - presence
    additive += torch.where(too_short, rates.forbidden.unsqueeze(1), 0.0)
    logits += additive
    factor = torch.where(totals.said, rates.repetition.unsqueeze(1), 1.0)
    logits.copy_(torch.where(logits < 0, logits * factor, logits / factor))


def totals_of(said: Sequence[Sequence[int]], rates: Rates, vocabulary: int) -> Totals:
    """Totals of R requests that have said these tokens."""
    device = rates.presence.device
    frequency = torch.zeros(len(said), vocabulary, device=device)
    seen = torch.zeros(len(said), vocabulary, dtype=torch.bool, device=device)
    for row, tokens in enumerate(said):
        if not len(tokens):
            continue
        ids = torch.tensor(list(tokens), dtype=torch.int64, device=device)
        seen[row, ids] = True
        # One by one and not with a product, to round as decoding does.
        for token in ids:
            frequency[row, token] += rates.frequency[row, 0]
    length = torch.tensor([len(tokens) for tokens in said], dtype=torch.int32, device=device)
    return Totals(frequency, seen, length)


def rates_of(requests: Sequence[Any], vocabulary: int, device: Any) -> Rates:
    """What these `Req` ask for."""
    asked = [request.sampling_params for request in requests]

    def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).unsqueeze(1)

    forbidden = torch.zeros(len(requests), vocabulary, device=device)
    for row, request in enumerate(requests):
        forbidden[row, sorted(_ends(request, vocabulary))] = float("-inf")
    return Rates(
        presence=column([s.presence_penalty for s in asked]),
        frequency=column([s.frequency_penalty for s in asked]),
        repetition=column([s.repetition_penalty for s in asked]),
        least=column([s.min_new_tokens for s in asked], torch.int32),
        forbidden=forbidden,
    )


def _ends(request: Any, vocabulary: int) -> set[int]:
    """The tokens that SGLang's `BatchedMinNewTokensPenalizer` holds back."""
    tokenizer = request.tokenizer
    ends = set(request.sampling_params.stop_token_ids or ())
    ends |= set(getattr(tokenizer, "additional_stop_token_ids", None) or ())
    end_of_text = getattr(tokenizer, "eos_token_id", None)
    ends |= {end_of_text} if end_of_text is not None else set()
    return {token for token in ends if 0 <= token < vocabulary}


class Step:
    """The penalties of one decoding step: put on the logits, then added to the requests.

    Without speculation it is a tree of one token, the last that was said.
    """

    def __init__(self, requests: Sequence[Any], tokens: Tensor, parent: Tensor) -> None:
        """requests: the `Req` of the batch; tokens, parent: [B, N]."""
        chosen = [i for i, r in enumerate(requests) if wants_penalties(r.sampling_params)]
        self._requests = [requests[i] for i in chosen]
        self._rows = torch.tensor(chosen, dtype=torch.int64, device=tokens.device)
        self._tokens, self._parent = tokens[self._rows], parent[self._rows]
        self._count = tokens.shape[1]
        self._base: Totals | None = None
        self._rates: Rates | None = None

    def apply(self, logits: Tensor, vocabulary: int) -> None:
        """logits: [B * N, at least V], changed in place."""
        for request in self._requests:
            if getattr(request, _STATE, None) is None:
                _begin(request, vocabulary, logits.device)
        states = [getattr(request, _STATE) for request in self._requests]
        rates = Rates(*(torch.cat(column) for column in zip(*(_parts(r) for _, r in states),
                                                            strict=True)))  # fmt: skip
        base = Totals(
            torch.stack([totals.frequency for totals, _ in states]),
            torch.stack([totals.said for totals, _ in states]),
            torch.stack([totals.length for totals, _ in states]),
        )
        self._base, self._rates = base, rates
        by_request = logits.view(-1, self._count, logits.shape[-1])
        # A few requests at a time: each takes the vocabulary for every draft, several times over.
        at_once = max(1, _ELEMENTS_AT_ONCE // (self._count * vocabulary))
        for start in range(0, len(self._requests), at_once):
            part = slice(start, start + at_once)
            some, asked = _rows(base, part), _rows(rates, part)
            after = along_the_tree(some, asked, self._tokens[part], self._parent[part])
            penalized = by_request[self._rows[part]]
            apply(penalized[..., :vocabulary], after, asked)
            by_request[self._rows[part]] = penalized

    def commit(self, last: Tensor) -> None:
        """Add the tokens up to this one of each request's N: [B], indices into them."""
        base, rates = self._base, self._rates
        assert base is not None
        assert rates is not None
        node = last[self._rows]
        rows = torch.arange(len(self._requests), device=node.device)
        on_path = torch.zeros_like(self._parent, dtype=torch.bool)
        for _ in range(self._count):
            on_path[rows, node] = True
            node = self._parent[rows, node]
        for place in range(self._count):
            token, counts = self._tokens[:, place].long(), on_path[:, place]
            base.frequency[rows, token] += torch.where(counts, rates.frequency[:, 0], 0.0)
            base.said[rows, token] |= counts
        length = base.length + on_path.sum(dim=1)
        for i, request in enumerate(self._requests):
            _, own = getattr(request, _STATE)
            # Copies, since a view would keep those of all the others alive.
            totals = Totals(base.frequency[i].clone(), base.said[i].clone(), length[i].clone())
            setattr(request, _STATE, (totals, own))


def _rows(several: Any, part: slice) -> Any:
    """The same of a part of the requests."""
    return type(several)(*(getattr(several, f.name)[part] for f in fields(several)))


def _parts(rates: Rates) -> tuple[Tensor, ...]:
    return (rates.presence, rates.frequency, rates.repetition, rates.least, rates.forbidden)


def _begin(request: Any, vocabulary: int, device: Any) -> None:
    rates = rates_of([request], vocabulary, device)
    said = request.output_ids[: getattr(request, _SAID, 0)]
    totals = totals_of([said], rates, vocabulary)
    single = Totals(totals.frequency[0], totals.said[0], totals.length[0])
    setattr(request, _STATE, (single, rates))


def from_schedule_batch(original: Callable[..., Any], batch: Any, vocab_size: int) -> Any:
    """Start from what was said before a request lost its place in the cache and came back.

    Stock SGLang makes the penalties anew at every prefill, and forgets the answer so far.
    """
    info = original(batch, vocab_size)
    for request in batch.reqs:
        setattr(request, _STATE, None)
        setattr(request, _SAID, len(request.output_ids))
    again = [
        (row, request)
        for row, request in enumerate(batch.reqs)
        if len(request.output_ids) and wants_penalties(request.sampling_params)
    ]
    if again:
        rows, requests = zip(*again, strict=True)
        rates = rates_of(requests, vocab_size, batch.device)
        totals = totals_of([request.output_ids for request in requests], rates, vocab_size)
        for penalizer in info.penalizer_orchestrator.penalizers.values():
            if penalizer.is_prepared():
                _restore(penalizer, list(rows), totals, rates)
    return info


def _restore(penalizer: Any, rows: list[int], totals: Totals, rates: Rates) -> None:
    """Set the totals of one of SGLang's penalizers, whichever it is."""
    if hasattr(penalizer, "cumulated_frequency_penalties"):
        penalizer.cumulated_frequency_penalties[rows] = totals.frequency
    if hasattr(penalizer, "cumulated_presence_penalties"):
        penalizer.cumulated_presence_penalties[rows] = torch.where(totals.said, rates.presence, 0.0)
    if hasattr(penalizer, "cumulated_repetition_penalties"):
        penalizer.cumulated_repetition_penalties[rows] = torch.where(
            totals.said, rates.repetition, 1.0
        )
    if hasattr(penalizer, "len_output_tokens"):
        penalizer.len_output_tokens[rows, 0] = totals.length


def verify(
    original: Callable[..., Any],
    verify_input: Any,
    batch: Any,
    logits_output: Any,
    *arguments: Any,
    **options: Any,
) -> Any:
    """Around `eagle_sample`: exact penalties in place of those that SGLang holds for the batch.

    verify_input: SGLang's `EagleVerifyInput`; batch: its `ScheduleBatch`.
    """
    info = batch.sampling_info
    if batch.forward_mode.is_idle() or not _any_wants_penalties(batch.reqs):
        return original(verify_input, batch, logits_output, *arguments, **options)
    count = verify_input.draft_token_num
    tokens = verify_input.draft_token.view(-1, count)
    tree = parents(verify_input.retrieve_next_token, verify_input.retrieve_next_sibling)
    step = Step(batch.reqs, tokens, tree)
    step.apply(logits_output.next_token_logits, info.vocab_size)
    info.acc_additive_penalties = info.acc_scaling_penalties = None
    predict, accept_lens, accept_index = original(
        verify_input, batch, logits_output, *arguments, **options
    )
    rows = torch.arange(len(batch.reqs), device=accept_lens.device)
    # The last of accept_lens tokens is not a draft: the next step begins with it.
    last = accept_index[rows, (accept_lens - 1).long()].long() - rows * count
    step.commit(last)
    return predict, accept_lens, accept_index


def copy_for_forward(original: Callable[..., Any], info: Any) -> Any:
    """Around the copy of a batch's sampling that a forward pass takes along: with the requests."""
    copied = original(info)
    batch = info.penalizer_orchestrator.batch if info.penalizer_orchestrator.is_required else None
    if batch is not None:
        setattr(copied, _REQUESTS, list(batch.reqs))
    return copied


def sample(
    original: Callable[..., Any], runner: Any, logits_output: Any, forward_batch: Any
) -> Any:
    """Around the sampling of a decoding step without speculation.

    With overlapped scheduling stock SGLang penalizes by what the host knows, which lacks the last
    token and begins with the last of the prompt.
    """
    info = forward_batch.sampling_info
    requests = getattr(info, _REQUESTS, ())
    if forward_batch.forward_mode.is_decode() and _any_wants_penalties(requests):
        tokens = forward_batch.input_ids[: len(requests)].long().unsqueeze(1)
        step = Step(requests, tokens, torch.zeros_like(tokens))
        step.apply(logits_output.next_token_logits[: len(requests)], info.vocab_size)
        info.acc_additive_penalties = info.acc_scaling_penalties = None
        step.commit(torch.zeros_like(tokens[:, 0]))
    return original(runner, logits_output, forward_batch)


def _any_wants_penalties(requests: Sequence[Any]) -> bool:
    return any(wants_penalties(request.sampling_params) for request in requests)
