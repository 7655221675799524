"""How well a head drafts when it is fed one selection of the target's streams or another.

The measure that selections are compared by is the log-likelihood that the head gives the target's
own greedy token at the first draft step. It tells neighbouring layers apart with far fewer tokens
than the share of right drafts does, and is what heads are trained for; agreement and accept length
are computed beside it for people.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sglang_qwen3next_eagle3.head_model import HeadModel, rms_norm

TOP = 5

Depths = tuple[int, ...]
"""The stream of each slot of fc; a stream is named by its depth, 0 (the embedding) to layers."""


@dataclass(frozen=True)
class Text:
    """One prompt and what the target made of it.

    ids: [T] its tokens.
    streams: [layers + 1, T, target_hidden], by depth.
    greedy: [T], at position p the token that the target puts at p + 1.
    """

    ids: Tensor
    streams: Tensor
    greedy: Tensor


class Texts(Protocol):
    """Texts that can be gone through again and again, one in memory at a time."""

    def __iter__(self) -> Iterator[Text]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Score:
    """Figures of one selection, prompt by prompt (P prompts, K draft steps).

    roots: [P] chains; hits, hits5: [P, K] drafts that are the target's token, or among the TOP
    best; runs: [P, K] chains whose first k + 1 drafts are right; positions: [P] first drafts whose
    target token is in the draft vocabulary; loglik: [P] the sum of its log-likelihoods there.
    """

    roots: Tensor
    hits: Tensor
    hits5: Tensor
    runs: Tensor
    positions: Tensor
    loglik: Tensor

    @property
    def top1(self) -> list[float]:
        """Share of drafts that are the target's token, by step."""
        shares: list[float] = (self.hits.sum(0) / self.roots.sum()).tolist()
        return shares

    @property
    def top5(self) -> list[float]:
        shares: list[float] = (self.hits5.sum(0) / self.roots.sum()).tolist()
        return shares

    @property
    def accept_length(self) -> float:
        """Of a chain of K drafts, the target's own token included."""
        return 1 + float(self.runs.sum() / self.roots.sum())

    @property
    def mean_loglik(self) -> float:
        """Nats a token, at the first step."""
        return float(self.loglik.sum() / self.positions.sum())


