"""Which pass is ours, and who commits what it left; with batches and backends made up."""

import sys
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast import dispatch, selfcheck
from sglang_qwen3next_eagle3.overlay.fast.boundaries import Pairs
from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath
from sglang_qwen3next_eagle3.overlay.fast.kernels.tree import chain_paths
from sglang_qwen3next_eagle3.overlay.fast.selfcheck import Deviation
from sglang_qwen3next_eagle3.overlay.fast.stages import PATH, STAGES
from sglang_qwen3next_eagle3.overlay.fast.trials import TRY


class Layer:
    boundaries = Pairs()

    def __init__(self, stages: frozenset[str] = frozenset({"dense", "moe", "gdn"})) -> None:
        self.stages = stages

    def with_stages(self, stages: frozenset[str]) -> "Layer":
        return Layer(stages)

    def forward(self, *arguments: Any) -> tuple[str, Any]:
        return ("ours", arguments)


class Committed:
    peers = None
    room: Mapping[str, int] = {"gdn": 128, "attention": 32}
    chain_paths = staticmethod(chain_paths)

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def gdn_commit(self, *arguments: Any) -> None:
        self.calls.append(arguments)


def backend(requests: int) -> Any:
    metadata = SimpleNamespace(
        mamba_cache_indices=torch.arange(requests, dtype=torch.int32), retrieve_next_token=None
    )
    pool = SimpleNamespace(mamba_pool=SimpleNamespace(mamba_cache="states"))
    linear = SimpleNamespace(forward_metadata=metadata, req_to_token_pool=pool)
    return SimpleNamespace(linear_attn_backend=linear)


def decode(requests: int, mode: str = "decode") -> Any:
    forward_mode = SimpleNamespace(
        is_decode=lambda: mode == "decode", is_target_verify=lambda: mode == "verify"
    )
    return SimpleNamespace(
        forward_mode=forward_mode,
        batch_size=requests,
        input_ids=torch.zeros(requests, dtype=torch.int64),
        spec_info=None,
    )


@pytest.fixture
def path() -> FastPath:
    layers: Any = {0: Layer(), 1: Layer(), 3: Layer()}
    return FastPath(Committed(), layers, device="cpu")  # type: ignore[arg-type]


def test_decoding_up_to_the_limit_is_ours(path: FastPath) -> None:
    at = path.prepare(decode(128), backend(128))
    assert at is not None
    assert (at.requests, at.nodes, at.verify) == (128, 1, False)
    assert at.paths.tolist() == chain_paths(128, 1, "cpu").tolist()
    assert path.prepare(decode(129), backend(129)) is None


def test_whether_drafts_are_trees_is_what_the_metadata_says(path: FastPath) -> None:
    links = torch.full((2, 1), -1)

    def tree_paths(next_token: torch.Tensor, next_sibling: torch.Tensor, out: torch.Tensor) -> None:
        out.zero_()

    path.kernels.tree_paths = tree_paths  # type: ignore[method-assign]
    given = backend(2)
    chain = path.prepare(decode(2), given)
    given.linear_attn_backend.forward_metadata.retrieve_next_token = links
    given.linear_attn_backend.forward_metadata.retrieve_next_sibling = links
    tree = path.prepare(decode(2), given)
    assert chain is not None
    assert tree is not None
    assert (chain.tree, tree.tree) == (False, True)


def test_prefill_is_stocks(path: FastPath) -> None:
    assert path.prepare(decode(4, "extend"), backend(4)) is None


def test_paths_of_one_shape_are_made_once(path: FastPath) -> None:
    first, second = (path.prepare(decode(n), backend(n)) for n in (8, 3))
    assert first is not None
    assert second is not None
    # The same memory: graphs of all sizes keep it.
    assert first.paths.data_ptr() == second.paths.data_ptr()


def test_a_layer_outside_a_pass_and_a_layer_without_stages_are_stocks(path: FastPath) -> None:
    arguments = {"hidden_states": "h", "residual": "r", "captured_last_layer_outputs": "c"}
    assert dispatch.forward_layer(path, 1, lambda: "stock", arguments) == "stock"
    path.current = path.prepare(decode(2), backend(2))
    assert dispatch.forward_layer(path, 2, lambda: "stock", arguments) == "stock"
    who, given = dispatch.forward_layer(path, 3, lambda: "stock", arguments)
    assert (who, given) == ("ours", (path.current, "h", "r", "c"))


@pytest.mark.parametrize(
    ("rows", "stages"),
    [
        (1, {"dense", "moe", "gdn"}),
        (8, {"dense", "moe", "gdn"}),
        (32, {"dense", "moe", "gdn"}),
        (33, {"gdn"}),
    ],
)
def test_beyond_its_rows_a_stage_is_stocks(path: FastPath, rows: int, stages: set[str]) -> None:
    path.lm_head = object()
    path.current = path.prepare(decode(rows), backend(rows))
    layer = path.layer(1)
    assert layer is not None
    assert layer.stages == stages
    path.layers[1] = Layer(frozenset({"dense"}))  # type: ignore[assignment]
    assert (path.layer(1) is None) is (rows == 33)
    assert path.take_logits() is (rows <= 8)


