"""Where the numbers are read, on stand-ins for SGLang's objects."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace as Fake
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay import contract, environment
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_TARGET
from sglang_qwen3next_eagle3.overlay.hooks import Hook
from sglang_qwen3next_eagle3.overlay.metrics import hooks
from sglang_qwen3next_eagle3.overlay.metrics.cycle_costs import Served
from sglang_qwen3next_eagle3.overlay.seams import seams
from sglang_qwen3next_eagle3.overlay.seams.seams import ON


@dataclass
class Seen:
    """What was counted."""

    reasons: list[str] = field(default_factory=list)
    cycles: list[tuple[list[int], int, int, int | None]] = field(default_factory=list)

    def count(self, reason: str) -> None:
        self.reasons.append(reason)

    def cycle(
        self, accepted: list[int], proposed: int, requests: int, number: int | None, now: float
    ) -> None:
        self.cycles.append((accepted, proposed, requests, number))


@pytest.fixture
def seen() -> Seen:
    return Seen()


def named(table: tuple[Hook, ...], ending: str) -> Hook:
    (found,) = (hook for hook in table if hook.target.endswith(ending))
    return found


def request(finished: bool = False, retracted: bool = False) -> Any:
    return Fake(finished=lambda: finished, is_retracted=retracted)


def test_requests_that_ended_or_were_retracted_before_are_not_counted(seen: Seen) -> None:
    """SGLang counts the same for a request's `spec_verify_ct`; an overlapped cycle still has
    those that ended in the cycle before."""
    resolve = named(hooks.scheduler_hooks(seen, seen), "._resolve_spec_v2_tokens").replacement
    batch = Fake(
        reqs=[request(), request(finished=True), request(), request(retracted=True)],
        forward_iter=41,
    )
    result = Fake(speculative_num_draft_tokens=8, num_correct_drafts_per_req_cpu=None)

    def original(processor: object, result: Any, batch: Any) -> str:
        result.num_correct_drafts_per_req_cpu = [2, 3, 0, 1]
        return "tokens"

    assert resolve(original, object(), result, batch) == "tokens"
    assert seen.cycles == [([2, 0], 7, 4, 41)]


def test_whether_a_request_goes_on_is_asked_before_sglang_counts(seen: Seen) -> None:
    state = {"finished": False}
    batch = Fake(
        reqs=[Fake(finished=lambda: state["finished"], is_retracted=False)], forward_iter=1
    )
    result = Fake(speculative_num_draft_tokens=4, num_correct_drafts_per_req_cpu=[1])
    resolve = named(hooks.scheduler_hooks(seen, seen), "._resolve_spec_v2_tokens").replacement
    resolve(lambda *_: state.update(finished=True), object(), result, batch)
    assert seen.cycles == [([1], 3, 1, 1)]


def test_without_speculation_no_cycle_is_looked_at(seen: Seen) -> None:
    (only,) = hooks.scheduler_hooks(None, seen)
    assert only.target.endswith(":Req.set_finish_with_abort")


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("._handle_parallel_sampling", "choices"),
        (".normalize_batch_and_arguments", "shape"),
        ("._validate_one_request", "length"),
        ("._create_tokenized_object", "field"),
    ],
)
def test_what_is_refused_is_counted_and_still_refused(seen: Seen, ending: str, reason: str) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("too much")

    around = named(hooks.tokenizer_hooks(seen), ending).replacement
    with pytest.raises(ValueError, match="too much"):
        around(refuse, object())
    assert around(lambda *_: "served", object()) == "served"
    assert seen.reasons == [reason]


def test_a_refusal_that_passes_two_of_them_is_counted_once_by_the_inner_one(seen: Seen) -> None:
    table = hooks.tokenizer_hooks(seen)
    inner = named(table, "._handle_parallel_sampling").replacement
    outer = named(table, ".normalize_batch_and_arguments").replacement

    def refuse(*_: object) -> None:
        raise ValueError("n must be a whole number")

    with pytest.raises(ValueError, match="whole number"):
        outer(lambda request: inner(refuse, request), object())
    assert seen.reasons == ["choices"]


def test_other_errors_are_no_refusals(seen: Seen) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    around = named(hooks.tokenizer_hooks(seen), "._create_tokenized_object").replacement
    with pytest.raises(RuntimeError):
        around(fail, object())
    assert seen.reasons == []


def test_the_scheduler_s_refusals_are_counted_but_not_what_a_client_gave_up(seen: Seen) -> None:
    told: list[str] = []
    abort = named(hooks.scheduler_hooks(None, seen), ".set_finish_with_abort").replacement
    abort(lambda request, message: told.append(message), object(), "the grammar does not compile")
    abort(lambda request, message: told.append(message), object(), error_msg="Aborted by AbortReq.")
    assert seen.reasons == ["scheduler"]
    assert told == ["the grammar does not compile", "Aborted by AbortReq."]


def scheduler(
    enable_metrics: bool = True, reports: bool = True, model_type: str = "qwen3_next"
) -> Any:
    return Fake(
        metrics_reporter=Fake(enable_metrics=enable_metrics, is_stats_logging_rank=reports),
        model_config=Fake(hf_config=Fake(model_type=model_type)),
    )


@pytest.mark.parametrize(
    "made",
    [
        scheduler(enable_metrics=False),
        scheduler(reports=False),
        scheduler(model_type="llama"),
    ],
)
def test_without_metrics_on_another_rank_and_for_another_target_nothing_is_hooked(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(table: object) -> None:
        raise AssertionError("hooked")

    monkeypatch.setattr(hooks, "apply", refuse)
    entry = named(hooks.ENTRIES, ".init_metrics_reporter").replacement
    called: list[object] = []
    entry(lambda one, *_: called.append(one), made, 0, 0, None)
    assert called == [made]


def test_a_server_without_metrics_counts_no_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "apply", lambda table: pytest.fail("hooked"))
    entry = named(hooks.ENTRIES, ".init_metric_collector_watchdog").replacement
    entry(lambda manager: None, Fake(enable_metrics=False))


def test_a_release_whose_source_differs_is_served_without_our_metrics(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def differs(*_: object) -> None:
        raise UserError("SGLang 0.5.17: Scheduler.run_batch is not what this package hooks")

    monkeypatch.setattr(
        contract,
        "installed_sglang",
        lambda: contract.Installed("0.5.17", None),  # type: ignore[arg-type]
    )
    monkeypatch.setattr(contract, "require", differs)
    assert not hooks._is_ours(scheduler().model_config)
    assert "without our metrics" in caplog.text
    assert "run_batch" in caplog.text


WHOLE = frozenset({*OF_TARGET, "head"})
EVERY = frozenset(ON)
MEASURED = "gpu=H200 tp=1 weights=fp8 seams=off 3,4,8 1:10/6; gpu=H200 tp=1 weights=fp8 "
MEASURED += "fast=on,head seams=on 3,4,8 1:5/3"
H200 = Served((3, 4, 8), WHOLE, EVERY, 1, "NVIDIA H200", "fp8")


@pytest.mark.parametrize(
    ("costs", "served", "used", "told"),
    [
        ("3,4,8 1:10/6", Served((3, 4, 8)), 10, ""),
        ("3,4,8 1:10/6", Served((5, 1, 6)), None, "the tree (3, 4, 8), and (5, 1, 6) is served"),
        ("3,4,8 1:10/6", H200, None, "of SGLang's kernels, and the fast path is on"),
        ("fast 3,4,8 1:10/6", Served((3, 4, 8)), None, "they are of the fast path, and it is off"),
        ("3,4,8 1:10/6; fast 3,4,8 1:5/3", H200, 5, ""),
        ("3,4,8 1:10/6; fast 3,4,8 1:5/3", Served((3, 4, 8)), 10, ""),
        # Of a stage that was given back, of no head, they are others.
        ("fast 3,4,8 1:5/3", replace(H200, fast=WHOLE - {"moe"}), None, "moe is SGLang's"),
        ("fast 3,4,8 1:5/3", replace(H200, fast=WHOLE - {"head"}), None, "head is SGLang's"),
        ("fast 3,4,8 1:5/3", replace(H200, fast=WHOLE - {"head"}, eagle3=False), 5, ""),
        ("fast=dense 3,4,8 1:5/3", replace(H200, fast=frozenset({"dense"})), 5, ""),
        ("fast=dense 3,4,8 1:5/3", H200, None, "fast=dense, and attention,dense,gdn,head,lm_head"),
        (MEASURED, H200, 5, ""),
        (MEASURED, replace(H200, fast=frozenset(), seams=frozenset()), 10, ""),
        (MEASURED, replace(H200, ranks=2), None, "they are of tp=1, and 2 is served"),
        (MEASURED, replace(H200, weights="bf16"), None, "of weights=fp8, and bf16 is served"),
        (
            MEASURED,
            replace(H200, gpu="NVIDIA H100 80GB HBM3"),
            None,
            "they are of gpu=H200, and H100_80GB_HBM3 is served",
        ),
        (MEASURED, replace(H200, gpu="NVIDIA H200 NVL"), None, "and H200_NVL is served"),
        (MEASURED, replace(H200, seams=frozenset()), None, "they are of seams=on, and off is"),
        (MEASURED, replace(H200, fast=frozenset()), None, "they are of seams=off, and chain,"),
        (
            MEASURED,
            replace(H200, fast=frozenset(), seams=frozenset(), ranks=4),
            None,
            "they are of tp=1, and 4 is served",
        ),
    ],
)
def test_costs_are_used_for_servers_of_the_kind_that_they_were_measured_with(
    costs: str, served: Served, used: int | None, told: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv(environment.CYCLE_COSTS, costs)
    found = hooks._costs(served)
    assert (None if found is None else found.cycle[1]) == (used and pytest.approx(used / 1000))
    assert told in caplog.text
    assert bool(caplog.text) == (used is None)


def test_what_a_server_came_to_serve_with_is_read_off_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(seams, "_serving", frozenset)
    config = Fake(quantization_config={"quant_method": "fp8"})
    made = Fake(
        server_args=Fake(
            speculative_num_steps=3,
            speculative_eagle_topk=4,
            speculative_num_draft_tokens=8,
            tp_size=1,
        ),
        model_config=Fake(hf_config=config),
        spec_algorithm=Fake(is_eagle3=lambda: True),
    )
    assert hooks._served(made, WHOLE) == replace(H200, seams=frozenset())
    seams.serve(lambda: frozenset(ON))
    assert hooks._served(made, WHOLE) == H200
    del config.quantization_config
    made.server_args.tp_size = 4
    made.spec_algorithm.is_eagle3 = lambda: False
    assert hooks._served(made, WHOLE) == replace(H200, ranks=4, weights="bf16", eagle3=False)


def test_the_stages_of_the_target_and_the_head_that_are_ours() -> None:
    path, model = Fake(stages={"moe", "gdn"}), Fake()
    worker = Fake(draft_worker=Fake(draft_runner=Fake(model=model)))
    assert hooks.fast_stages(None, None) == []
    assert hooks.fast_stages(path, worker) == ["gdn", "moe"]
    model._qwen3next_eagle3_fast_head = Fake(weights=Fake(codes={}))
    assert hooks.fast_stages(path, worker) == ["gdn", "head", "moe"]
    assert hooks.fast_stages(None, worker) == ["head"]
    model._qwen3next_eagle3_fast_head = Fake(weights=Fake(codes={"fc": object()}))
    assert hooks.fast_stages(None, worker) == ["head", "head_w8"]
