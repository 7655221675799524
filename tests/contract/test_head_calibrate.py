"""`head calibrate` as a user runs it, with the demo pair in stock SGLang on the CPU."""

import json
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3 import __main__
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.head import record as aux_record
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.model.target import Target


def test_the_demo_head_is_found_to_read_the_card_s_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    argv = ["head", "calibrate", "--head", "demo", "--device", "cpu", "--json"]
    assert __main__.main([*argv, "--max-prompts", "16", "--max-length", "128"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["aux_layers"] == "card"
    assert data["texts"] == "own answers"
    assert data["prompts"] * 10 < data["answer_tokens"] <= data["prompts"] * 128
    names = {name: row for row in data["candidates"] for name in row["names"]}
    assert names["card"]["accept_length"] > names["fork"]["accept_length"] + 0.03
    assert names["card"]["accept_length"] > data["control"]["accept_length"] + 0.2
    assert not names["fork"]["tied"]
    layers = Target.from_path(demo_pair().target).num_layers
    assert all(len(values) == layers + 1 for values in data["top1_by_stream"]["slots"])
    record = aux_record.find(Folder(demo_pair().head))
    assert record is not None
    assert record.selection == "card"
