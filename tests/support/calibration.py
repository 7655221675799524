"""A synthetic target and head whose right selection is known, and texts of theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sglang_qwen3next_eagle3.calibrate.scoring import Depths, Scorer, Text
from sglang_qwen3next_eagle3.head.forward import HeadModel
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.heads import CONFIG, TARGET, VOCAB, random_tensors, write

LAYERS = 12
LENGTH = 40
SMALL_TARGET = {**TARGET, "num_hidden_layers": LAYERS}


def target() -> Target:
    return Target.from_config(SMALL_TARGET)


@dataclass(frozen=True)
class Synthetic:
    """embedding, lm_head: the target's, [vocab, hidden]; folder: the head's."""

    folder: Path
    model: HeadModel
    embedding: Tensor

    @property
    def scorer(self) -> Scorer:
        return Scorer(self.model, LM_HEAD)


# Of rows with one length each is nearest to itself: a last hidden state that is one of them makes
# its token the target's greedy one, and nearly certain where it is long.
LM_HEAD = torch.nn.functional.normalize(
    torch.randn(VOCAB, 16, generator=torch.Generator().manual_seed(5))
)
CERTAIN = 40.0


def head(folder: Path, seed: int = 0, **changes: Any) -> Synthetic:
    config = {**CONFIG, **changes}
    embedding = torch.randn(VOCAB, 16, generator=torch.Generator().manual_seed(seed + 100))
    write(folder, config, random_tensors(config, seed))
    return Synthetic(folder, HeadModel.load(folder, embedding), embedding)


def random_streams(length: int, generator: torch.Generator) -> Tensor:
    """[layers + 1, T, hidden]: a residual stream, to which every layer adds its part."""
    return torch.randn(LAYERS + 1, length, 16, generator=generator).cumsum(0)


def text_of(ids: Tensor, streams: Tensor, greedy: Tensor) -> Text:
    """A text at whose positions the target is nearly certain of the `greedy` tokens, [T]."""
    return Text(ids, streams, CERTAIN * LM_HEAD[greedy])


def greedy_of(text: Text) -> Tensor:
    return (text.last_hidden @ LM_HEAD.T).argmax(-1)


def texts(model: HeadModel, trained: Depths | None, count: int = 6, seed: int = 0) -> list[Text]:
    """Texts in which the target's token is the one that the head drafts from `trained`.

    So the head is right about every first draft with that selection and no other. With None the
    target's tokens are random, and no selection is better than another.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        ids = torch.randint(VOCAB, (LENGTH,), generator=generator)
        streams = random_streams(LENGTH, generator)
        greedy = torch.randint(VOCAB, (LENGTH,), generator=generator)
        if trained is not None:
            aux = torch.cat([streams[depth] for depth in trained], dim=-1)
            greedy[1:] = model.target_ids[model.predict(aux, ids, 1)[0].argmax(-1)]
        found.append(text_of(ids, streams, greedy))
    return found


def chain_hits(logits: Sequence[Tensor], target_ids: Tensor, greedy: Tensor) -> Tensor:
    """Which drafts the target would have chosen itself, bool [T - steps, steps]: an oracle, written
    apart from the product's.

    logits: of `HeadModel.predict` with the same number of steps; greedy: of `greedy_of`, [T].
    A token outside the draft vocabulary cannot be drafted, so it counts as a miss. The roots are
    those whose chain lies within the text.
    """
    roots = len(greedy) - len(logits)
    hits = []
    for k, step in enumerate(logits):
        drafted = target_ids[step[:roots].argmax(-1)]
        hits.append(drafted == greedy[k + 1 : k + 1 + roots].to(drafted.device))
    return torch.stack(hits, dim=-1)
