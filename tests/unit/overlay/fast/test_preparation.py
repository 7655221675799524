"""Drafts with more tokens than the kernels of few rows have room for: the check at start must not
run them, as with several ranks a kernel that raises there ends the start."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import contract, variants
from sglang_qwen3next_eagle3.overlay.fast import (
    conditions,
    head_check,
    made_up,
    preparation,
    selfcheck,
)
from sglang_qwen3next_eagle3.overlay.fast import ranks as together
from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.dispatch import ROWS
from sglang_qwen3next_eagle3.overlay.fast.proved import SHAPES
from sglang_qwen3next_eagle3.overlay.fast.selfcheck import Deviation
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_TARGET, Stage, Wanted, parse
from sglang_qwen3next_eagle3.overlay.proofs import Proof


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A target that verifies so many tokens."""
    arguments = SimpleNamespace(
        speculative_num_draft_tokens=request.param, load_format="auto", device="cuda", tp_size=1
    )
    monkeypatch.setattr(variants, "arguments_of", lambda _: arguments)
    for name in ("of_device", "of_server", "of_runner", "of_drafts"):
        monkeypatch.setattr(conditions, name, lambda *_: None)
    monkeypatch.setattr(together, "of_all", lambda own: [own])
    monkeypatch.setattr(together, "several", lambda: False)
    for name in ("target_room", "draft_room"):
        monkeypatch.setattr(preparation, name, lambda _: made_up.Room(64, 4096, 4096))
    monkeypatch.setattr(preparation, "Kernels", lambda *_: None)
    monkeypatch.setattr(preparation, "too_little", lambda *_: None)
    monkeypatch.setattr(together, "first_reason", lambda reason: reason)
    monkeypatch.setattr(preparation, "build", lambda runner, kernels, stages: stages)
    model = SimpleNamespace(model=None, config=SimpleNamespace(**SHAPES))
    return SimpleNamespace(
        spec_algorithm=SimpleNamespace(is_eagle=lambda: True), device="cuda", attn_backend=None,
        model=model, draft_runner=None,
        target_worker=SimpleNamespace(model_runner=SimpleNamespace(model=model)),
        speculative_num_draft_tokens=request.param,
    )  # fmt: skip


@pytest.mark.parametrize("nodes", [None, 1, 8, 16, 17, 32])
def test_requests_that_are_made_up_fit_into_the_kernels(nodes: int | None) -> None:
    roomy = made_up.Room(64, 4096, 4096)
    requests = len(made_up.fitting(roomy, nodes))
    assert 1 <= requests * (nodes or 1) <= MAX_ROWS
    assert requests == (1 if (nodes or 1) > 16 else 2)
    assert len(made_up.fitting(roomy._replace(requests=1), nodes)) == 1


@pytest.mark.parametrize("nodes", [None, 4, 8])
@pytest.mark.parametrize("places", [2, 5, 9, 10, 20, 100, 280, 400])
@pytest.mark.parametrize("width", [4, 9, 40, 200])
def test_requests_that_are_made_up_fit_into_the_pools(
    nodes: int | None, places: int, width: int
) -> None:
    """An index behind the last place is an assert on a GPU, after which nothing can be served."""
    room, new = made_up.Room(8, places, width), nodes or 1
    lengths = made_up.fitting(room, nodes)
    assert bool(lengths) == (new < width and new < places - 1)
    assert (made_up.no_room(room, nodes) is None) == bool(lengths)
    if lengths:
        assert min(lengths) >= 1
        assert max(lengths) + new <= width
        assert len(lengths) * (max(lengths) + new) <= places - 1


def failing(*_: Any) -> Any:
    raise AttributeError("'X' has no attribute 'y'\nof another release")


