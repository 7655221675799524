import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import conditions
from sglang_qwen3next_eagle3.overlay.fast.conditions import Unsupported, block_scaled, weight_of
from sglang_qwen3next_eagle3.overlay.fast.exclusions import NEWER, SINGLE, SWITCHES


def server(**changed: Any) -> SimpleNamespace:
    usual = dict.fromkeys(("tp_size", *SINGLE), 1) | dict.fromkeys(SWITCHES, False)
    return SimpleNamespace(**{**usual, "moe_a2a_backend": "none", **changed})


def test_a_server_on_one_gpu_with_usual_flags() -> None:
    assert conditions.of_server(server()) is None


@pytest.mark.parametrize("name", SINGLE)
def test_other_parallelism(name: str) -> None:
    reason = conditions.of_server(server(**{name: 2}))
    assert reason == f"it knows tensor parallelism only, --{name.replace('_', '-')} is 2"


@pytest.mark.parametrize(
    ("ranks", "served"), [(1, True), (2, True), (3, False), (4, True), (8, False)]
)
def test_ranks_over_which_the_shapes_divide(ranks: int, served: bool) -> None:
    assert (conditions.of_server(server(tp_size=ranks)) is None) == served


@pytest.mark.parametrize("name", SWITCHES)
def test_flags_that_change_what_a_layer_computes(name: str) -> None:
    reason = conditions.of_server(server(**{name: True}))
    assert reason == f"it does not go with --{name.replace('_', '-')}"


@pytest.mark.parametrize("name", NEWER)
def test_flags_of_newer_releases(name: str) -> None:
    reason = conditions.of_server(server(**{name: True}))
    assert reason == f"it does not go with --{name.replace('_', '-')}"


def test_weights_that_are_not_there_at_the_check() -> None:
    assert conditions.of_server(server(startup_weight_load_mode="serial")) is None
    reason = conditions.of_server(server(startup_weight_load_mode="overlap"))
    assert "--startup-weight-load-mode overlap loads later" in str(reason)


def test_experts_elsewhere() -> None:
    assert "deepep" in str(conditions.of_server(server(moe_a2a_backend="deepep")))


def test_a_machine_without_a_gpu() -> None:
    assert conditions.of_device("cpu") == "it runs on NVIDIA GPUs only, this server runs on cpu"


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("SGLANG_ENABLE_ASYNC_ASSERT", True, True),
        ("SGLANG_INVARIANT_CHECK", 0, False),
        ("SGLANG_INVARIANT_CHECK", 1, True),
        ("SGLANG_INVARIANT_CHECK", 2, True),
    ],
)
def test_checks_of_rows_that_the_head_leaves_out(
    monkeypatch: pytest.MonkeyPatch, name: str, value: int, refused: bool
) -> None:
    arguments = SimpleNamespace(
        speculative_adaptive=False, speculative_use_rejection_sampling=False
    )
    monkeypatch.setattr(variants, "arguments_of", lambda _: arguments)
    worker = SimpleNamespace(draft_runner=SimpleNamespace(canary_manager=object()))
    usual = {"SGLANG_ENABLE_ASYNC_ASSERT": False, "SGLANG_INVARIANT_CHECK": 0} | {name: value}
    environment = ModuleType("sglang.srt.environ")
    environment.envs = SimpleNamespace(  # type: ignore[attr-defined]
        **{one: SimpleNamespace(get=lambda set_to=set_to: set_to) for one, set_to in usual.items()}
    )
    monkeypatch.setitem(sys.modules, "sglang.srt.environ", environment)
    wanted = f"{name} looks at rows that it leaves out"
    assert (conditions.of_drafts(worker) == wanted) == refused


def test_weights_in_bfloat16_have_no_scale() -> None:
    weight = torch.zeros(48, 64, dtype=torch.bfloat16)
    _, scale = weight_of(SimpleNamespace(weight=weight, bias=None), "dense")
    assert scale is None


def test_weights_in_blocks() -> None:
    weight = torch.zeros(5, 200, 256).to(torch.float8_e4m3fn)
    scale = torch.ones(5, 2, 2)
    assert block_scaled(weight, scale, "moe")[1] is not None


@pytest.mark.parametrize(
    ("weight", "scale"),
    [
        (torch.zeros(128, 128), None),
        (torch.zeros(128, 128).to(torch.float8_e4m3fn), None),
        (torch.zeros(128, 128).to(torch.float8_e4m3fn), torch.ones(1, 1, dtype=torch.bfloat16)),
        (torch.zeros(128, 128).to(torch.float8_e4m3fn), torch.ones(1, 4)),
        (torch.zeros(128, 256).to(torch.float8_e4m3fn)[:, ::2], torch.ones(1, 1)),
    ],
)
def test_other_weights_are_told_with_their_stage(
    weight: torch.Tensor, scale: torch.Tensor | None
) -> None:
    with pytest.raises(Unsupported) as error:
        block_scaled(weight, scale, "moe")
    assert error.value.stage == "moe"


def test_a_bias_is_not_the_kernels() -> None:
    module = SimpleNamespace(weight=torch.zeros(4, 4).bfloat16(), bias=torch.zeros(4))
    with pytest.raises(Unsupported, match="bias"):
        weight_of(module, "dense")


@pytest.mark.parametrize("of", [{}, {"weight": None}, {"qweight": torch.zeros(4, 4)}])
def test_a_layer_without_weights_of_a_known_kind_is_not_the_kernels(of: dict[str, Any]) -> None:
    """As GPTQ and AWQ leave it."""
    with pytest.raises(Unsupported, match="no weights in bfloat16 or FP8"):
        weight_of(SimpleNamespace(bias=None, **of), "dense")
