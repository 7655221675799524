"""Which experts rows reach that enter with embeddings of their own, through routers of random
weights."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3 import plugin
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay import contract, environment, routing, simulate
from sglang_qwen3next_eagle3.overlay import hooks as overlay_hooks
from sglang_qwen3next_eagle3.overlay.routing import ROUTINGS, Routing
from sglang_qwen3next_eagle3.overlay.simulate import AcceptLength

PAGE = Path(__file__).parents[3] / "docs" / "benchmarks.md"
VOCABULARY, WIDTH, EXPERTS, TOP_K = 151936, 64, 512, 10
DUMMY = 100
"""The token that SGLang repeats."""


class Mode:
    def __init__(self, name: str) -> None:
        self.name = name

    def is_decode(self) -> bool:
        return self.name == "decode"

    def is_target_verify(self) -> bool:
        return self.name == "verify"


class Decoder:
    """A target of random weights: what it is given, and the experts that a layer's router takes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        weight = torch.rand(VOCABULARY, WIDTH, generator=generator) * 2e-3 - 1e-3
        self.embed_tokens = _Embedding(weight)
        self.router = torch.rand(EXPERTS, WIDTH, generator=generator) * 2e-3 - 1e-3


class _Embedding:
    org_vocab_size = VOCABULARY

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weight[ids]


def streams(
    decoder: Decoder, how: Routing, mode: str, slots: list[int], positions: list[int],
    tokens: list[int],
) -> torch.Tensor:  # fmt: skip
    """What the rows of a pass enter with."""

    def original(
        decoder: Decoder, ids: torch.Tensor, at: Any, batch: Any, embeds: torch.Tensor | None
    ) -> torch.Tensor:
        return decoder.embed_tokens(ids) if embeds is None else embeds

    batch = SimpleNamespace(
        forward_mode=Mode(mode), req_pool_indices=torch.tensor(slots, dtype=torch.int32)
    )
    given = torch.tensor(tokens), torch.tensor(positions)
    hook = routing.hook(how)
    out: torch.Tensor = hook.replacement(original, decoder, *given, batch)
    return out


def choices(decoder: Decoder, entered: torch.Tensor) -> torch.Tensor:
    return (entered @ decoder.router.T).topk(TOP_K).indices


def verified(decoder: Decoder, how: Routing, requests: int, nodes: int, at: int) -> torch.Tensor:
    """The experts [T, 10] of a verify of chains, every request at its own place."""
    slots = [7 * request + 1 for request in range(requests)]
    positions = [at + node for _ in slots for node in range(nodes)]
    tokens = [DUMMY if node == 0 else 5000 + node for _ in slots for node in range(nodes)]
    return choices(decoder, streams(decoder, how, "verify", slots, positions, tokens))


def reached(decoder: Decoder, how: Routing, requests: int, nodes: int) -> float:
    """Distinct experts of a pass on average, the shared one too."""
    passes = [verified(decoder, how, requests, nodes, 300 + 3 * i) for i in range(60)]
    return 1 + sum(len(set(ids.flatten().tolist())) for ids in passes) / len(passes)


@pytest.mark.parametrize("how", ROUTINGS)
def test_each_routing_has_tokens_of_its_own_whatever_was_asked_before(
    decoder: Decoder, how: Routing
) -> None:
    for before in ROUTINGS:
        streams(decoder, before, "decode", [3], [300], [DUMMY])
    found = streams(decoder, how, "decode", [3], [300], [DUMMY])
    assert torch.equal(found, streams(Decoder(), how, "decode", [3], [300], [DUMMY]))


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder()


@pytest.mark.parametrize(("requests", "rows"), [(1, 4), (2, 8), (8, 32)])
def test_evenly_a_pass_reaches_as_many_as_chance_says(
    decoder: Decoder, requests: int, rows: int
) -> None:
    expected = 1 + EXPERTS * (1 - (1 - TOP_K / EXPERTS) ** rows)
    assert reached(decoder, "uniform", requests, 4) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("how", ROUTINGS)
