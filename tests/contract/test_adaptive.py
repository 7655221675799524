"""What of SGLang's adaptive drafting is ours, against the installed SGLang."""

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import hooks, variants
from sglang_qwen3next_eagle3.overlay.adaptive import deferral
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


SKIP = "SGLANG_SPEC_SKIP_ZERO_STEP_DRAFT_EXTEND"


def _head() -> Any:
    """An EAGLE3 head, as far as its cache asks."""
    from sglang.srt.models.llama_eagle3 import LlamaForCausalLMEagle3

    radix = SimpleNamespace(sliding_window_size=-1, k_scale=None, v_scale=None)
    layer = SimpleNamespace(self_attn=SimpleNamespace(attn=radix))
    head = object.__new__(LlamaForCausalLMEagle3)
    vars(head)["model"] = SimpleNamespace(layers=[layer], is_mrope_enabled=False)
    return head


@pytest.fixture
def zero_steps(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker of SGLang's whose extends can be put off, as far as it is asked."""
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
    from sglang.srt.speculative.eagle_worker_v2 import EAGLEWorkerV2

    host = SimpleNamespace(has_dp_attention=lambda: False)
    monkeypatch.setattr(variants, "host", lambda: host)
    monkeypatch.delenv(SKIP, raising=False)
    worker = object.__new__(EAGLEWorkerV2)
    config = SimpleNamespace(hidden_size=2048, dtype=torch.bfloat16)
    head = SimpleNamespace(
        model_config=config,
        canary_manager=None,
        model=_head(),
        token_to_kv_pool=object.__new__(MHATokenToKVPool),
    )
    pool = SimpleNamespace(req_to_token=torch.zeros(9, 1))
    vars(worker).update(
        server_args=SimpleNamespace(
            pp_size=1, enable_lora=None, enable_hierarchical_cache=False,
            enable_memory_saver=False, disaggregation_mode="null",
            speculative_use_rejection_sampling=False,
        ),
        _draft_worker=SimpleNamespace(
            draft_runner=head, plan_stream=None, cuda_graph_runner_for_draft_extend=None
        ),
        _target_worker=SimpleNamespace(
            model_runner=SimpleNamespace(req_to_token_pool=pool, canary_manager=None)
        ),
        adaptive_controller=SimpleNamespace(params=object.__new__(CostedSteps)),
        topk=1, plan_stream=None,
    )  # fmt: skip
    return worker


def _with(**changed: Any) -> Callable[[Any], None]:
    """Of the worker's parts, by what they are called here, what is another."""

    def change(worker: Any) -> None:
        head, target = worker._draft_worker.draft_runner, worker._target_worker.model_runner
        parts = {"args": worker.server_args, "head": head, "target": target}
        parts |= {"config": head.model_config, "worker": worker, "pool": target.req_to_token_pool}
        inner = head.model.model
        parts |= {"inner": inner, "radix": inner.layers[0].self_attn.attn}
        for name, value in changed.items():
            part, key = name.split("__")
            setattr(parts[part], key, value)

    return change


OF_THEIRS = SimpleNamespace(params="SGLang's own")


@pytest.mark.skipif(variants.has_layer_boundaries(), reason="extends are not put off with 0.5.23")
@pytest.mark.parametrize(
    ("change", "most", "said"),
    [
        (_with(), 8, "up to 8 cycles of 0 steps at once"),
        (_with(), 1, "in each cycle, with SGLANG_QWEN3NEXT_EAGLE3_DEFER=1"),
        (_with(pool__req_to_token=torch.zeros(1, 1).expand(4097, 1)), 8,
         "up to 5 cycles of 0 steps at once"),
        (_with(pool__req_to_token=torch.zeros(1, 1).expand(90000, 1)), 8,
         "in each cycle, with 90000 slots for requests"),
        (_with(head__token_to_kv_pool="another's"), 8, "in each cycle, with str"),
        (_with(radix__k_scale=torch.ones(())), 8, "in each cycle, with a scaled cache of the head"),
        (_with(radix__sliding_window_size=4095), 8, "attention slides a window"),
        (_with(inner__is_mrope_enabled=True), 8, "a head that rotates by three positions"),
        (_with(worker__adaptive_controller=OF_THEIRS), 8,
         "in each cycle, with steps that SGLang chooses"),
        (_with(worker__adaptive_controller=None), 8, "in each cycle, with steps that SGLang"),
        (_with(args__enable_lora=True), 8, "in each cycle, with --enable-lora"),
        (_with(target__canary_manager="one"), 8, "in each cycle, with a canary"),
        (_with(head__canary_manager="one"), 8, "in each cycle, with a canary"),
        (_with(inner__layers=[None, None]), 8, "with more layers of the head than one"),
        (_with(worker__topk=4), 8, "in each cycle, with a tree"),
    ],
)  # fmt: skip
def test_the_log_says_whether_extends_are_put_off(
    zero_steps: Any,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Any], None],
    most: int,
    said: str,
) -> None:
    change(zero_steps)
    kept = deferral.Deferral(most)
    with caplog.at_level(logging.INFO):
        room = [kept._room(1, zero_steps) for _ in range(2)]
    (line,) = (each for each in caplog.messages if "extends of the head" in each)
    assert said in line
    assert max(room) > 1 if "up to" in said else max(room) < 2


@pytest.mark.skipif(variants.has_layer_boundaries(), reason="extends are not put off with 0.5.23")
def test_where_sglang_leaves_extends_out_none_is_put_off(
    zero_steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never calls one, and what was to be kept would be nowhere."""
    monkeypatch.setenv(SKIP, "1")
    assert deferral.hindrance(zero_steps, 8) == SKIP
    monkeypatch.setenv(SKIP, "0")
    assert deferral.hindrance(zero_steps, 8) is None


@pytest.mark.skipif(variants.has_layer_boundaries(), reason="extends are not put off with 0.5.23")
def test_a_head_of_another_kind_is_named(zero_steps: Any) -> None:
    """MTP's, of which SGLang keeps the target's number of layers."""
    _with(head__model=SimpleNamespace(model="of MTP"))(zero_steps)
    assert deferral.hindrance(zero_steps, 8) == "a head that is not EAGLE3's"


def test_a_state_is_captured_for_as_many_accepted_tokens_as_it_has() -> None:
    """The buffers are those of the state before, which had more."""
    (hook,) = (each for each in adaptive.hooks() if each.target == adaptive.CAPTURE)
    names = "num_correct_drafts", "num_accept_tokens", "extend_seq_lens"
    buffers = SimpleNamespace(**{name: torch.full((3,), 5, dtype=torch.int32) for name in names})
    runner = SimpleNamespace(buffers=buffers, captured_req_width=2)

    def original(runner: Any, size: int) -> list[list[int]]:
        assert size == 3
        return [getattr(runner.buffers, name).tolist() for name in names]

    assert hook.replacement(original, runner, 3) == [[2, 2, 2]] * 3
