"""SGLang's updates of weights, in either release, come by where ours is renewed, once the target
and the draft have theirs."""

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.fast import hooks, updates
from sglang_qwen3next_eagle3.overlay.fast.stages import STAGES, Wanted
from sglang_qwen3next_eagle3.overlay.hooks import wrap


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called, in its order, with the hooks of the installed release in place."""
    from sglang.srt.managers.scheduler_components import weight_updater

    found: list[str] = []
    monkeypatch.setattr(updates.Updates, "renew", lambda own: found.append("renewed"))
    installed = contract.installed_sglang()
    assert installed is not None
    listed = contract.read_manifest(installed.release).hooked("fast")
    manager = weight_updater.SchedulerWeightUpdaterManager
    for hook in hooks.hooks(Wanted(frozenset(STAGES))):
        if hook.target in listed and hook.module == weight_updater.__name__:
            name = hook.qualname.rpartition(".")[2]
            monkeypatch.setattr(manager, name, wrap(getattr(manager, name), hook))
    return found


def made(calls: list[str]) -> Any:
    """SGLang's own manager, with workers that say what they are asked for."""
    from sglang.srt.managers.scheduler_components import weight_updater

    def updating(name: str) -> Any:
        def update(*args: Any, **kwargs: Any) -> tuple[bool, str]:
            calls.append(name)
            return True, ""

        updater = SimpleNamespace(
            update_weights_from_disk=update, end_weight_update=update, begin_weight_update=update
        )
        runner = SimpleNamespace(weight_updater=updater)
        # By the names of 0.5.17 and of 0.5.23.
        return SimpleNamespace(
            update_weights_from_disk=update, weight_update_runners=lambda: [(name, runner)]
        )

    def flush_cache(**_: Any) -> bool:
        calls.append("flushed")
        return True

    kind = weight_updater.SchedulerWeightUpdaterManager
    manager = kind.__new__(kind)
    values: dict[str, Any] = {
        "tp_worker": updating("target"), "draft_worker": updating("draft"),
        "flush_cache": flush_cache, "metrics_collector": None, "tp_cpu_group": None,
        "scheduler": SimpleNamespace(record_weight_version_change=lambda **_: None),
        "_session": None,
    }  # fmt: skip
    for name, value in values.items():
        if name in kind.__dataclass_fields__:
            setattr(manager, name, value)
    return manager


def test_an_update_from_disk_renews_what_was_derived(calls: list[str]) -> None:
    from sglang.srt.managers.io_struct import UpdateWeightFromDiskReqInput

    asked = UpdateWeightFromDiskReqInput(model_path="elsewhere", flush_cache=True)
    assert made(calls).update_weights_from_disk(asked).success
    assert calls == ["target", "draft", "renewed", "flushed"]


def test_the_end_of_a_session_renews_what_was_derived(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that others wrote are made ready there. 0.5.17 has no sessions."""
    from sglang.srt.managers.scheduler_components import weight_updater

    manager = made(calls)
    if not hasattr(manager, "end_weight_update"):
        assert not hasattr(weight_updater, "_WeightUpdateSession")
        return
    monkeypatch.setattr(weight_updater.torch.distributed, "barrier", lambda group: None)
    manager.begin_weight_update(SimpleNamespace(selector="all"))
    assert calls == ["target", "draft"]
    calls.clear()
    assert manager.end_weight_update(SimpleNamespace()).success
    assert calls == ["target", "draft", "renewed"]
