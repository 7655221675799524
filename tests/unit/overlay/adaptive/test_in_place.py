"""A verify of one token takes the decode step, and its commit copies what is tracked alone."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.adaptive import in_place

TRACKED = "sglang.kernels.ops.mamba.mamba_state_scatter_triton"


class Backend(SimpleNamespace):
    """SGLang's of the linear layers, and the one around it."""

    def __init__(self, slots: torch.Tensor, **changed: Any) -> None:
        super().__init__(
            forward_metadata=SimpleNamespace(
                mamba_cache_indices=slots, retrieve_parent_token=changed.get("parents")
            ),
            req_to_token_pool=SimpleNamespace(
                mamba2_layer_cache=lambda layer: SimpleNamespace(
                    replayssm_d=changed.get("ring"), replayssm_rawv=changed.get("raw")
                )
            ),
            decoded=[],
        )
        self._track_pools = lambda: changed.get("pools", ("windows", "states", 3))
        self.linear_attn_backend = self

    def forward_decode(self, layer: Any, forward_batch: Any, **of: Any) -> str:
        self.decoded.append((layer, forward_batch.mamba_track_mask, of))
        return "a decode step"


def batch(nodes: int = 1, verify: bool = True, ragged: Any = None) -> Any:
    return SimpleNamespace(
        forward_mode=SimpleNamespace(is_target_verify=lambda: verify),
        spec_info=SimpleNamespace(draft_token_num=nodes, ragged_verify_layout=ragged),
        mamba_track_mask="of a decode batch",
    )


LAYER = SimpleNamespace(layer_id=0)


def extend(backend: Backend, of: Any) -> str:
    told: str = in_place._extend(
        lambda *a, **k: "stock's", backend, layer=LAYER, forward_batch=of, mixed_qkv="qkv", a="a"
    )
    return told


def commit(backend: Backend, tracked: Any, steps: Any) -> str | None:
    told: str | None = in_place._commit(
        lambda *a, **k: "stock's", backend, last_correct_step_indices=torch.zeros(2),
        mamba_track_indices=tracked, mamba_steps_to_track=steps, model=None,
    )  # fmt: skip
    return told


def test_a_verify_of_one_token_is_a_decode_step_and_needs_no_commit() -> None:
    backend, served = Backend(torch.tensor([4, 7])), batch()
    assert extend(backend, served) == "a decode step"
    assert backend.decoded == [(LAYER, None, {"mixed_qkv": "qkv", "a": "a"})]
    assert served.mamba_track_mask == "of a decode batch"
    assert commit(backend, None, None) is None


def test_what_a_prefix_cache_tracks_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Any] = []
    theirs = ModuleType(TRACKED)
    theirs.track_mamba_states_all_layers = (  # type: ignore[attr-defined]
        lambda *args, **of: copied.append((args, of))
    )
    monkeypatch.setitem(sys.modules, TRACKED, theirs)
    backend = Backend(torch.tensor([4, 7, -1]))
    extend(backend, batch())
    assert commit(backend, torch.tensor([8, 9]), torch.tensor([-1, 0])) is None
    (((windows, states, slots, mask, places, requests), of),) = copied
    assert (windows, states, requests, of) == ("windows", "states", 2, {"check_freed_slots": True})
    # Of a padded batch only what is served.
    assert (slots.tolist(), mask.tolist(), places.tolist()) == ([4, 7], [False, True], [8, 9])


@pytest.mark.parametrize(
    ("changed", "of"),
    [
        ({}, batch(nodes=2)),
        ({}, batch(verify=False)),
        ({}, batch(ragged="lengths")),
        ({"parents": torch.zeros(1)}, batch()),
        ({"ring": torch.zeros(1)}, batch()),
        ({"raw": torch.zeros(1)}, batch()),
        ({"pools": None}, batch()),
    ],
)
def test_every_other_pass_is_stock_s(changed: dict[str, Any], of: Any) -> None:
    backend = Backend(torch.tensor([4, 7]), **changed)
    assert extend(backend, of) == "stock's"
    assert commit(backend, None, None) == "stock's"
    assert not backend.decoded


def test_slots_that_lie_where_others_did_are_those_of_the_last_pass() -> None:
    """Outside of graphs each pass has a buffer of its own, at an address that was used before."""
    backend = Backend(torch.tensor([4, 7]))
    extend(backend, batch())
    extend(backend, batch(nodes=4))
    assert commit(backend, None, None) == "stock's"
    # And of a graph that is replayed, by its buffer.
    extend(backend, batch())
    mine, backend.forward_metadata.mamba_cache_indices = (
        backend.forward_metadata.mamba_cache_indices, torch.tensor([1, 2]),
    )  # fmt: skip
    assert commit(backend, None, None) == "stock's"
    backend.forward_metadata.mamba_cache_indices = mine
    assert commit(backend, None, None) is None