@pytest.mark.parametrize("room", [64, 32], ids=["fp8 on one GPU", "bf16, or several GPUs"])
def test_more_rows_on_trial(path: FastPath, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setenv(TRY, "rows")
    path.kernels.room = {"gdn": 128, "attention": 128, "dense": room, "moe": room}
    for rows, stages in ((room, {"dense", "moe", "gdn"}), (room + 1, {"gdn"})):
        path.current = path.prepare(decode(rows), backend(rows))
        layer = path.layer(1)
        assert layer is not None
        assert layer.stages == stages


def test_lifted_limits_are_those_of_the_kernels(
    path: FastPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As measuring scripts lift them: what is right at 100 rows is not what is fast there."""
    monkeypatch.setattr(dispatch, "ROWS", dispatch.LIMITS)
    assert path.prepare(decode(129), backend(129)) is None
    path.current = path.prepare(decode(100), backend(100))
    layer = path.layer(1)
    assert layer is not None
    assert layer.stages == {"gdn"}
    path.current = path.prepare(decode(64), backend(64))
    layer = path.layer(1)
    assert layer is not None
    assert layer.stages == {"dense", "moe", "gdn"}


def test_a_commit_belongs_to_whoever_ran_the_verify(path: FastPath) -> None:
    theirs: list[Any] = []

    def original(*arguments: Any, **named: Any) -> None:
        theirs.append(named["last_correct_step_indices"].tolist())

    ours, other = backend(4), backend(4)
    at = path.prepare(decode(4), ours)
    assert at is not None
    slots = ours.linear_attn_backend.forward_metadata.mamba_cache_indices
    path._verified[slots.data_ptr()] = at
    last = torch.tensor([0, 2, 1])
    for which in (other, ours):
        dispatch.commit(
            path,
            original,
            which,
            last_correct_step_indices=last,
            mamba_track_indices=None,
            mamba_steps_to_track=None,
            model=None,
        )
    assert theirs == [[0, 2, 1]]
    ((pass_, states, committed, nodes, *tracked),) = path.kernels.calls  # type: ignore[attr-defined]
    assert pass_ is at
    assert states == "states"
    # Padding is not committed.
    assert committed.tolist() == [0, 1, 2]
    assert nodes is last
    assert tracked == [None, None]
    path.current = at
    path.end()
    assert path.verified(ours) is None


def test_the_stages_of_a_path_are_those_of_its_layers_and_head(path: FastPath) -> None:
    assert path.stages == {"dense", "moe", "gdn"}
    path.lm_head = object()
    assert path.stages == {"dense", "moe", "gdn", "lm_head"}
    assert path.stages <= set(STAGES)


@pytest.mark.parametrize(
    ("typical", "worst", "off"),
    [(0.0, 0.0, False), (0.01, 0.2, False), (0.2, 0.2, True), (0.01, 0.6, True),
     (float("nan"), 0.0, True), (0.0, float("nan"), True), (float("inf"), float("inf"), True)],
)  # fmt: skip
def test_what_is_off(typical: float, worst: float, off: bool) -> None:
    assert Deviation(1, "dense", "stream", typical, worst).off is off


def test_experts_may_be_chosen_otherwise_in_one_row() -> None:
    assert not Deviation(1, "moe", "experts", 0.01, 0.6).off


def test_what_raised_is_off_and_told() -> None:
    finding = Deviation(4, "dense", "all", error="ValueError: 7 rows")
    assert finding.off
    assert str(finding) == "all of layer 4, where it raised ValueError: 7 rows"


def test_a_stage_is_dropped_where_it_is_off_and_gdn_everywhere(path: FastPath) -> None:
    selfcheck.drop(path, Deviation(1, "dense", "stream", 1.0, 1.0))
    assert [sorted(layer.stages) for layer in path.layers.values()] == [
        ["dense", "gdn", "moe"], ["gdn", "moe"], ["dense", "gdn", "moe"],
    ]  # fmt: skip
    selfcheck.drop(path, Deviation(0, "gdn", "state", 1.0, 1.0))
    assert path.stages == {"dense", "moe"}


def test_each_backend_whose_verify_was_ours_finds_who_commits(
    path: FastPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of the states of adaptive drafting, which are made behind the first one."""
    context = ModuleType("sglang.srt.model_executor.forward_context")
    runner = ModuleType("sglang.srt.model_executor.runner")
    captures, others = True, [backend(n) for n in (2, 3, 200)]
    context.get_attn_backend = lambda: others[0]  # type: ignore[attr-defined]
    runner.get_is_capture_mode = lambda: captures  # type: ignore[attr-defined]
    for module in (context, runner):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    path.begin(decode(2))
    assert others[0].__dict__[PATH] is path
    captures = False
    del others[0]
    path.begin(decode(3))
    assert PATH not in others[0].__dict__
    captures = True
    path.begin(decode(200))
    assert PATH not in others[0].__dict__
