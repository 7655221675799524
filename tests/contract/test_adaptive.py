"""What of SGLang's adaptive drafting is ours, against the installed SGLang."""

import inspect
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_qwen3next_eagle3.overlay import hooks
from sglang_qwen3next_eagle3.overlay.adaptive import hooks as adaptive
from sglang_qwen3next_eagle3.overlay.adaptive.policy import CostedSteps
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates

STATES = DraftStates(
    candidates={1: (0, 1, 3), 8: (0, 1)},
    cycle_ms={1: {0: 10.0, 1: 12.0, 3: 14.0}, 8: {0: 10.0, 1: 40.0}},
    shares=(0.6, 0.6, 0.6),
    start=3,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "states.json"
    path.write_text(STATES.text(), encoding="utf-8")
    return path


@pytest.fixture
def table() -> dict[str, hooks.Hook]:
    return {hook.target: hook for hook in adaptive.hooks()}


def test_sglang_s_controller_asks_us(file: Path, table: dict[str, hooks.Hook]) -> None:
    from sglang.srt.speculative.adaptive_spec_params import AdaptiveSpeculativeParams

    ours = hooks.wrap(AdaptiveSpeculativeParams, table[adaptive.PARAMS])
    params = ours(initial_steps=3, cfg_path=str(file))
    assert isinstance(params, CostedSteps)
    assert params.candidate_steps == [0, 1, 3]
    params.set_cuda_graph_bs([1, 2, 4, 8])
    assert params.cuda_graph_bs_for_step(3) == [1, 2, 4]
    assert params.get_steps_for_batch(1) == 3
    # It runs in the graph of 8, for which no 3 steps are captured.
    assert params.get_steps_for_batch(5) in (0, 1)


@pytest.mark.parametrize("content", ['{"1": {"candidate_steps": [1, 3]}}', None])
def test_without_costs_sglang_chooses(
    tmp_path: Path, table: dict[str, hooks.Hook], content: str | None
) -> None:
    from sglang.srt.speculative.adaptive_spec_params import AdaptiveSpeculativeParams

    path = None
    if content is not None:
        path = tmp_path / "theirs.json"
        path.write_text(content, encoding="utf-8")
    ours = hooks.wrap(AdaptiveSpeculativeParams, table[adaptive.PARAMS])
    params = ours(initial_steps=3, cfg_path=None if path is None else str(path))
    assert type(params) is AdaptiveSpeculativeParams


def test_a_result_is_of_the_steps_that_it_had(file: Path, table: dict[str, hooks.Hook]) -> None:
    """Read while the next cycle is under way, with other steps."""
    from sglang.srt.speculative.adaptive_spec_params import AdaptiveSpeculativeParams

    make = hooks.wrap(AdaptiveSpeculativeParams, table[adaptive.PARAMS])
    params = make(initial_steps=3, cfg_path=str(file))
    params.set_cuda_graph_bs(None)

    def read(processor: object, result: SimpleNamespace, batch: object) -> None:
        params.on_verify_complete(result.accepted, 1)

    resolve = hooks.wrap(read, table[adaptive.RESOLVE])
    batch = SimpleNamespace(reqs=[SimpleNamespace(rid="a")])
    # Fewer than there are to the first trial.
    for _ in range(40):
        resolve(None, SimpleNamespace(speculative_num_draft_tokens=4, accepted=[0]), batch)
    assert params.get_steps_for_batch(1) == 0
    for _ in range(200):
        params.get_steps_for_batch(1)
        resolve(None, SimpleNamespace(speculative_num_draft_tokens=4, accepted=[3]), batch)
    assert params.get_steps_for_batch(1) == 3
    # Outside of a result nothing is known of its steps.
    for _ in range(200):
        params.on_verify_complete([0], 1)
    assert params.get_steps_for_batch(1) == 3


def test_requests_are_new_in_their_first_result(
    file: Path, table: dict[str, hooks.Hook], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sglang.srt.speculative.adaptive_spec_params import AdaptiveSpeculativeParams

    params = hooks.wrap(AdaptiveSpeculativeParams, table[adaptive.PARAMS])(
        initial_steps=3, cfg_path=str(file)
    )
    told: list[int] = []
    monkeypatch.setattr(params._policy, "observe", lambda correct, steps, new: told.append(new))

    def read(processor: object, result: SimpleNamespace, batch: SimpleNamespace) -> None:
        params.on_verify_complete([0] * len(batch.reqs), len(batch.reqs))

    resolve = hooks.wrap(read, table[adaptive.RESOLVE])
    for rids in ("a", "ab", "ab", "b", "", "b", "bcd", "e"):
        requests = [SimpleNamespace(rid=rid) for rid in rids]
        result = SimpleNamespace(speculative_num_draft_tokens=4)
        resolve(None, result, SimpleNamespace(reqs=requests))
    assert told == [1, 1, 0, 0, 0, 1, 2, 1]


def test_a_draft_extend_is_captured_for_the_tokens_of_its_state(
    table: dict[str, hooks.Hook], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the server's arguments, which say what it began with, a state changes nothing."""
    from sglang.srt import runtime_context
    from sglang.srt.speculative import eagle_draft_extend_cuda_graph_runner as runner

    if "server_args" not in inspect.signature(runner.resolve_num_tokens_per_req).parameters:
        pytest.skip("this SGLang reads them where a state says them")
    monkeypatch.setattr(
        runtime_context, "get_spec", lambda: SimpleNamespace(speculative_num_draft_tokens=2)
    )
    asked = hooks.wrap(runner.resolve_num_tokens_per_req, table[adaptive.WIDTH])
    arguments = SimpleNamespace(speculative_num_draft_tokens=8, speculative_eagle_topk=1)
    assert runner.resolve_num_tokens_per_req(phase="draft_extend", server_args=arguments) == 8
    assert asked(phase="draft_extend", server_args=arguments) == 2
    assert asked(phase="draft_decode", server_args=arguments) == 1


def test_of_all_switches_sglang_keeps_the_last(table: dict[str, hooks.Hook]) -> None:
    from sglang.srt.runtime_context import get_context

    log = get_context()._overrides_log
    before = list(log)
    try:
        log[:] = [("other", {"a": 1})]

        def switch(worker: object, state: int) -> None:
            log.append((adaptive.RESTORE, {"speculative_num_steps": state}))

        apply = hooks.wrap(switch, table[adaptive.APPLY])
        for state in range(5):
            apply(None, state)
        log.append(("another", {}))
        apply(None, 7)
        assert log == [
            ("other", {"a": 1}),
            ("another", {}),
            (adaptive.RESTORE, {"speculative_num_steps": 7}),
        ]
    finally:
        log[:] = before


def test_switches_are_told_of_once_in_a_while() -> None:
    now = [0.0]
    rare = adaptive.RareSwitches(30.0, lambda: now[0])

    def told(text: str) -> str | None:
        record = logging.LogRecord("worker", logging.INFO, "", 0, text, None, None)
        return record.getMessage() if rare.filter(record) else None

    assert told("Switch adaptive runtime state: steps 3 -> 0") is not None
    assert told("Switch adaptive runtime state: steps 0 -> 1") is None
    assert told("Capture draft decode CUDA graph begin.") is not None
    now[0] = 31.0
    said = told("Switch adaptive runtime state: steps 1 -> 3")
    assert said is not None
    assert said.endswith("1 -> 3 (1 switches since the last line)")