@pytest.mark.parametrize("runner", [4], indirect=True)
@pytest.mark.parametrize("asked", ["auto,head", "on,head"])
@pytest.mark.parametrize("where", ["of_server", "of_runner", "target_room", "build", "settle"])
def test_whatever_is_wrong_with_ours_ends_no_server(
    runner: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    asked: str, where: str,
) -> None:  # fmt: skip
    """And who did not ask for it reads one line of information."""
    owner = {"build": preparation, "target_room": preparation, "settle": selfcheck}
    monkeypatch.setattr(selfcheck, "differing", lambda *_: [])
    monkeypatch.setattr(owner.get(where, conditions), where, failing)
    monkeypatch.setattr(conditions, "of_proofs", lambda wanted, *_: (wanted, None))
    wanted = parse(asked)
    assert wanted is not None
    if not wanted.auto and where == "settle":
        with pytest.raises(AttributeError):
            preparation.prepare(runner, wanted)
        return
    with caplog.at_level(logging.INFO):
        assert preparation.prepare(runner, wanted) is None
    said = "fast path off: AttributeError: 'X' has no attribute 'y' of another release"
    assert caplog.messages[-1].endswith(said)
    if wanted.auto:
        (record,) = caplog.records
        assert (record.levelno, record.exc_info) == (logging.INFO, None)