def test_text_reaches_fewer_and_the_page_says_how_many(decoder: Decoder, how: Routing) -> None:
    found = [reached(decoder, how, requests, 4) for requests in (1, 2, 8)]
    row = re.search(rf"^\| `{how}` \| ([^|]*) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert row is not None
    assert found == pytest.approx([float(count) for count in row[1].split(", ")], abs=0.6)
    evenly = [reached(decoder, "uniform", requests, 4) for requests in (1, 2, 8)]
    if how == "text":
        assert all(0.6 * most < one < 0.96 * most for one, most in zip(found, evenly, strict=True))


def test_of_eight_experts_neighbours_of_text_share_the_first_choice_more_often_than_by_chance(
    decoder: Decoder,
) -> None:
    for how, low, high in (("uniform", 0.08, 0.17), ("text", 0.2, 0.32)):
        rows = list(range(256, 256 + 1200))
        entered = torch.cat(
            [streams(decoder, how, "decode", [3], [p], [DUMMY]) for p in rows]  # type: ignore[arg-type]
        )
        first = (entered @ decoder.router[:8].T).argmax(1)
        assert low < float((first[1:] == first[:-1]).float().mean()) < high


@pytest.mark.parametrize("how", ROUTINGS)
def test_a_row_has_its_experts_whatever_runs_beside_it(decoder: Decoder, how: Routing) -> None:
    verify = streams(
        decoder, how, "verify", [4, 9], [50, 51, 52, 300, 301, 302], [DUMMY, 8, 9, DUMMY, 8, 9]
    )
    decoded = streams(decoder, how, "decode", [9, 2, 4], [302, 50, 51], [9, DUMMY, 8])
    assert torch.equal(decoded[0], verify[5])
    assert torch.equal(decoded[2], verify[1])
    assert len({tuple(row) for row in verify.tolist()}) == 6, "every row is one of its own"
    siblings = streams(decoder, how, "verify", [4], [50, 51, 51], [DUMMY, 8, 77])
    assert not torch.equal(siblings[1], siblings[2])


def test_a_prefill_and_what_brings_its_own_embeddings_are_left_alone(decoder: Decoder) -> None:
    entered = streams(decoder, "uniform", "extend", [1], [0, 1], [70, 80])
    assert torch.equal(entered, decoder.embed_tokens(torch.tensor([70, 80])))
    own = torch.ones(1, WIDTH)
    batch = SimpleNamespace(forward_mode=Mode("decode"), req_pool_indices=torch.tensor([1]))
    at = torch.tensor([3])
    seen = routing.hook("text").replacement(lambda *given: given[-1], decoder, at, at, batch, own)
    assert seen is own


def test_words_are_as_frequent_as_the_law_says() -> None:
    evenly = routing.drawn_tokens(VOCABULARY, "uniform").bincount()
    text = routing.drawn_tokens(VOCABULARY, "text").bincount()
    assert int(evenly.max()) < 10
    total = sum(1 / (r + 2.7) for r in range(1, VOCABULARY))
    wanted = 65536 / total / 3.7
    assert float(text.max()) == pytest.approx(wanted, rel=0.1)
    assert int(evenly[:1024].sum()) == int(text[:1024].sum()) == 0


def test_it_goes_with_simulated_acceptance(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    applied: list[str] = []
    monkeypatch.setattr(contract, "require", lambda parts: None)
    monkeypatch.setattr(
        overlay_hooks, "apply", lambda table: applied.extend(hook.target for hook in table)
    )
    AcceptLength.create(tmp_path / "number")
    monkeypatch.setenv(environment.SIMULATE, str(tmp_path / "number"))
    monkeypatch.setenv(environment.ROUTING, "text")
    plugin.register()
    assert applied[-2:] == [simulate.SAMPLE, routing.FORWARD]
    monkeypatch.setenv(environment.ROUTING, "skewed")
    with pytest.raises(SystemExit, match="ROUTING=skewed: not one of uniform, text"):
        plugin.register()
    with pytest.raises(UserError, match="not one of"):
        routing.parse("dummy")
