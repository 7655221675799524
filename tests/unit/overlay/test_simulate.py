import sys
import types
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3 import plugin
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay import contract, environment, simulate
from sglang_qwen3next_eagle3.overlay import hooks as overlay_hooks
from sglang_qwen3next_eagle3.overlay.simulate import OFF, AcceptLength, Steps


def test_what_one_process_writes_another_reads(tmp_path: Path) -> None:
    ours = AcceptLength.create(tmp_path / "number")
    theirs = AcceptLength(tmp_path / "number")
    assert theirs.value == OFF
    ours.value = 2.46
    assert theirs.value == 2.46


@pytest.mark.parametrize("content", [None, b"2.46"])
def test_another_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "number"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="SIMULATE|accept length"):
        AcceptLength(path)


@pytest.mark.parametrize("wanted", [1.0, 1.6, 2.46, 3.0, 7.99])
def test_steps_are_whole_and_their_mean_is_the_number(wanted: float) -> None:
    steps = Steps()
    drawn = [steps.next(wanted) for _ in range(100)]
    assert set(drawn) <= {float(int(wanted)), float(int(wanted) + 1)}
    assert sum(drawn) / 100 == pytest.approx(wanted, abs=0.0101)
    assert abs(sum(drawn[:10]) - 10 * wanted) < 1, "from the beginning, not only in the long run"


def test_real_acceptance_is_handed_on_and_a_new_number_starts_anew() -> None:
    steps = Steps()
    assert steps.next(OFF) == OFF
    assert [steps.next(1.5), steps.next(1.5)] == [1.0, 2.0]
    assert steps.next(1.5) == 1.0
    assert steps.next(2.5) == 2.0, "what 1.5 carried is forgotten"


def test_the_hook_sets_sglang_s_number_before_each_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("sglang.srt.speculative.spec_utils")
    parent = types.ModuleType("sglang.srt.speculative")
    parent.spec_utils = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sglang.srt.speculative", parent)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    shared = AcceptLength.create(tmp_path / "number")
    (hook,) = simulate.hooks(shared)
    seen = []

    def original(word: str) -> str:
        seen.append(vars(module)["SIMULATE_ACC_LEN"])
        return word

    shared.value = 1.5
    assert [hook.replacement(original, "a") for _ in range(2)] == ["a", "a"]
    shared.value = OFF
    hook.replacement(original, "a")
    assert seen == [1.0, 2.0, OFF]


def test_the_plugin_simulates_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[str] = []
    monkeypatch.setenv("SGLANG_QWEN3NEXT_EAGLE3_AUX_LAYERS", "off")
    monkeypatch.setattr(contract, "require", lambda parts: None)
    monkeypatch.setattr(overlay_hooks, "apply", lambda t: applied.extend(h.target for h in t))
    monkeypatch.delenv(environment.SIMULATE, raising=False)
    plugin.register()
    assert applied == []
    AcceptLength.create(tmp_path / "number")
    monkeypatch.setenv(environment.SIMULATE, str(tmp_path / "number"))
    plugin.register()
    assert applied == [simulate.SAMPLE]
    monkeypatch.setenv(environment.SIMULATE, str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match="nothing"):
        plugin.register()