@pytest.mark.parametrize("runner", [4], indirect=True)
def test_of_a_server_that_auto_leaves_alone_nothing_else_is_read(
    runner: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("of_server", "of_runner", "of_drafts"):
        monkeypatch.setattr(conditions, name, lambda *_: pytest.fail("it was read"))
    monkeypatch.setattr(conditions, "of_proofs", lambda wanted, *_: (wanted, "not proved"))
    wanted = parse("auto,head")
    assert wanted is not None
    with caplog.at_level(logging.INFO):
        assert preparation.prepare(runner, wanted) is None
        assert preparation.prepare_head(runner, wanted) is None
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 2
    assert all("not proved" in message for message in caplog.messages)


@pytest.mark.parametrize("runner", [4], indirect=True)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("asked", ["auto,head", "on,head"])
def test_a_head_whose_preparation_fails_ends_no_server(
    runner: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    several: bool, asked: str,
) -> None:  # fmt: skip
    """With several ranks the others are in sums that this one has left."""
    monkeypatch.setattr(together, "several", lambda: several)
    monkeypatch.setattr(conditions, "of_proofs", lambda wanted, *_: (wanted, None))
    monkeypatch.setattr(preparation, "build_head", lambda *_, **__: None)
    monkeypatch.setattr(head_check, "compare", failing)
    wanted = parse(asked)
    assert wanted is not None
    if several:
        with pytest.raises(AttributeError):
            preparation.prepare_head(runner, wanted)
        return
    with caplog.at_level(logging.INFO):
        assert preparation.prepare_head(runner, wanted) is None
    assert "head stays with stock: AttributeError: 'X' has no" in caplog.messages[-1]
    assert (len(caplog.records) == 1) == wanted.auto


class Head:
    def __init__(self, rounded: bool) -> None:
        self.rounded, self.weights = rounded, SimpleNamespace(extra_bytes=int(rounded))


@pytest.mark.parametrize("runner", [4], indirect=True)
@pytest.mark.parametrize("how", ["off", "raises", "unknown"])
@pytest.mark.parametrize("other", [False, True], ids=["head right", "head wrong"])
@pytest.mark.parametrize("required", [False, True])
def test_a_head_whose_rounding_fails_is_ours_without_it(
    runner: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    how: str, other: bool, required: bool,
) -> None:  # fmt: skip
    def build(worker: Any, *, rounded: bool) -> Head:
        if rounded and how == "unknown":
            raise conditions.Unsupported("head", "no codes for it")
        return Head(rounded)

    def compare(head: Head, worker: Any) -> list[Deviation]:
        if head.rounded and how == "raises":
            raise MemoryError("no room for codes")
        bad = head.rounded or other
        return [Deviation(-1, "head_w8" if head.rounded else "head", "logits")] if bad else []

    monkeypatch.setattr(preparation, "build_head", build)
    monkeypatch.setattr(head_check, "compare", compare)
    wanted = Wanted(frozenset({"head", "head_w8"}), required=required)
    if required:
        with pytest.raises(SystemExit, match="head stays with stock, but it is required"):
            preparation.prepare_head(runner, wanted)
        return
    head: Any = preparation.prepare_head(runner, wanted)
    assert any("head_w8 stays off: " in message for message in caplog.messages)
    if other:
        assert head is None
        assert "head stays with stock: it differs" in caplog.messages[-1]
    else:
        assert not head.rounded


@pytest.mark.parametrize("runner", [8, 9, 32, 33, 128], indirect=True)
@pytest.mark.parametrize("auto", [False, True])
def test_stages_that_never_serve_are_not_checked(
    runner: Any, caplog: pytest.LogCaptureFixture, auto: bool
) -> None:
    tokens = runner.speculative_num_draft_tokens
    with caplog.at_level(logging.INFO):
        built: Any = preparation._unchecked(runner, Wanted(frozenset(OF_TARGET), auto=auto))
    assert built == {stage for stage in OF_TARGET if tokens <= ROWS[stage]}
    assert built >= {"gdn", "attention"}
    assert ("lm_head" in built) == (tokens <= 8)
    line = f"lm_head stays with stock: it serves up to 8 rows, the smallest pass has {tokens}"
    assert (line in caplog.text) == (tokens > 8)
    levels = {record.levelno for record in caplog.records}
    assert levels <= {logging.INFO if auto else logging.WARNING}


@pytest.mark.parametrize("runner", [8, 9, 33], indirect=True)
@pytest.mark.parametrize("lost", [None, "gdn", "lm_head"])
def test_what_is_required_is_what_can_serve(
    runner: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lost: Any
) -> None:
    """`lm_head` never serves with more than 8 draft tokens: nobody waits for it."""

    def build(runner: Any, kernels: Any, stages: frozenset[Stage]) -> Any:
        return SimpleNamespace(stages=stages - {lost}, layers={}, most=lambda _: 8)

    monkeypatch.setattr(preparation, "build", build)
    monkeypatch.setattr(selfcheck, "differing", lambda *_: [])
    monkeypatch.setattr(selfcheck, "settle", lambda *_: [])
    runner.model.model = SimpleNamespace(layers=[])
    tokens = runner.speculative_num_draft_tokens
    wanted = parse("require")
    assert wanted is not None
    if lost == "gdn" or (lost == "lm_head" and tokens == 8):
        with pytest.raises(SystemExit, match=f"{lost} stay with stock, but it is required"):
            preparation.prepare(runner, wanted)
        return
    path = preparation.prepare(runner, wanted)
    assert path is not None
    assert path.stages == {stage for stage in OF_TARGET if tokens <= ROWS[stage]}
    assert ("lm_head stays with stock: it serves up to 8 rows" in caplog.text) == (tokens > 8)


@pytest.mark.parametrize("runner", [8], indirect=True)
def test_the_smallest_pass_is_of_the_smallest_batch(runner: Any) -> None:
    variants.arguments_of(runner).cuda_graph_config = SimpleNamespace(
        decode=SimpleNamespace(bs=[8, 4, 16])
    )
    runner.req_to_token_pool = SimpleNamespace(size=12)
    assert made_up.captured(runner) == (4, 12)
    built: Any = preparation._unchecked(runner, Wanted(frozenset(OF_TARGET)))
    assert "lm_head" not in built
    assert "dense" in built


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


NOT_PROVED = {
    ("0.5.17", (9, 0), 1): None,
    ("0.5.23", (9, 0), 1): "not proved with SGLang 0.5.23",
    ("0.5.17", (9, 0), 2): "not proved with TP 2",
    ("0.5.17", (8, 9), 1): "not proved on GPUs of compute capability 8.9",
}


@pytest.mark.parametrize("runner", [4], indirect=True)
@pytest.mark.parametrize("where", NOT_PROVED)
@pytest.mark.parametrize("asked", ["auto", "auto,head", "on,head", "dense", "require"])
def test_auto_is_what_was_proved_where_it_was(
    runner: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: tuple[str, tuple[int, int], int],
    asked: str,
) -> None:
    release, capability, ranks = where
    proof = Proof("0.5.17", (9, 0), 1, ("dense", "gdn", "head"))
    monkeypatch.setattr(conditions, "PROVED", (proof,))
    monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed(release, Path()))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    variants.arguments_of(runner).tp_size = ranks
    began: list[Any] = []

    def begin(step: Any, quiet: bool) -> tuple[None, str]:
        """What comes behind the conditions is not asked about here."""
        began.append(step)
        return None, "it goes no further"

    monkeypatch.setattr(together, "first_failure", begin)
    wanted = parse(asked)
    assert wanted is not None
    with caplog.at_level(logging.INFO):
        if wanted.required:
            with pytest.raises(SystemExit, match="it goes no further"):
                preparation.prepare(runner, wanted)
        else:
            assert preparation.prepare(runner, wanted) is None
    reason = NOT_PROVED[where] if wanted.auto else None
    (record,) = caplog.records if not wanted.required else [None]
    if record is not None:
        said = reason or "it goes no further"
        assert record.message == f"sglang-qwen3next-eagle3: fast path off: {said}"
        assert record.levelno == (logging.INFO if wanted.auto else logging.WARNING)
    assert bool(began) == (reason is None)
    left, why = conditions.of_proofs(wanted, variants.arguments_of(runner), runner.model.config)
    assert why == reason
    if not wanted.auto:
        assert left == wanted, "what is asked for is tried anywhere"
    elif reason is None:
        assert left.stages == {"dense", "gdn", *({"head"} & wanted.stages)}


