"""model/rope against the configs as the installed SGLang reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.model import rope
from tests.support.ropes import OF_HEADS, OF_TARGETS, OTHERWISE, Case


def read_by_sglang(folder: Path, case: Case, *, draft: bool = False) -> Any:
    """SGLang keeps what it has read of a path: each test has its own."""
    from sglang.srt.configs.model_config import ModelConfig

    pair = demo_pair()
    source = pair.head if draft else pair.target
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    gone = {"rope_parameters", "rope_scaling"}
    kept = {key: value for key, value in config.items() if key not in gone}
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**kept, **case.config}), encoding="utf-8")
    overrides = json.dumps(case.overrides)
    return ModelConfig(str(folder), model_override_args=overrides, is_draft_model=draft)


@pytest.mark.parametrize("case", OF_TARGETS, ids=str)
def test_a_target_s_context_is_the_one_that_sglang_derives(case: Case, tmp_path: Path) -> None:
    read = read_by_sglang(tmp_path, case)
    assert read.context_len == case.context
    said = {**(case.config.get("rope_parameters") or {}), **case.overrides}
    assert read.hf_config.rope_theta == said.get("rope_theta", case.config["rope_theta"])


@pytest.mark.parametrize("case", OTHERWISE, ids=str)
def test_what_is_refused_ends_sglang_or_is_passed_over(case: Case, tmp_path: Path) -> None:
    try:
        config = read_by_sglang(tmp_path, case).hf_config
    except (KeyError, AttributeError):
        return
    said = case.config["rope_parameters"]
    taken = {key: getattr(config, key) for key in ("rope_theta", "partial_rotary_factor")}
    assert config.rope_scaling is None
    assert said["rope_type"] != "default" or any(said.get(k, v) != v for k, v in taken.items())


@pytest.mark.parametrize("case", OF_HEADS, ids=str)
def test_so_is_a_head_s(case: Case, tmp_path: Path) -> None:
    assert read_by_sglang(tmp_path, case, draft=True).context_len == case.context
    assert rope.head_context_length(case.config) == case.context
