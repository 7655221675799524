"""Keys and values without attention: what the layer's projections make of its normed inputs."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.adaptive.head_cache import HeadCache

WIDTH, STREAMS, HEADS, OF_HEAD, PLACES = 8, 3, 2, 4, 16
KV = HEADS * OF_HEAD


def norm(factor: float) -> Any:
    """Not linear: before a product it is another than behind it."""
    return lambda x: factor * x / x.square().mean(-1, keepdim=True).sqrt()


class Head:
    """A head's modules, each with a factor or weights of its own."""

    def __init__(self, *, norms_input: bool, norms_streams: bool) -> None:
        draw = torch.Generator().manual_seed(0)
        self.embedding = torch.randn(20, WIDTH, generator=draw)
        self.weight = torch.randn(3 * KV, 2 * WIDTH, generator=draw)
        self.combined = torch.randn(WIDTH, STREAMS * WIDTH, generator=draw)
        self.positions: list[int] = []
        attn = SimpleNamespace(
            num_kv_heads=HEADS, head_dim=OF_HEAD, attn="the layer", forward_prepare_native=self.qkv
        )
        layer = SimpleNamespace(self_attn=attn, input_layernorm=norm(2), hidden_norm=norm(3))
        self.model = SimpleNamespace(
            layers=[layer], embed_tokens=lambda tokens: self.embedding[tokens],
            fc=lambda x: x @ self.combined.t(), num_aux_hidden_states=STREAMS,
            input_norm=norm(5) if norms_input else None,
            fc_norm=[norm(n) for n in (7, 11, 13)] if norms_streams else None,
        )  # fmt: skip
        self.cache = torch.zeros(2, PLACES, HEADS, OF_HEAD)

    def qkv(self, positions: Any, both: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.positions += positions.tolist()
        query, keys, values = (both @ self.weight.t()).split(KV, dim=-1)
        return query, keys * positions[:, None], values

    def set_kv_buffer(self, layer: Any, places: Any, keys: Any, values: Any) -> None:
        assert layer == "the layer"
        self.cache[0, places], self.cache[1, places] = keys, values


@pytest.mark.parametrize("own_state", [False, True])
@pytest.mark.parametrize(("norms_input", "norms_streams"), [(False, False), (True, True)])
def test_each_token_s_are_where_they_belong(
    own_state: bool, norms_input: bool, norms_streams: bool
) -> None:
    head = Head(norms_input=norms_input, norms_streams=norms_streams)
    runner = SimpleNamespace(model=head, token_to_kv_pool=head)
    tokens, positions = torch.tensor([4, 19, 0]), torch.tensor([7, 1, 100])
    places = torch.tensor([9, 2, 15])
    hidden = torch.randn(3, WIDTH if own_state else STREAMS * WIDTH)
    HeadCache(runner).fill(tokens, positions, places, hidden)
    state = hidden
    if not own_state:
        read = hidden
        if norms_input:
            chunks = norm(5)(hidden).chunk(STREAMS, dim=-1)
            read = torch.cat([norm(n)(x) for n, x in zip((7, 11, 13), chunks, strict=True)], -1)
        state = read @ head.combined.t()
    both = torch.cat([norm(2)(head.embedding[tokens]), norm(3)(state)], dim=-1)
    _, keys, values = (both @ head.weight.t()).split(KV, dim=-1)
    expected = torch.zeros_like(head.cache)
    expected[0, places] = (keys * positions[:, None]).view(3, HEADS, OF_HEAD)
    expected[1, places] = values.view(3, HEADS, OF_HEAD)
    torch.testing.assert_close(head.cache, expected)
    assert head.positions == [7, 1, 100]
