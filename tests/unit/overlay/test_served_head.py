"""What a head's config spells, with a stand-in for SGLang's server arguments."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.head.head import AUX_LAYERS_KEY
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay import capture, served_head

SPELLED = "input:0,output:5,output:9"
TARGET = Target({"num_hidden_layers": 12, "full_attention_interval": 4})


def serving(monkeypatch: pytest.MonkeyPatch, head: object, **more: object) -> None:
    module: Any = ModuleType("sglang.srt.runtime_context")
    arguments = SimpleNamespace(
        speculative_draft_model_path=head, speculative_draft_model_revision=None
    )
    module.get_server_args = lambda: arguments
    monkeypatch.setitem(sys.modules, "sglang", ModuleType("sglang"))
    monkeypatch.setitem(sys.modules, "sglang.srt", ModuleType("sglang.srt"))
    monkeypatch.setitem(sys.modules, "sglang.srt.runtime_context", module)


def head(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_key_is_read_from_the_served_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(monkeypatch, str(head(tmp_path, {AUX_LAYERS_KEY: SPELLED})))
    assert served_head.spelled_layers() == SPELLED
    assert served_head.config() == {AUX_LAYERS_KEY: SPELLED}


def test_a_head_without_the_key_or_no_head_spells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(monkeypatch, str(head(tmp_path, {})))
    assert served_head.spelled_layers() is None
    serving(monkeypatch, None)
    assert served_head.spelled_layers() is None
    monkeypatch.delattr(sys.modules["sglang.srt.runtime_context"], "get_server_args")
    assert served_head.spelled_layers() is None


def test_a_head_from_the_hub_is_read_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = head(tmp_path, {AUX_LAYERS_KEY: SPELLED}) / "config.json"
    serving(monkeypatch, "org/head")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: str(config))
    assert served_head.spelled_layers() == SPELLED
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    assert served_head.spelled_layers() is None


@pytest.mark.parametrize(
    ("environment", "spelled", "ids", "chosen"),
    [
        ("fork", SPELLED, [3, 7, 11], "input:3,7,11"),
        (None, SPELLED, [3, 7, 11], SPELLED),
        (None, SPELLED, None, SPELLED),
        (None, None, [2, 6, 10], "output:2,6,10"),
        (None, None, None, "output:3,7,11"),
    ],
)
def test_option_before_spelled_before_ids_before_card(
    environment: str | None, spelled: str | None, ids: list[int] | None, chosen: str
) -> None:
    choose = capture.choose_by(environment, lambda: spelled)
    assert str(choose(TARGET, ids).selection) == chosen
