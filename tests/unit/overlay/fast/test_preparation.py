"""Drafts with more tokens than the kernels of few rows have room for: the check at start must not
run them, as with several ranks a kernel that raises there ends the start."""

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import conditions, made_up, preparation
from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_TARGET, Wanted


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A target that verifies so many tokens."""
    arguments = SimpleNamespace(
        speculative_num_draft_tokens=request.param, load_format="auto", device="cuda"
    )
    monkeypatch.setattr(variants, "arguments_of", lambda _: arguments)
    for name in ("of_device", "of_server", "of_runner", "of_drafts"):
        monkeypatch.setattr(conditions, name, lambda *_: None)
    monkeypatch.setattr(preparation, "Kernels", lambda *_: None)
    monkeypatch.setattr(preparation, "build", lambda runner, kernels, stages: stages)
    return SimpleNamespace(
        spec_algorithm=SimpleNamespace(is_eagle=lambda: True), device="cuda", attn_backend=None,
        model=SimpleNamespace(model=None), speculative_num_draft_tokens=request.param,
    )  # fmt: skip


@pytest.mark.parametrize("nodes", [None, 1, 8, 16, 17, 32])
def test_requests_that_are_made_up_fit_into_the_kernels(nodes: int | None) -> None:
    requests = len(made_up.fitting(64, nodes))
    assert 1 <= requests * (nodes or 1) <= MAX_ROWS
    assert requests == (1 if (nodes or 1) > 16 else 2)
    assert len(made_up.fitting(1, nodes)) == 1


@pytest.mark.parametrize("runner", [32, 33, 128], indirect=True)
def test_stages_without_room_for_a_draft_are_not_checked(
    runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = runner.speculative_num_draft_tokens
    built: Any = preparation._unchecked(runner, Wanted(frozenset(OF_TARGET)))
    assert built == (set(OF_TARGET) if tokens == 32 else {"gdn", "attention"})
    line = f"dense stays with stock: it has room for 32 rows, a draft has {tokens} tokens"
    assert (line in caplog.text) == (tokens > 32)


@pytest.mark.parametrize("runner", [129], indirect=True)
def test_a_draft_that_no_stage_has_room_for_is_stocks(
    runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert preparation.prepare(runner, Wanted(frozenset(OF_TARGET))) is None
    assert "fast path off: it has room for 128 rows, a draft has 129 tokens" in caplog.text


@pytest.mark.parametrize("runner", [33], indirect=True)
def test_a_head_without_room_for_a_draft_is_stocks(
    runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert preparation.prepare_head(runner, Wanted(frozenset({"head"}))) is None
    assert "head stays with stock: it has room for 32 rows, a draft has 33 tokens" in caplog.text
