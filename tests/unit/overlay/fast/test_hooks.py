"""What stands around a capture says what it has put in place, and what is not known of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import contract, variants
from sglang_qwen3next_eagle3.overlay.fast import hooks, preparation
from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath
from sglang_qwen3next_eagle3.overlay.fast.stages import HEAD, PATH, STAGES, Wanted


@pytest.mark.parametrize("had", [True, False])
@pytest.mark.parametrize("release", ["0.5.17", "0.5.23"])
def test_what_no_gpu_has_run_with_a_release_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, release: str, had: bool
) -> None:
    monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed(release, Path()))
    had_of: Any = SimpleNamespace(lm_head=None, model=SimpleNamespace()) if had else None
    monkeypatch.setattr(preparation, "prepare", lambda runner, wanted: had_of)
    monkeypatch.setattr(preparation, "prepare_head", lambda worker, wanted: had_of)
    model = SimpleNamespace(model=SimpleNamespace(layers=[]))
    runner = SimpleNamespace(
        is_draft_worker=False, model=model, attn_backend=SimpleNamespace(),
        draft_runner=SimpleNamespace(model=SimpleNamespace()),
    )  # fmt: skip
    table = {hook.target: hook for hook in hooks.hooks(Wanted(frozenset(STAGES)))}
    for target in (hooks.CAPTURE_GRAPHS, hooks.CAPTURE_DRAFTS):
        table[target].replacement(lambda captured: None, runner)
    told = [record.message for record in caplog.records]
    of = ["its kernels", "the head's kernels"] if had and release == "0.5.23" else []
    said = "sglang-qwen3next-eagle3: fast path: {}: no GPU has run them with SGLang 0.5.23 yet"
    assert told == [said.format(what) for what in of]


@pytest.mark.parametrize("right", [True, False])
def test_a_further_state_of_adaptive_drafting_has_the_same_head(
    monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    model = SimpleNamespace()
    head: Any = SimpleNamespace(model=model)
    worker = SimpleNamespace(draft_runner=SimpleNamespace(model=model))
    made: list[Any] = []
    monkeypatch.setattr(contract, "not_on_gpus", lambda: None)
    monkeypatch.setattr(
        variants, "arguments_of", lambda _: SimpleNamespace(speculative_adaptive=True)
    )

    def prepare(worker: Any, wanted: Wanted) -> Any:
        made.append(head)
        return head

    monkeypatch.setattr(preparation, "prepare_head", prepare)
    monkeypatch.setattr(preparation, "serves_further", lambda *_: right)
    table = {hook.target: hook for hook in hooks.hooks(Wanted(frozenset(STAGES)))}
    captured: list[Any] = []

    def capture(worker: Any) -> None:
        captured.append(worker.draft_runner.model.__dict__.get(HEAD))

    for _ in range(2):
        table[hooks.CAPTURE_DRAFTS].replacement(capture, worker)
    assert made == [head]
    # Where it is not right for a state, that one is SGLang's, and the others are as they were.
    assert captured == [head, head if right else None]
    assert model.__dict__[HEAD] is head


@pytest.mark.parametrize("rows", [1, 9])
def test_logits_are_ours_in_the_pass_that_was_captured_and_not_behind_it(rows: int) -> None:
    """A prefill by prefill graphs enters no layer before its logits: what was captured last is not
    its pass, nor does our kernel have room for the rows of a prompt's logprobs."""
    kernels: Any = SimpleNamespace(room={}, peers=None, lm_head=lambda x, weight: "ours")
    lm_head = SimpleNamespace(weight=SimpleNamespace(data=None))
    path = FastPath(kernels, {}, lm_head, device="cpu")
    lm_head.__dict__[PATH] = path
    table = {hook.target: hook for hook in hooks.hooks(Wanted(frozenset(STAGES)))}

    def logits(hidden: torch.Tensor) -> Any:
        stock = table[hooks.LM_HEAD].replacement
        return stock(lambda *_: "stock", None, hidden, lm_head)

    at: Any = SimpleNamespace(requests=rows, nodes=1)
    path.current = at
    assert logits(torch.zeros(rows, 4)) == ("ours" if rows == 1 else "stock")
    assert logits(torch.zeros(1, 4)) == "stock"
    assert logits(torch.zeros(256, 4)) == "stock"
