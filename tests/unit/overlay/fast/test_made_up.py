"""With how many requests the check at start runs which stages: those with which they will serve."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import made_up, selfcheck
from sglang_qwen3next_eagle3.overlay.fast.dispatch import ROWS, FastPath, most_rows
from sglang_qwen3next_eagle3.overlay.fast.selfcheck import Deviation


class Layer:
    def __init__(self, number: int, stages: frozenset[str]) -> None:
        self.number, self.stages = number, stages
        self.mixer = "attention" if number == 3 else "gdn"

    def with_stages(self, stages: frozenset[str]) -> "Layer":
        return Layer(self.number, stages)


Seen = list[tuple[int, int, str]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """(rows, layer, stage) of everything that was compared."""
    compared: Seen = []

    @contextmanager
    def passes(path: Any, runner: Any, rows: int, requests: int = 2, only: Any = None) -> Any:
        count = len(made_up.lengths_of(runner, rows, requests))
        yield SimpleNamespace(requests=count, nodes=runner.nodes or 1), None

    def layer_at(layer: Layer, at: Any, states: Any) -> list[Deviation]:
        rows = at.requests * at.nodes
        compared.extend((rows, layer.number, stage) for stage in sorted(layer.stages))
        return [
            Deviation(layer.number, stage, "mixed", 0.0, 0.0)  # type: ignore[arg-type]
            for stage in layer.stages
        ]

    def head_at(path: Any, at: Any) -> list[Deviation]:
        compared.append((at.requests * at.nodes, -1, "lm_head"))
        return []

    monkeypatch.setattr(selfcheck, "made_up", passes)
    monkeypatch.setattr(selfcheck.ranks, "of_all", lambda own: [own])
    monkeypatch.setattr(selfcheck, "_layer", layer_at)
    monkeypatch.setattr(selfcheck, "_head", head_at)
    monkeypatch.setattr(selfcheck, "_states", lambda *_: [])
    monkeypatch.setattr(made_up, "draft_tokens", lambda runner: runner.nodes)
    monkeypatch.setattr(selfcheck, "draft_tokens", lambda runner: runner.nodes)
    monkeypatch.setattr(made_up, "target_room", lambda runner: runner.room)
    monkeypatch.setattr(variants, "arguments_of", lambda runner: runner.arguments)
    return compared


def target(nodes: int | None, pool: int = 64, batches: list[int] | None = None) -> Any:
    return SimpleNamespace(
        nodes=nodes, room=made_up.Room(pool, 65536, 4096),
        req_to_token_pool=SimpleNamespace(size=pool),
        arguments=SimpleNamespace(
            cuda_graph_config=SimpleNamespace(decode=SimpleNamespace(bs=batches))
        ),
    )  # fmt: skip


def path_of(nodes: int | None, **room: int) -> FastPath:
    """A path with the stages that have room for a request, as `preparation` builds it."""
    kernels: Any = SimpleNamespace(room=room, peers=None)
    stages = {stage for stage in ("dense", "moe") if ROWS[stage] >= (nodes or 1)}  # type: ignore[index]
    layers: Any = {
        number: Layer(number, frozenset({*stages, "attention" if number == 3 else "gdn"}))
        for number in range(4)
    }
    head = object() if ROWS["lm_head"] >= (nodes or 1) else None
    return FastPath(kernels, layers, head, device="cpu")


@pytest.mark.parametrize("nodes", [None, 2, 4, 6, 8, 9, 16, 32, 40])
def test_nothing_is_compared_with_more_rows_than_it_serves(seen: Seen, nodes: int | None) -> None:
    path = path_of(nodes)
    found = selfcheck.compare(path, target(nodes))
    assert not [finding for finding in found if finding.off]
    for rows, _, stage in seen:
        assert rows <= ROWS[stage], (rows, stage)  # type: ignore[index]
    assert {stage for _, _, stage in seen} == path.stages
    assert {(number, "gdn") for number in range(3)} <= {(n, stage) for _, n, stage in seen}


@pytest.mark.parametrize(
    ("nodes", "rows"),
    [
        (None, {1, 2, 4, 8, 16, 32}),
        (4, {4, 8, 16, 32}),
        (6, {6, 12, 24}),
        (8, {8, 16, 32}),
    ],
)
def test_every_number_of_rows_that_has_kernels_of_its_own_is_compared(
    seen: Seen, nodes: int | None, rows: set[int]
) -> None:
    selfcheck.compare(path_of(nodes), target(nodes))
    assert {count for count, number, stage in seen if stage == "moe"} == rows
    more = {count for count, number, stage in seen if stage == "attention"}
    assert {count for count in more if count <= 32} == rows
    few = {count for count in rows if count <= ROWS["lm_head"]}
    assert {count for count, _, stage in seen if stage == "lm_head"} == few


def test_what_is_not_captured_and_what_has_no_room_is_not_compared(seen: Seen) -> None:
    selfcheck.compare(path_of(4), target(4, batches=[1, 2]))
    assert {count for count, *_ in seen} == {4, 8}
    seen.clear()
    selfcheck.compare(path_of(4), target(4, pool=4))
    assert {count for count, *_ in seen} == {4, 8, 16}
    seen.clear()
    selfcheck.compare(path_of(4, attention=8), target(4))
    assert {count for count, _, stage in seen if stage == "attention"} == {4, 8}
    assert {count for count, _, stage in seen if stage == "gdn"} == {4, 8, 16, 32, 64, 128}
    assert most_rows() == 128


@pytest.mark.parametrize("nodes", [17, 32, 33, 48, 64, 65])
def test_several_requests_are_compared_where_attention_has_room_for_one(
    seen: Seen, nodes: int
) -> None:
    """With the longest contexts; the Gated DeltaNet has room, and a kernel of its own, for more."""
    selfcheck.compare(path_of(nodes, attention=max(32, nodes)), target(nodes))
    assert {count for count, _, stage in seen if stage == "attention"} == {nodes}
    served = {one * nodes for one in (1, 2, 4) if one * nodes <= 128}
    assert {count for count, _, stage in seen if stage == "gdn"} == served


def test_one_layer_stands_for_all_of_its_kind() -> None:
    path = path_of(4)
    finding = Deviation(0, "moe", "experts", error="ValueError: no registers left", requests=4)
    selfcheck.drop(path, finding)
    assert "moe" not in path.stages
    assert path.stages >= {"dense", "gdn", "attention"}
    assert "with requests: 4, where it raised ValueError" in str(finding)


def test_states_of_one_layer_are_the_pools_own() -> None:
    conv, temporal = torch.randn(3, 5, 4), torch.randn(3, 5, 2)
    cache = SimpleNamespace(conv=[conv], temporal=temporal)
    pool = SimpleNamespace(mamba_pool=SimpleNamespace(mamba_cache=cache))
    before = conv.clone(), temporal.clone()
    states = made_up.States(pool, [1, 2], [0, 0], only=1)
    states.restore()
    changed = (conv != before[0]).flatten(2).any(-1)
    assert changed.nonzero().tolist() == [[1, 1], [1, 2]]
    states.empty()
    assert torch.equal(conv, before[0])
    assert torch.equal(temporal, before[1])
