import pytest

from sglang_qwen3next_eagle3 import plugin
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.overlay import capture, contract, environment, hooks
from sglang_qwen3next_eagle3.overlay.cycle import phases
from sglang_qwen3next_eagle3.overlay.metrics import hooks as metrics
from sglang_qwen3next_eagle3.overlay.requests import hooks as requests
from sglang_qwen3next_eagle3.overlay.seams import hooks as at_seams

WAITING = [hook.target for hook in (*requests.ENTRIES, *metrics.ENTRIES)]
"""What is hooked in every server, and does nothing before a target is known."""


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets of the hooks that would be applied."""
    targets: list[str] = []
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.delenv(environment.CPU_ENGINE, raising=False)
    monkeypatch.delenv(environment.FAST, raising=False)
    monkeypatch.delenv(environment.CYCLE, raising=False)
    monkeypatch.delenv(environment.SEAMS, raising=False)
    manifest = contract.read_manifest("0.5.17")
    monkeypatch.setattr(contract, "require", lambda parts: manifest)
    monkeypatch.setattr(hooks, "apply", lambda table: targets.extend(h.target for h in table))
    return targets


@pytest.fixture
def unsupported(monkeypatch: pytest.MonkeyPatch, applied: list[str]) -> None:
    def refuse(parts: object) -> None:
        raise UserError("SGLang 9.9 is not supported")

    monkeypatch.setattr(contract, "require", refuse)


def test_the_hooks_of_capture_and_those_that_wait_for_the_target_are_applied(
    applied: list[str],
) -> None:
    plugin.register()
    assert applied == [capture.SET_LAYERS, capture.FORWARD, *WAITING]


def test_off_leaves_sglang_alone(applied: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "off")
    plugin.register()
    assert applied == []


def test_cycle_costs_that_cannot_be_read_stop_the_process(
    applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.CYCLE_COSTS, "3,4,8")
    with pytest.raises(SystemExit, match="cannot be read: write the tree"):
        plugin.register()


@pytest.mark.usefixtures("unsupported")
def test_off_does_not_even_look_at_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "off")
    plugin.register()


@pytest.mark.parametrize("value", ["nonsense", "card now", "output:"])
def test_a_selection_that_cannot_be_read_stops_the_process(
    applied: list[str], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, value)
    with pytest.raises(SystemExit, match="cannot be read"):
        plugin.register()
    assert applied == []


@pytest.mark.usefixtures("unsupported")
def test_an_unsupported_release_stops_the_process_that_asked_for_a_selection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "card")
    with pytest.raises(SystemExit, match=r"SGLang 9\.9 is not supported"):
        plugin.register()


@pytest.mark.usefixtures("unsupported")
def test_an_unsupported_release_serves_other_models_and_refuses_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table: list[hooks.Hook] = []
    monkeypatch.setattr(hooks, "apply", table.extend)
    plugin.register()
    assert [hook.target for hook in table] == [capture.SET_LAYERS]
    with pytest.raises(SystemExit, match="not supported"):
        table[0].replacement(lambda *_: None, object())


@pytest.mark.usefixtures("unsupported")
def test_a_release_without_the_symbol_is_left_alone_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def apply(table: object) -> None:
        raise AttributeError("gone")

    monkeypatch.setattr(hooks, "apply", apply)
    plugin.register()
    assert "is not active: SGLang 9.9" in caplog.text


def test_the_fast_path_is_hooked_where_it_is_asked_for(
    applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.FAST, "dense,moe")
    plugin.register()
    assert "sglang.srt.models.qwen3_next:Qwen3HybridLinearDecoderLayer.forward" in applied


@pytest.mark.parametrize("value", ["", "off", None])
def test_without_it_nothing_of_it_is_hooked(
    applied: list[str], monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv(environment.FAST, value)
    plugin.register()
    assert applied == [capture.SET_LAYERS, capture.FORWARD, *WAITING]


def test_an_unknown_stage_stops_the_process(
    applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.FAST, "dense,turbo")
    with pytest.raises(
        SystemExit, match="'turbo' is not one of on, off, auto, require and the stages"
    ):
        plugin.register()


@pytest.mark.usefixtures("applied")
def test_on_another_release_it_is_off_with_a_line_or_refused_where_it_is_required(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def require(parts: list[str]) -> None:
        if parts == ["fast"]:
            raise UserError("SGLang 9.9: something is not what this package hooks")

    monkeypatch.setattr(contract, "require", require)
    monkeypatch.setenv(environment.FAST, "on")
    plugin.register()
    assert "fast path off: SGLang 9.9: something is not what this package hooks" in caplog.text
    monkeypatch.setenv(environment.FAST, "require")
    with pytest.raises(SystemExit, match=r"SGLang 9\.9"):
        plugin.register()


def test_seams_are_hooked_where_they_are_asked_for(
    applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.SEAMS, "requests,commit")
    plugin.register()
    assert applied[-2:] == [at_seams.BROADCAST, at_seams.COMMIT_STEPS]
    monkeypatch.setenv(environment.SEAMS, "turbo")
    with pytest.raises(SystemExit, match="'turbo' is not one of on, off, auto and the seams"):
        plugin.register()


@pytest.mark.parametrize(
    ("asked", "put_in_place"),
    [("requests,commit", [at_seams.LOOP, at_seams.BROADCAST]), ("commit", [at_seams.LOOP])],
)
def test_what_a_release_mended_itself_is_its_own(
    applied: list[str], monkeypatch: pytest.MonkeyPatch, asked: str, put_in_place: list[str]
) -> None:
    manifest = contract.read_manifest("0.5.23")
    monkeypatch.setattr(contract, "require", lambda parts: manifest)
    monkeypatch.setenv(environment.SEAMS, asked)
    plugin.register()
    assert applied == [capture.SET_LAYERS, capture.FORWARD, *WAITING, *put_in_place]


def test_with_another_release_the_seams_are_sglangs_and_a_line_says_so(
    applied: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def require(parts: list[str]) -> None:
        if parts == ["seams"]:
            raise UserError("SGLang 9.9: something is not what this package hooks")

    monkeypatch.setattr(contract, "require", require)
    monkeypatch.setenv(environment.SEAMS, "on")
    plugin.register()
    assert applied == [capture.SET_LAYERS, capture.FORWARD, *WAITING]
    assert "the seams of a cycle are SGLang's: SGLang 9.9" in caplog.text


def test_cycles_are_recorded_where_it_is_asked_for(
    applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.CYCLE, "/somewhere")
    plugin.register()
    assert applied[-1] == phases.ENTRY
    del applied[:]
    monkeypatch.setenv(environment.CYCLE, "")
    plugin.register()
    assert applied == [capture.SET_LAYERS, capture.FORWARD, *WAITING]


def test_with_another_release_no_cycles_are_recorded_and_a_line_says_so(
    applied: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def require(parts: list[str]) -> None:
        if parts == ["cycle"]:
            raise UserError("SGLang 9.9: something is not what this package hooks")

    monkeypatch.setattr(contract, "require", require)
    monkeypatch.setenv(environment.CYCLE, "/somewhere")
    plugin.register()
    assert applied == [capture.SET_LAYERS, capture.FORWARD, *WAITING]
    assert "records no cycles: SGLang 9.9: something is not what" in caplog.text


def test_a_hook_that_does_not_fit_stops_the_process(
    applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SGLang would log anything but SystemExit, and serve without."""

    def fail(table: object) -> None:
        raise AttributeError("module 'x' has no attribute 'y'")

    monkeypatch.setattr(hooks, "apply", fail)
    with pytest.raises(SystemExit, match="does not fit into this SGLang.*no attribute 'y'"):
        plugin.register()


def test_what_nobody_asked_for_is_hooked_and_waits_for_its_proof(
    applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.FAST, "auto,head")
    monkeypatch.setenv(environment.SEAMS, "auto")
    plugin.register()
    assert "sglang.srt.models.qwen3_next:Qwen3HybridLinearDecoderLayer.forward" in applied
    assert at_seams.LOOP in applied
    assert at_seams.COMMIT_STEPS in applied


@pytest.mark.usefixtures("applied")
def test_what_nobody_asked_for_is_left_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def require(parts: list[str]) -> None:
        if parts in (["fast"], ["seams"]):
            raise UserError("SGLang 9.9: something is not what this package hooks")

    monkeypatch.setattr(contract, "require", require)
    monkeypatch.setenv(environment.FAST, "auto")
    monkeypatch.setenv(environment.SEAMS, "auto")
    with caplog.at_level("INFO"):
        plugin.register()
    ours = [record for record in caplog.records if "SGLang 9.9" in record.message]
    assert [record.levelname for record in ours] == ["INFO", "INFO"]
    assert "fast path off: " in ours[0].message
    assert "are SGLang's: " in ours[1].message
