"""Which experts a pass reaches, for `bench speed` and `bench cycle` with weights that are dummies.

With simulated acceptance every answer repeats one token, so all rows of a pass are the same row and
choose the same experts. Here the target gets, in decode and verify passes, another embedding for
every row instead of its token's, and its routers choose by that: in SGLang's kernels and in ours
alike, in every layer. The row is told by its request's place, its position and its token, so it has
the same experts whatever runs beside it, decoded or verified.

uniform: each row's is that of a token drawn evenly. Routers of random weights then choose every
expert equally often and for each row anew: the most experts that a pass can be expected to reach.

text: a model of text, whose parameters are chosen: nobody measured Qwen3-Next's routers, and these
figures were held against no text. Tokens are drawn by the law of Zipf and Mandelbrot: the r-th most
frequent with a probability in proportion to 1 / (r + 2.7), so that frequent ones and their experts
come again. And rows near each other agree: each mixes its token's embedding with one that 16
positions of a request share, so that the logits of two of them correlate by 0.35; of 8 experts a
quarter of the rows then have their predecessor's first choice, where chance would give an eighth.

It costs a decode or verify pass six small launches more (text: about twelve), stock's as ours.
"""

import math
from collections.abc import Callable
from typing import Any, Final, Literal, get_args

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.environment import ROUTING
from sglang_qwen3next_eagle3.overlay.hooks import Hook

FORWARD = "sglang.srt.models.qwen3_next:Qwen3NextModel.forward"
Routing = Literal["uniform", "text"]
ROUTINGS: Final[tuple[Routing, ...]] = get_args(Routing)
AGREEMENT = 0.35
"""Correlation of two rows of one stretch."""
STRETCH = 16
"""Positions that agree: a power of two."""
_FREQUENT = 2.7
_DRAWS = 1 << 16
_FIRST = 1024
"""Tokens below are left out: SGLang fills every dummy weight from one seed, so theirs could be rows
of a router."""
_OF_SLOT, _OF_POSITION, _OF_TOKEN = 40503, 30011, 52711
_TABLE = "_qwen3next_eagle3_routing"


def parse(text: str) -> Routing:
    """Raises UserError: it is none."""
    for known in ROUTINGS:
        if text == known:
            return known
    raise UserError(f"{ROUTING}={text}: not one of {', '.join(ROUTINGS)}")


def drawn_tokens(vocabulary: int, routing: Routing) -> Any:
    """[65536] int64: the tokens that rows are given, as often as they are to come; the same in
    every process."""
    import torch

    first = min(_FIRST, vocabulary // 4)
    usable = vocabulary - first - max(1, vocabulary // 100)
    generator = torch.Generator().manual_seed(1)
    if routing == "uniform":
        return first + torch.randint(usable, (_DRAWS,), generator=generator)
    # Zipf and Mandelbrot's law in its continuous form: its distribution function is a logarithm.
    start = _FREQUENT + 0.5
    share = torch.rand(_DRAWS, generator=generator, dtype=torch.float64)
    rank = start * torch.exp(share * math.log((usable + start) / start)) - start
    by_rank = first + torch.randperm(usable, generator=generator)
    return by_rank[rank.long().clamp(0, usable - 1)]


def tokens_of_rows(table: Any, slots: Any, positions: Any, tokens: Any) -> Any:
    """The tokens [T] that rows are given. table: `drawn_tokens`; slots: the requests' places;
    positions; tokens: the rows' own; all int64 [T]."""
    import torch

    at = torch.add(slots * _OF_SLOT, positions, alpha=_OF_POSITION)
    return table[torch.add(at, tokens, alpha=_OF_TOKEN) & (_DRAWS - 1)]


def embedded(embed: Callable[[Any], Any], table: Any, routing: Routing, rows: Any) -> Any:
    """The streams [T, D] that rows enter with. rows: slots, positions and tokens, int64 [T]."""
    import torch

    slots, positions, tokens = rows
    own = tokens_of_rows(table, slots, positions, tokens)
    if routing == "uniform":
        return embed(own)
    # As drawn evenly from a table that is not even, which only makes stretches agree now and then.
    shared = tokens_of_rows(table, slots, positions // STRETCH, slots)
    both = embed(torch.cat([own, shared])).unflatten(0, (2, -1))
    return both[0] * math.sqrt(1 - AGREEMENT) + both[1] * math.sqrt(AGREEMENT)


def hook(routing: Routing) -> Hook:
    """The hook that tells the target its rows."""

    def forward(
        original: Callable[..., Any],
        decoder: Any,
        input_ids: Any,
        positions: Any,
        forward_batch: Any,
        inputs_embeds: Any = None,
    ) -> Any:
        mode = forward_batch.forward_mode
        if inputs_embeds is None and (mode.is_decode() or mode.is_target_verify()):
            slots = forward_batch.req_pool_indices.long()
            nodes = len(input_ids) // max(1, len(slots))
            rows = slots.repeat_interleave(nodes), positions.long(), input_ids.long()
            table = _table_of(decoder, routing, input_ids.device)
            inputs_embeds = embedded(decoder.embed_tokens, table, routing, rows)
        return original(decoder, input_ids, positions, forward_batch, inputs_embeds)

    return Hook(FORWARD, forward, "gives rows embeddings by which routers of dummy weights choose")


def _table_of(decoder: Any, routing: Routing, device: Any) -> Any:
    # Made in a warm-up pass, which comes before every capture.
    name = f"{_TABLE}_{routing}"
    if name not in decoder.__dict__:
        vocabulary = decoder.embed_tokens.org_vocab_size
        decoder.__dict__[name] = drawn_tokens(vocabulary, routing).to(device)
    return decoder.__dict__[name]