class Fuse:
    """fc over any selection of one text's streams, slot by slot: fc is linear, so that a change of
    one slot costs one slot's product. RMS norms before it (`fc_norm`, `norm_before_fc`) are kept.
    """

    def __init__(self, model: HeadModel, streams: Tensor) -> None:
        self._model = model
        self._streams = streams.to(model.device, model.dtype)
        tensors = model.tensors
        self._weights = tensors["fc.weight"].chunk(model.head.aux_count, dim=1)
        self._bias = tensors.get("fc.bias")
        joint = tensors.get("input_norm.weight")
        self._joint = None if joint is None else joint.chunk(model.head.aux_count)
        self._cache: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def slot(self, slot: int, depth: int) -> tuple[Tensor, Tensor]:
        """One slot's product [T, hidden] and its stream's sum of squares [T, 1], both float32."""
        stream = self._streams[depth]
        own = self._model.tensors.get(f"fc_norm.{slot}.weight")
        if own is not None:
            stream = rms_norm(stream, own, self._model.eps)
        squares = stream.float().square().sum(-1, keepdim=True)
        if self._joint is not None:
            stream = stream * self._joint[slot]
        return (stream @ self._weights[slot].T).float(), squares

    def kept(self, slot: int, depth: int) -> tuple[Tensor, Tensor]:
        """As `slot`, remembered."""
        key = slot, depth
        if key not in self._cache:
            self._cache[key] = self.slot(slot, depth)
        return self._cache[key]

    def finish(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The slots' parts to what the head's first layer reads, [T, hidden]."""
        fused = sum((product for product, _ in parts), start=torch.zeros_like(parts[0][0]))
        if self._joint is not None:
            squares = sum((s for _, s in parts), start=torch.zeros_like(parts[0][1]))
            width = len(parts) * self._streams.shape[-1]
            # The norm of all slots at once is a factor that is common to them.
            fused = fused * torch.rsqrt(squares / width + self._model.eps)
        if self._bias is not None:
            fused = fused + self._bias
        return fused.to(self._model.dtype)

    def project(self, depths: Depths) -> Tensor:
        return self.finish([self.kept(slot, depth) for slot, depth in enumerate(depths)])


def score(
    model: HeadModel,
    texts: Texts,
    candidates: Sequence[Depths],
    steps: int,
    done: Callable[[], None] = lambda: None,
    displaced: bool = False,
) -> list[Score]:
    """Figures of each candidate over all texts.

    done: called after each text and candidate.
    displaced: the control. Every position gets the states of the one half a text away, which look
        like states and tell nothing about it.
    """
    rows: list[list[tuple[Tensor, ...]]] = [[] for _ in candidates]
    known = _inverse(model)
    for text in texts:
        away = len(text.ids) // 2 if displaced else 0
        fuse = Fuse(model, text.streams.roll(away, dims=1))
        for row, depths in zip(rows, candidates, strict=True):
            row.append(_figures(model, fuse.project(depths), text, steps, known))
            done()
    return [Score(*(torch.stack(column) for column in zip(*row, strict=True))) for row in rows]


def sweep(
    model: HeadModel,
    texts: Texts,
    depths: Depths,
    slot: int,
    done: Callable[[], None] = lambda: None,
) -> list[Score]:
    """Figures of the first draft step for every stream in one slot, the other slots as given."""
    rows: list[list[tuple[Tensor, ...]]] = []
    known = _inverse(model)
    for text in texts:
        fuse = Fuse(model, text.streams)
        others = [fuse.kept(i, depth) for i, depth in enumerate(depths) if i != slot]
        rows = rows or [[] for _ in range(len(text.streams))]
        for depth, row in enumerate(rows):
            projected = fuse.finish([*others, fuse.slot(slot, depth)])
            row.append(_figures(model, projected, text, 1, known))
            done()
    return [Score(*(torch.stack(column) for column in zip(*row, strict=True))) for row in rows]


@torch.no_grad()
def _figures(
    model: HeadModel, projected: Tensor, text: Text, steps: int, known: Tensor
) -> tuple[Tensor, ...]:
    """One text's row of `Score`, on the CPU in float64."""
    greedy = text.greedy.to(model.device)
    roots = len(greedy) - steps
    hits, hits5, loglik = [], [], None
    for k, logits in enumerate(model.steps(projected, text.ids, steps)):
        wanted = known[greedy[k + 1 : k + 1 + roots]]
        best = logits[:roots].topk(min(TOP, logits.shape[1]), dim=-1).indices
        right = best == wanted[:, None]
        hits.append(right[:, 0])
        hits5.append(right.any(-1))
        if loglik is None:
            inside = wanted >= 0
            chosen = logits[:roots][inside].float().log_softmax(-1)
            loglik = chosen.gather(1, wanted[inside, None])
    assert loglik is not None
    first = torch.stack(hits, dim=-1)
    runs = first.cumprod(-1).sum(0)
    columns = (
        torch.tensor(roots), first.sum(0), torch.stack(hits5, dim=-1).sum(0), runs,
        torch.tensor(len(loglik)), loglik.double().sum(),
    )  # fmt: skip
    return tuple(column.double().cpu() for column in columns)


def _inverse(model: HeadModel) -> Tensor:
    """The draft token of each of the target's tokens, -1 where there is none, [vocab]."""
    vocab = int(model.head.config["vocab_size"])
    known = torch.full((vocab,), -1, dtype=torch.int64, device=model.device)
    known[model.target_ids] = torch.arange(len(model.target_ids), device=model.device)
    return known
