"""How well a head drafts when it is fed one selection of the target's streams or another.

Selections are compared by the overlap of the head's distribution at the first draft step with the
target's: the sum over tokens of the smaller of both probabilities, which is how often speculative
sampling at temperature 1 accepts the draft (Leviathan et al. 2023, arXiv 2211.17192). It tells
neighbouring layers apart where the share of right drafts cannot, since it sees more of a
distribution than its first token; and unlike a likelihood it is bounded, so that a few tokens that
the head is wrongly sure about do not decide. Agreement and accept length are for people.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sglang_qwen3next_eagle3.head.forward import HeadModel, rms_norm

TOP = 5
BLOCK = 256
"""Positions whose logits over the target's whole vocabulary are in memory at a time."""

Depths = tuple[int, ...]
"""The stream of each slot of fc; a stream is named by its depth, 0 (the embedding) to layers."""


@dataclass(frozen=True)
class Text:
    """One prompt and what the target made of it.

    ids: [T] its tokens.
    streams: [layers + 1, T, target_hidden], by depth.
    last_hidden: [T, target_hidden], behind the final norm: what the target's lm_head reads.
    start: the first position that a chain begins at.
    """

    ids: Tensor
    streams: Tensor
    last_hidden: Tensor
    start: int = 0


class Texts(Protocol):
    """Texts that can be gone through again and again, one in memory at a time."""

    def __iter__(self) -> Iterator[Text]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Score:
    """Figures of one selection, prompt by prompt (P prompts, K draft steps).

    roots: [P] chains; hits, hits5: [P, K] drafts that are the target's token, or among the TOP
    best; runs: [P, K] chains whose first k + 1 drafts are right; overlap: [P] the sum over chains
    of the first draft's overlap with the target.
    """

    roots: Tensor
    hits: Tensor
    hits5: Tensor
    runs: Tensor
    overlap: Tensor

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
    def mean_overlap(self) -> float:
        """Of the first draft, 0 to 1."""
        return float(self.overlap.sum() / self.roots.sum())


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
        return self.finish([self.slot(slot, depth) for slot, depth in enumerate(depths)])


class Teacher:
    """The target's own predictions, as far as they can be drafted.

    lm_head: the target's, [vocab, target_hidden].
    """

    def __init__(self, model: HeadModel, lm_head: Tensor) -> None:
        self._lm_head = lm_head.to(model.device, model.dtype)
        self._target_ids = model.target_ids
        self._draft_ids = torch.full((len(lm_head),), -1, device=model.device)
        places = torch.arange(len(model.target_ids), device=model.device)
        self._draft_ids[model.target_ids] = places

    @torch.no_grad()
    def __call__(self, text: Text) -> tuple[Tensor, Tensor]:
        """At every position the greedy next token as a draft token, [T], -1 where it is none, and
        the probabilities of all draft tokens, [T, draft_vocab] float32."""
        greedy, shares = [], []
        for start in range(0, len(text.last_hidden), BLOCK):
            rows = text.last_hidden[start : start + BLOCK].to(self._lm_head)
            logits = (rows @ self._lm_head.T).float()
            greedy.append(logits.argmax(-1))
            shares.append(logits.softmax(-1)[:, self._target_ids])
        return self._draft_ids[torch.cat(greedy)], torch.cat(shares)


class Scorer:
    """One head, one target. lm_head: the target's, [vocab, target_hidden]."""

    def __init__(self, model: HeadModel, lm_head: Tensor) -> None:
        self.model = model
        self._teacher = Teacher(model, lm_head)

    def score(
        self,
        texts: Texts,
        candidates: Sequence[Depths],
        steps: int,
        done: Callable[[], None] = lambda: None,
        displaced: bool = False,
    ) -> list[Score]:
        """Figures of each candidate over all texts.

        done: called after each text and candidate.
        displaced: the control. Every position gets the states of the one half a text away, which
            look like states and tell nothing about it.
        """
        rows: list[list[tuple[Tensor, ...]]] = [[] for _ in candidates]
        for text in texts:
            taught = self._teacher(text)
            streams = text.streams
            if displaced:
                streams = streams.roll(len(text.ids) // 2, dims=1)
            fuse = Fuse(self.model, streams)
            for row, depths in zip(rows, candidates, strict=True):
                row.append(self._figures(fuse.project(depths), text, steps, *taught))
                done()
        return _stacked(rows)

    def sweep(
        self, texts: Texts, depths: Depths, slot: int, done: Callable[[], None] = lambda: None
    ) -> list[Score]:
        """Figures of the first draft step for every stream in one slot, the others as given."""
        rows: list[list[tuple[Tensor, ...]]] = []
        for text in texts:
            taught = self._teacher(text)
            fuse = Fuse(self.model, text.streams)
            others = [fuse.slot(i, depth) for i, depth in enumerate(depths) if i != slot]
            rows = rows or [[] for _ in range(len(text.streams))]
            for depth, row in enumerate(rows):
                projected = fuse.finish([*others, fuse.slot(slot, depth)])
                row.append(self._figures(projected, text, 1, *taught))
                done()
        return _stacked(rows)

    @torch.no_grad()
    def _figures(
        self, projected: Tensor, text: Text, steps: int, greedy: Tensor, shares: Tensor
    ) -> tuple[Tensor, ...]:
        """One text's row of `Score`, on the CPU in float64."""
        start = text.start
        roots = len(text.ids) - steps - start
        hits, hits5, overlap = [], [], torch.zeros(())
        for k, logits in enumerate(self.model.steps(projected, text.ids, steps)):
            wanted = greedy[start + k + 1 : start + k + 1 + roots, None]
            logits = logits[start : start + roots]
            right = logits.topk(min(TOP, logits.shape[1]), dim=-1).indices == wanted
            hits.append(right[:, 0])
            hits5.append(right.any(-1))
            if k == 0:
                own = logits.float().softmax(-1)
                overlap = torch.minimum(own, shares[start + 1 : start + 1 + roots]).sum()
        drafts = torch.stack(hits, dim=-1)
        columns = (
            torch.tensor(roots), drafts.sum(0), torch.stack(hits5, dim=-1).sum(0),
            drafts.cumprod(-1).sum(0), overlap,
        )  # fmt: skip
        return tuple(column.double().cpu() for column in columns)


def _stacked(rows: Sequence[Sequence[tuple[Tensor, ...]]]) -> list[Score]:
    return [Score(*(torch.stack(column) for column in zip(*row, strict=True))) for row in rows]