@pytest.mark.parametrize("runner", [4], indirect=True)
@pytest.mark.parametrize("asked", ["auto", "on"])
def test_auto_is_for_the_published_shapes(
    runner: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(together, "first_failure", lambda *_: (None, "no further"))
    monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed("0.5.17", Path()))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    runner.model.config.num_experts = 8
    wanted = parse(asked)
    assert wanted is not None
    with caplog.at_level(logging.INFO):
        assert preparation.prepare(runner, wanted) is None
    assert ("not proved with a num_experts of 8" in caplog.text) == wanted.auto


@pytest.mark.parametrize("runner", [4], indirect=True)
@pytest.mark.parametrize("names", [(), ("dense",), ("dense", "head")])
def test_a_head_that_nobody_asked_for_is_ours_where_that_was_proved(
    runner: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    names: tuple[str, ...],
) -> None:
    monkeypatch.setattr(conditions, "PROVED", (Proof("0.5.17", (9, 0), 1, names),))
    monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed("0.5.17", Path()))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(together, "first_failure", lambda *_: (None, "it goes no further"))
    wanted = parse("auto,head")
    assert wanted is not None
    with caplog.at_level(logging.INFO):
        assert preparation.prepare_head(runner, wanted) is None
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert ("it goes no further" in record.message) == ("head" in names)


@pytest.mark.parametrize("runner", [4], indirect=True)
@pytest.mark.parametrize(
    ("several", "stages", "said"),
    [
        (False, {"moe", "allreduce"}, "it adds up what several GPUs have, and this server has one"),
        (True, {"dense", "allreduce"}, "it is for sums around experts that are ours, and moe is"),
        (True, {"moe", "allreduce"}, None),
        (False, {"moe"}, None),
    ],
)
def test_sums_that_cannot_be_ours_are_a_line(
    runner: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    several: bool,
    stages: set[Stage],
    said: str | None,
) -> None:
    """Of an environment, which a launch does not look into."""
    opened: list[Any] = []
    monkeypatch.setattr(together, "several", lambda: several)
    monkeypatch.setattr(together, "first_failure", lambda step, quiet: (step(), None))
    monkeypatch.setattr(preparation, "_open_peers", lambda path, runner: opened.append(path))
    monkeypatch.setattr(selfcheck, "differing", lambda *_: [])
    monkeypatch.setattr(selfcheck, "settle", lambda *_: [])
    monkeypatch.setattr(
        preparation, "build",
        lambda *_: SimpleNamespace(stages=frozenset({"moe"}), layers={}, most=lambda _: 8),
    )  # fmt: skip
    runner.model.model = SimpleNamespace(layers=[])
    assert preparation.prepare(runner, Wanted(frozenset(stages))) is not None
    assert bool(opened) == (several and stages == {"moe", "allreduce"})
    lines = [line for line in caplog.messages if "allreduce stays with stock: " in line]
    assert [said in line for line in lines] == ([True] if said else [])
